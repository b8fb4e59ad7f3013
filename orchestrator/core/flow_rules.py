"""Renders the chains of `core.firewall` by which flows keep to a tunnel.

1. Endpoint: what leaves for a virtual address, and is of a class, gets the mark of that class;
   the kernel then looks for its policy anew (`class_chains`). What has a mark of somebody, and
   what the daemon says to the service, stays as it is.
2. Server: a connection whose packets come out of a tunnel that carries flows gets that tunnel's
   mark; one whose packets come out of another has none (`NOTED`). Which tunnels carry
   flows is in a map that comes and goes (`CARRYING`).
3. Server: what goes back to a virtual address gets the mark of its connection, whether it is
   forwarded or from the server itself, the connection proxy above all (`REFLECT_FORWARDED`,
   `reflection_chains`). Without a policy for it the mark chooses nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from orchestrator.core.flow_class import FlowClass, Protocol
from orchestrator.core.kernel import LARGEST_COPY, MARK_COPIES, MARK_FLOWS, MARK_MASK, SLOTS
from orchestrator.core.quantities import IPAddress, Spi

CARRYING: Final = "carrying"
"""The map of a server from inbound SPIs to chains that give their tunnel's mark."""
_ALL_PROTOCOLS: Final = "{ tcp, udp }"
_TO: Final = {4: "ip daddr", 6: "ip6 daddr"}
_FROM: Final = {4: "ip saddr", 6: "ip6 saddr"}
_IS_OURS: Final = f"ct mark & {MARK_MASK:#010x} == {MARK_FLOWS:#010x}"
NOTED: Final = """\
        iifname @underlay {arrived} ip daddr != @pool4 jump note_tunnel
        iifname @underlay {arrived} ip6 daddr != @pool6 jump note_tunnel
"""
"""What goes from one endpoint to another has two tunnels, and is left alone."""
DELIVERED: Final = f"""\
        iifname {{tun}} meta l4proto udp ct mark set {MARK_COPIES:#010x} \
meta mark set {MARK_COPIES:#010x}
"""
"""What the daemon writes into the TUN was sent twice by its endpoint: so is what answers it."""
_TOO_LARGE: Final = f"ct mark {MARK_COPIES:#010x} meta length > {LARGEST_COPY} accept"
REFLECT_FORWARDED: Final = f"""\
        {_TOO_LARGE}
        meta mark 0 ip daddr @pool4 {_IS_OURS} meta mark set ct mark
        meta mark 0 ip6 daddr @pool6 {_IS_OURS} meta mark set ct mark
"""


def flows_mark(number: int) -> int:
    """Of a class at the endpoint, of the tunnel in a slot at the server."""
    return MARK_FLOWS | number


def carrying_element(spi: Spi, slot: int) -> str:
    """Of the map CARRYING."""
    return f"{spi:#010x} : goto flows_{slot}"


def class_chains(flows: Sequence[FlowClass], services: Iterable[IPAddress]) -> str:
    """Those that use the sets of the endpoint's virtual addresses; none without flows."""
    if not flows:
        return ""
    rules = "".join(
        f"        {match} meta mark set {flows_mark(number):#010x} return\n"
        for number, each in enumerate(flows)
        for match in map(_within(each), _matches(each))
    )
    kept = "".join(f"        {_TO[each.version]} {each} return\n" for each in services)
    return f"""\
    chain binding {{
        comment "flows of a class may take a tunnel of their own"
        type route hook output priority mangle; policy accept;
        meta mark 0 ip saddr @vip4 goto classes
        meta mark 0 ip6 saddr @vip6 goto classes
    }}

    chain classes {{
{kept}{rules}    }}

"""


def _within(flows: FlowClass) -> Callable[[str], str]:
    """Of a redundant class is what can be sent twice."""
    size = f" meta length <= {LARGEST_COPY}" if flows.redundant else ""
    return lambda match: match + size


def _matches(flows: FlowClass) -> Iterator[str]:
    """One for each rule that it takes."""
    protocol = "" if flows.protocol is Protocol.ANY else f"meta l4proto {flows.protocol}"
    if flows.ports and not protocol:
        protocol = f"meta l4proto {_ALL_PROTOCOLS}"
    listed = ", ".join(map(str, flows.ports))
    ends = [f"th {end} {{ {listed} }}" for end in ("dport", "sport")] if listed else [""]
    for packets in _packets(flows):
        for end in ends:
            yield " ".join(part for part in (protocol, packets, end) if part)


def _packets(flows: FlowClass) -> Iterator[str]:
    """What their IP header has to say, for each family of which something is said."""
    for version, name in ((4, "ip"), (6, "ip6")):
        to = [str(each) for each in flows.destinations if each.version == version]
        if flows.destinations and not to:
            continue
        if not to and flows.dscp is None:
            yield ""
            return
        said = f"{_TO[version]} {{ {', '.join(to)} }}" if to else ""
        if flows.dscp is not None:
            said = f"{said} {name} dscp {flows.dscp:#04x}".strip()
        yield said


def reflection_chains(services: Sequence[IPAddress]) -> str:
    """What a server has for flows, beside the lines in the chain of what arrives."""
    slots = "".join(
        f"""
    chain flows_{slot} {{
        ct mark set {flows_mark(slot):#010x}
    }}
"""
        for slot in range(SLOTS)
    )
    kept = "".join(f"        {_FROM[each.version]} {each} accept\n" for each in services)
    return f"""
    map {CARRYING} {{
        comment "tunnels that carry flows of their own"
        typeof ipsec in spi : verdict
    }}
{slots}
    chain note_tunnel {{
        comment "a connection belongs to the tunnel that its packets came out of"
        ipsec in spi vmap @{CARRYING}
        {_IS_OURS} ct mark set 0
    }}

    chain reflected {{
        comment "of the server itself, such as the proxy's: back into that tunnel"
        type route hook output priority mangle; policy accept;
        meta mark != 0 accept
        {_TOO_LARGE}
{kept}        ip daddr @pool4 {_IS_OURS} meta mark set ct mark
        ip6 daddr @pool6 {_IS_OURS} meta mark set ct mark
    }}
"""
