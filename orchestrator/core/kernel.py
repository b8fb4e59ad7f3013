"""The kernel objects we own, as values, and the numbers that say they are ours.

A desired state is a tuple of these; `core.plan` compares it with what is there. Every object
has a `key`, the identity the kernel goes by: two values with one key are two versions of one
object. Keys are made of strings and numbers alone: an `ipaddress` object takes 20 times as long
to hash, and a move compares some hundred keys. The text of an object is what it is called in a
sentence. Nothing in the kernel that lacks these numbers is ever touched.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from ipaddress import IPv4Network
from typing import Final

from orchestrator.core.quantities import IPAddress, IPNetwork, Reqid, Spi, TableId

ROUTE_PROTOCOL: Final = 111
"""rtm_protocol of our routes and rules (include/uapi/linux/rtnetlink.h leaves 100-185 free)."""
RULE_PRIORITIES: Final = range(11100, 11200)
TABLE_INNER: Final = TableId(11100)
"""Endpoint: what applications use. Server: where TPROXY delivers."""
TABLE_PATHS: Final = range(11101, 11199)
TABLE_NOWHERE: Final = TableId(11199)
"""Leads nowhere."""
MARK_MASK: Final = 0xFF00_0000
MARK_UNDERLAY: Final = 0x6F00_0000
"""On IKE and ESP packets, so that they never enter the tunnel."""
MARK_TPROXY: Final = 0x6E00_0000
MARK_PROBE: Final = 0x6D00_0000
"""On probes of a warm tunnel, with its slot, and on their answers: it chooses their policy.
At the server it also chooses their route; no firewall of ours looks for it."""
MARK_SIZED: Final = MARK_PROBE | 0xFFFF
"""On the answer to a padded probe that goes with the traffic: that of no slot, hence of no
policy of its own."""
MARK_FLOWS: Final = 0x6C00_0000
"""On packets of flows that take a tunnel of their own, with a number. Endpoint: of their class
(`core.classes`). Server: the slot of the tunnel that they came out of, remembered as the mark
of their connection. It chooses their policy; no rule of ours looks for it."""
MARK_COPIES: Final = MARK_FLOWS | 0xFF
"""At the server, of flows that are sent twice (`core.redundancy`): no slot has that number."""
LARGEST_COPY: Final = 1100
"""Octets of a packet that is sent twice: with what is put in front of it the smallest path that
there is carries it (IPv6's 1280, less ESP). What is larger is no call."""
ENDPOINT_REQID: Final = Reqid(0x6F01)
SLOTS: Final = 8
"""Of a session's tunnels at the server."""
MARK_TO_SENDERS: Final = MARK_TPROXY | 0x53_4E44
"""On what a daemon sends to senders on its own host in the name of those that they sent to. The
rule for MARK_TPROXY routes it to the proxy; nothing from outside has it."""
POLICY_PRIORITY_LOCAL: Final = 11090
"""For what a daemon says to its own host: before all others of ours."""
POLICY_PRIORITY_FLOWS: Final = 11097
"""The way of flows that take a tunnel of their own: before that of everything else."""
POLICY_PRIORITY_PROBE: Final = 11098
"""The way of a warm tunnel's probes, and of their answers: before that of all others."""
POLICY_PRIORITY_SERVICE: Final = 11099
"""An endpoint's way to the service inside the tunnel: before those that hold."""
POLICY_PRIORITY: Final = 11100
"""XFRM priority of a session's policies; smaller wins: foreign ones may go above or below."""
POLICY_PRIORITY_POOL: Final = 11190
"""The server's block for VIPs that no session holds."""
NFT_TABLE: Final = "orchestrator"
TUN_ENDPOINT: Final = "vip0"
TUN_SERVER: Final = "vips0"
EVERYTHING4: Final = IPv4Network("0.0.0.0/0")


class Direction(IntEnum):
    """XFRM_POLICY_* of include/uapi/linux/xfrm.h."""

    IN = 0
    OUT = 1
    FWD = 2


class RouteKind(StrEnum):
    UNICAST = "unicast"
    LOCAL = "local"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Tun:
    """A persistent TUN device: it outlives the daemon, so a crash closes no socket."""

    name: str
    mtu: int

    @property
    def key(self) -> "Key":
        return ("tun", self.name)

    def __str__(self) -> str:
        return f"the device {self.name}"


@dataclass(frozen=True, slots=True)
class Address:
    """An address on a device of ours, always of host length (/32 or /128)."""

    link: str
    address: IPAddress

    @property
    def key(self) -> "Key":
        return ("address", self.link, self.address.version, int(self.address))

    def __str__(self) -> str:
        return f"the address {self.address} on {self.link}"


@dataclass(frozen=True, slots=True)
class Route:
    table: TableId
    destination: IPNetwork
    kind: RouteKind = RouteKind.UNICAST
    link: str | None = None
    gateway: IPAddress | None = None
    source: IPAddress | None = None
    """The preferred source address (RTA_PREFSRC)."""
    metric: int = 0
    """RTA_PRIORITY; the kernel turns 0 into 1024 for IPv6."""
    mtu: int | None = None
    """RTAX_MTU, where it is less than the link's."""

    @property
    def key(self) -> "Key":
        return ("route", self.table, *_numbers(self.destination), self.metric)

    def __str__(self) -> str:
        kind = "" if self.kind is RouteKind.UNICAST else f"{self.kind} "
        destination = "default" if self.destination == EVERYTHING4 else self.destination
        via = f" via {self.gateway}" if self.gateway else ""
        link = f" dev {self.link}" if self.link else ""
        return f"the route {kind}{destination}{via}{link} table {self.table}"


@dataclass(frozen=True, slots=True)
class Rule:
    priority: int
    version: int
    """4 or 6."""
    table: TableId
    source: IPNetwork | None = None
    mark: int | None = None
    """Compared under MARK_MASK."""
    mark_inverted: bool = False
    """True: the rule is for packets without the mark."""
    suppress_prefixlength: int | None = None

    @property
    def key(self) -> "Key":
        """All of it: the kernel knows no versions of a rule."""
        return (
            *("rule", self.priority, self.version, self.table),
            *(self.mark, self.mark_inverted, self.suppress_prefixlength),
            *(() if self.source is None else _numbers(self.source)),
        )

    def __str__(self) -> str:
        family = "" if self.version == 4 else "IPv6 "
        source = f" from {_brief(self.source)}" if self.source else ""
        inverted = " not" if self.mark_inverted else ""
        mark = "" if self.mark is None else f"{inverted} fwmark {self.mark:#x}"
        return f"the {family}rule {self.priority}{source}{mark}"


@dataclass(frozen=True, slots=True)
class Selector:
    source: IPNetwork
    destination: IPNetwork
    mark: int = 0
    """Of the packets, all 32 bits of it; 0 is any mark."""

    def __str__(self) -> str:
        marked = f" marked {self.mark:#x}" if self.mark else ""
        return f"{self.source} -> {self.destination}{marked}"

    @property
    def key(self) -> "Key":
        return (*_numbers(self.source), *_numbers(self.destination), self.mark)


@dataclass(frozen=True, slots=True)
class Template:
    """An ESP tunnel. `None` for an address is "any", which only IN and FWD accept."""

    source: IPAddress | None
    destination: IPAddress | None
    reqid: Reqid
    spi: Spi | None = None
    """Only this SA. None: any with this reqid and these addresses; of several an OUT policy
    takes the youngest."""


class Verdict(StrEnum):
    PROTECT = "protect"
    """allow, with a template: only as ESP"""
    ALLOW = "allow"
    """without a template: what comes in is taken as it is; what goes out follows its route,
    which is our TUN, where it is held"""
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Policy:
    direction: Direction
    selector: Selector
    verdict: Verdict
    template: Template | None = None
    """Given exactly when the verdict is PROTECT."""
    priority: int = POLICY_PRIORITY

    def __post_init__(self) -> None:
        if (self.template is not None) != (self.verdict is Verdict.PROTECT):
            raise ValueError("a template goes with PROTECT, and with nothing else")

    @property
    def key(self) -> "Key":
        return ("policy", int(self.direction), *self.selector.key)

    def __str__(self) -> str:
        return f"the policy {self.direction.name.lower()} {self.selector}"


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The whole nftables table `inet orchestrator`, as nft reads it."""

    text: str

    @property
    def key(self) -> "Key":
        return ("ruleset",)

    def __str__(self) -> str:
        return f"the firewall table inet {NFT_TABLE}"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting below /proc/sys. What it was before is remembered and put back by cleanup."""

    path: str
    """Slashes, relative to /proc/sys: "net/ipv4/ip_forward"."""
    value: str

    @property
    def key(self) -> "Key":
        return ("sysctl", self.path)

    def __str__(self) -> str:
        return f"the setting {self.path}"


KernelObject = Tun | Address | Route | Rule | Policy | Ruleset | Sysctl
Key = tuple[str | int | None, ...]


def _numbers(network: IPNetwork) -> tuple[int, int, int]:
    """Version, address, prefix length."""
    return network.version, int(network.network_address), network.prefixlen


def _brief(network: IPNetwork) -> str:
    """One of host length as the address alone."""
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address if whole else network)
