"""Renders the nftables table `inet orchestrator` of an endpoint, and of a server.

1. The text depends on the arguments alone: same arguments, same bytes.
2. It is whole: loading it replaces whatever the table held (`adapters.nftables`).
3. What crosses the underlay for a virtual address is protected, in both directions, whatever
   routes and policies say. This is the second lock; XFRM policies and routing are the first.
4. Every drop has a named counter, for `nft list counters` and for tests.

What "came out of an SA" and "leaves into one" mean to nft is a `TunnelMatch`, so that a kernel
without ESP can try everything else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Network,
    IPv6Network,
    collapse_addresses,
)
from typing import Final

from orchestrator.core.flow_rules import DELIVERED, NOTED, REFLECT_FORWARDED, reflection_chains
from orchestrator.core.kernel import MARK_MASK, MARK_TPROXY, NFT_TABLE, TUN_SERVER
from orchestrator.core.quantities import IPAddress, IPNetwork, host_network


class EndpointCounter(StrEnum):
    LEAK_STOPPED = "leak_stopped"
    """a packet of the VIP that would have left unprotected"""
    CLEAR_DROPPED = "clear_dropped"
    """a packet for the VIP, or claiming to be from it, that came unprotected"""


class ServerCounter(StrEnum):
    IKE = "ike_accepted"
    ESP = "esp_accepted"
    UNDERLAY_DROPPED = "underlay_dropped"
    """from the underlay to the server: neither IKE, ESP, nor an answer"""
    FORWARD_DROPPED = "forward_dropped"
    """from the underlay to elsewhere, or to a VIP, without an SA"""
    SPOOFED = "spoofed"
    """a VIP or the service as source without an SA, or an SA without a VIP as source"""
    TUNNEL_DROPPED = "tunnel_dropped"
    """out of an SA to a service of the server that endpoints may not use"""
    UNPROXIED_TCP = "unproxied_tcp"
    """TCP of a VIP while the connection proxy was not there; its sender tries again"""
    LEAK_STOPPED = "leak_stopped"
    """a packet of a VIP that would have left unprotected"""


@dataclass(frozen=True, slots=True)
class TunnelMatch:
    """nft expressions for what belongs to the tunnel."""

    arrived: str = "meta ipsec exists"
    unprotected: str = "meta ipsec missing"
    leaves: str = "rt ipsec exists"
    """In postrouting, where the packet has not been encrypted yet."""
    tells_apart: bool = True
    """Whether `ipsec in spi` is that of the SA by which a packet arrived."""


SECPATH: Final = TunnelMatch()


def tunnel_interface(name: str) -> TunnelMatch:
    """A tunnel that is an interface: for kernels without ESP."""
    quoted = _quoted(name)
    return TunnelMatch(
        f"iifname {quoted}", f"iifname != {quoted}", f"oifname {quoted}", tells_apart=False
    )


@dataclass(frozen=True, slots=True)
class ProxyPorts:
    """Where the connection proxy listens on 127.0.0.1 and ::1, by where the SYN came from."""

    from_endpoints: int
    to_endpoints: int


HIDDEN_ECHOES: Final = "hidden_echoes"
"""The set of an endpoint's protocols whose echoes are hidden: `ECHOING`, or none. What is in it
comes and goes with outages (`core.echoes`), and is no part of the ruleset."""
ECHOING: Final = frozenset({"tcp"})
ECHO_RATE: Final = "50/second burst 100 packets"
"""Ping is a tool, not a load: what a person or a monitor sends, and no more."""


def endpoint_ruleset(
    vips: Iterable[IPAddress],
    tun: str,
    tunnel: TunnelMatch = SECPATH,
    further: str = "",
) -> str:
    """The leak guard of an endpoint: its VIPs use the TUN, loopback and IPsec, nothing else.

    `further` are chains that use the sets of VIPs (`core.flow_rules`)."""
    own = _Networks([host_network(vip) for vip in vips], "vip")
    exempt = f'{{ "lo", {_quoted(tun)} }}'
    clear, leak = EndpointCounter.CLEAR_DROPPED, EndpointCounter.LEAK_STOPPED
    return f"""\
table inet {NFT_TABLE} {{
    comment "orchestrator: endpoint"
{_counters(EndpointCounter)}
{own.sets()}
    set {HIDDEN_ECHOES} {{
        comment "TCP, while what it echoes is from before an outage"
        type inet_proto
    }}

    chain arriving {{
        comment "for a VIP, or claiming to be from one: only out of an SA"
        type filter hook prerouting priority mangle; policy accept;
        iifname {exempt} accept
        {tunnel.arrived} goto tunnelled
        ip daddr @vip4 counter name {clear} drop
        ip saddr @vip4 counter name {clear} drop
        ip6 daddr @vip6 counter name {clear} drop
        ip6 saddr @vip6 counter name {clear} drop
    }}

    chain leaving {{
        comment "last of all, after any address translation: what would really leave"
        type filter hook postrouting priority 300; policy accept;
        oifname {exempt} accept
        {tunnel.leaves} goto tunnelled
        ip saddr @vip4 counter name {leak} drop
        ip daddr @vip4 counter name {leak} drop
        ip6 saddr @vip6 counter name {leak} drop
        ip6 daddr @vip6 counter name {leak} drop
    }}

{further}\
    chain tunnelled {{
        meta l4proto @{HIDDEN_ECHOES} goto hide_echo
    }}

    chain hide_echo {{
        comment "zero is no echo: no round trip is measured by it"
        ip saddr @vip4 tcp option timestamp tsecr set 0
        ip daddr @vip4 tcp option timestamp tsecr set 0
        ip6 saddr @vip6 tcp option timestamp tsecr set 0
        ip6 daddr @vip6 tcp option timestamp tsecr set 0
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class ServerFirewall:
    """What the ruleset of a server depends on."""

    underlay: Sequence[str]
    """Interfaces that the internet is on; all others are the LAN, and left alone."""
    pools: Sequence[IPNetwork]
    service_port: int
    """UDP, where the server answers at `services`."""
    proxy: ProxyPorts | None
    """None: TCP is forwarded like everything else."""
    services: Sequence[IPAddress] = ()
    """Where the server answers inside the tunnel."""
    management_ports: Sequence[int] = ()
    """TCP ports of the server that are reachable from the underlay and from endpoints. None by
    default: a gateway is administered from its LAN side, and a forgotten port is a hole."""
    tun: str = TUN_SERVER
    tunnel: TunnelMatch = SECPATH


def server_ruleset(wanted: ServerFirewall) -> str:
    """The firewall, the interception and the leak guard of a mobility server."""
    pools = _Networks(wanted.pools, "pool")
    services = _Networks([host_network(address) for address in wanted.services], "service")
    underlay = ", ".join(_quoted(name) for name in sorted(set(wanted.underlay)))
    ports = ", ".join(str(port) for port in sorted(set(wanted.management_ports)))
    count, tunnel = ServerCounter, wanted.tunnel
    intercept = "" if wanted.proxy is None else _intercept_chains(wanted.proxy)
    jump = "" if wanted.proxy is None else _INTERCEPT_JUMPS.format(arrived=tunnel.arrived)
    refuse = "" if wanted.proxy is None else _UNPROXIED
    reflects = tunnel.tells_apart
    noted = NOTED.format(arrived=tunnel.arrived) if reflects else ""
    reflected = REFLECT_FORWARDED if reflects else ""
    delivered = DELIVERED.format(tun=_quoted(wanted.tun)) if reflects else ""
    return f"""\
table inet {NFT_TABLE} {{
    comment "orchestrator: mobility server"
{_counters(ServerCounter)}
{pools.sets()}
{services.sets()}
    set underlay {{
        type ifname
{_elements(underlay)}    }}

    set management {{
        comment "TCP ports the operator opened"
        type inet_service
{_elements(ports)}    }}
{intercept}
    chain arriving {{
        comment "a VIP and an SA go together, the service is this host; TCP goes to the proxy"
        type filter hook prerouting priority mangle; policy accept;
{delivered}        iifname {{ "lo", {_quoted(wanted.tun)} }} accept
        {tunnel.unprotected} ip saddr @pool4 counter name {count.SPOOFED} drop
        {tunnel.unprotected} ip6 saddr @pool6 counter name {count.SPOOFED} drop
        {tunnel.unprotected} ip saddr @service4 counter name {count.SPOOFED} drop
        {tunnel.unprotected} ip6 saddr @service6 counter name {count.SPOOFED} drop
        iifname @underlay {tunnel.arrived} ip saddr != @pool4 counter name {count.SPOOFED} drop
        iifname @underlay {tunnel.arrived} ip6 saddr != @pool6 counter name {count.SPOOFED} drop
        iifname @underlay {tunnel.unprotected} ip daddr @pool4 \
counter name {count.FORWARD_DROPPED} drop
        iifname @underlay {tunnel.unprotected} ip6 daddr @pool6 \
counter name {count.FORWARD_DROPPED} drop
{noted}{jump}{reflected}    }}
{reflection_chains(wanted.services) if reflects else ""}\

    chain untracked_in {{
        comment "a flood of IKE must not fill the table of connections"
        type filter hook prerouting priority raw; policy accept;
        iifname @underlay udp dport {{ 500, 4500 }} notrack
        iifname @underlay meta l4proto esp notrack
    }}

    chain untracked_out {{
        type filter hook output priority raw; policy accept;
        oifname @underlay udp sport {{ 500, 4500 }} notrack
        oifname @underlay meta l4proto esp notrack
    }}

    chain delivered {{
        type filter hook input priority filter; policy accept;
        iifname != @underlay accept
        {tunnel.arrived} goto from_endpoints
        goto from_underlay
    }}

    chain from_endpoints {{
        comment "to the server itself, out of an SA"
        meta mark & {MARK_MASK:#010x} == {MARK_TPROXY:#010x} accept
        udp dport {wanted.service_port} ip daddr @service4 accept
        udp dport {wanted.service_port} ip6 daddr @service6 accept
        jump icmp_needed
        ct state established,related accept
        tcp dport @management accept
        counter name {count.TUNNEL_DROPPED} drop
    }}

    chain from_underlay {{
        comment "to the server itself, from anybody"
        udp dport {{ 500, 4500 }} counter name {count.IKE} accept
        meta l4proto esp counter name {count.ESP} accept
        ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept \
comment "DHCPv6: the request was multicast, so that no connection is known"
        jump icmp_needed
        ct state established,related accept
        tcp dport @management accept
        counter name {count.UNDERLAY_DROPPED} drop
    }}

    chain icmp_needed {{
        comment "path MTU, neighbours, and ping at a human pace"
        icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
        icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, \
parameter-problem, mld-listener-query }} accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }} \
ip6 hoplimit 255 accept
        icmp type echo-request limit rate {ECHO_RATE} accept
        icmpv6 type echo-request limit rate {ECHO_RATE} accept
    }}

    chain forwarded {{
        type filter hook forward priority filter; policy accept;
        iifname @underlay {tunnel.unprotected} counter name {count.FORWARD_DROPPED} drop
{refuse}    }}

    chain leaving {{
        comment "last of all, after any address translation: what would really leave"
        type filter hook postrouting priority 300; policy accept;
        oifname != @underlay accept
        {tunnel.leaves} accept
        ip saddr @pool4 counter name {count.LEAK_STOPPED} drop
        ip daddr @pool4 counter name {count.LEAK_STOPPED} drop
        ip6 saddr @pool6 counter name {count.LEAK_STOPPED} drop
        ip6 daddr @pool6 counter name {count.LEAK_STOPPED} drop
    }}
}}
"""


_INTERCEPT_JUMPS: Final = """\
        {arrived} ip saddr @pool4 meta l4proto tcp goto tcp_from_endpoints
        {arrived} ip6 saddr @pool6 meta l4proto tcp goto tcp_from_endpoints
        ip daddr @pool4 meta l4proto tcp goto tcp_to_endpoints
        ip6 daddr @pool6 meta l4proto tcp goto tcp_to_endpoints
"""

_UNPROXIED: Final = f"""\
        meta l4proto tcp ip saddr @pool4 counter name {ServerCounter.UNPROXIED_TCP} drop
        meta l4proto tcp ip daddr @pool4 counter name {ServerCounter.UNPROXIED_TCP} drop
        meta l4proto tcp ip6 saddr @pool6 counter name {ServerCounter.UNPROXIED_TCP} drop
        meta l4proto tcp ip6 daddr @pool6 counter name {ServerCounter.UNPROXIED_TCP} drop
"""


def _intercept_chains(ports: ProxyPorts) -> str:
    # A SYN is kept out of the short cut for sockets that exist: one that meets TIME_WAIT would
    # go to that socket instead of the listener, and its sender would stall for a second.
    return f"""
    chain tcp_from_endpoints {{
        tcp flags & (syn | ack) != syn socket transparent 1 goto to_proxy
        fib daddr type != unicast return comment "the server's own services are not relayed"
        meta nfproto ipv4 meta l4proto tcp \
tproxy ip to 127.0.0.1:{ports.from_endpoints} goto to_proxy
        meta nfproto ipv6 meta l4proto tcp \
tproxy ip6 to [::1]:{ports.from_endpoints} goto to_proxy
    }}

    chain tcp_to_endpoints {{
        tcp flags & (syn | ack) != syn socket transparent 1 goto to_proxy
        meta nfproto ipv4 meta l4proto tcp \
tproxy ip to 127.0.0.1:{ports.to_endpoints} goto to_proxy
        meta nfproto ipv6 meta l4proto tcp \
tproxy ip6 to [::1]:{ports.to_endpoints} goto to_proxy
    }}

    chain to_proxy {{
        comment "a socket of the proxy takes it: the mark routes it to this host"
        meta mark set meta mark & {~MARK_MASK & 0xFFFF_FFFF:#010x} | {MARK_TPROXY:#010x} accept
    }}
"""


class _Networks:
    """A pair of sets, one for each family, in a canonical order."""

    def __init__(self, networks: Iterable[IPNetwork], name: str) -> None:
        self._name = name
        self._v4: list[IPv4Network] = []
        self._v6: list[IPv6Network] = []
        for network in networks:
            if isinstance(network, IPv4Network):
                self._v4.append(network)
            else:
                self._v6.append(network)

    def sets(self) -> str:
        return "\n".join(
            (
                self._set(4, ", ".join(str(net) for net in collapse_addresses(self._v4))),
                self._set(6, ", ".join(str(net) for net in collapse_addresses(self._v6))),
            )
        )

    def _set(self, version: int, elements: str) -> str:
        return f"""\
    set {self._name}{version} {{
        type ipv{version}_addr
        flags interval
{_elements(elements)}    }}
"""


def _elements(elements: str) -> str:
    """nft has no empty element list: without elements there is no line."""
    return f"        elements = {{ {elements} }}\n" if elements else ""


def _counters(names: type[StrEnum]) -> str:
    return "".join(f"    counter {name} {{ }}\n" for name in names)


def _quoted(interface: str) -> str:
    """An interface name as an nft string. Raises ValueError if it could end the string."""
    if not interface or set(interface) & set('"\\\n*'):
        raise ValueError(f"{interface!r} is no interface name")
    return f'"{interface}"'
