"""What the connection proxy is told, what it counts, and which connections it takes.

A limit has a reason and a refusal: what is refused gets a reset at once and a counter, and the
flows that stand are untouched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from orchestrator.core.allowance import Shortage
from orchestrator.core.firewall import ProxyPorts
from orchestrator.core.quantities import Instant, IPAddress, IPNetwork, Seconds
from orchestrator.core.relay_events import Outcome, Phase


@dataclass(frozen=True, slots=True)
class SocketAddress:
    host: IPAddress
    port: int


class FlowDirection(StrEnum):
    FROM_ENDPOINT = "from-endpoint"
    TO_ENDPOINT = "to-endpoint"


@dataclass(frozen=True, slots=True)
class ListenerKey:
    """Which of the sockets that accept connections."""

    direction: FlowDirection
    version: int
    """of IP"""
    port: int


class SourcePolicy(StrEnum):
    """Which address the peer of an endpoint sees."""

    VIP = "vip"
    """the VIP, and its original port if it is free: the LAN routes the pool to this server"""
    SERVER = "server"
    """the server's own: for a LAN that has no route to the pool"""


class Refusal(StrEnum):
    """Why a connection was not taken."""

    FOREIGN = "foreign"
    """the endpoint's side is not in a pool: somebody talks to the listener itself"""
    DESTINATION = "destination"
    """nobody can be there: loopback, multicast, unspecified, link-local"""
    VIP_FULL = "vip-full"
    SERVER_FULL = "server-full"
    NO_DESCRIPTOR = "no-descriptor"


class DialFailure(StrEnum):
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed-out"
    FORBIDDEN = "forbidden"
    """by this host: a policy that blocks, or the firewall"""
    OTHER = "other"


KIB: Final = 1024
LEAST_OCTETS_PER_FLOW: Final = 128 * KIB
"""Below it a socket buffer would hold less than two full-sized segments with their overhead."""

MOST_OCTETS_PER_FLOW: Final = 1 << 30
"""A socket buffer is an int of C, doubled by the kernel."""
LARGEST_QUEUE: Final = 64 * KIB
"""Between a read and its write: as much as one segment train of the kernel. Larger ones save a
fifth of the CPU time of bulk, and are taken out of the socket buffers' share."""

LEAST_SPOOL: Final = 1024 * KIB
"""Below it a spool is no more than a few more segments."""


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """Where octets for absent endpoints are kept when memory takes no more; octets of disk."""

    directory: str
    per_flow: int
    """Each way."""
    per_vip: int
    in_all: int

    def __post_init__(self) -> None:
        if not self.directory.startswith("/"):
            raise ValueError(f"{self.directory!r} is no absolute path")
        if not LEAST_SPOOL <= self.per_flow <= self.per_vip <= self.in_all:
            raise ValueError(
                f"of the spool's limits one is below {LEAST_SPOOL}, or a smaller one is higher"
            )


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What the daemon tells the worker; a change holds for the flows that come after it."""

    pools: tuple[IPNetwork, ...]
    source: SourcePolicy
    ports: ProxyPorts
    flows_per_vip: int
    """Open at once."""
    flows: int
    """In all; two descriptors each. The worker lowers it to what its descriptors allow."""
    octets_per_flow: int
    """What is acknowledged for an absent reader, each way, socket buffers included. It bounds a
    flow's rate to as much per round trip."""
    octets_per_vip: int
    """Read and not yet acknowledged by the reader, of all flows of a session, both ways."""
    octets: int
    """The same of all sessions."""
    dial_seconds: Seconds = Seconds(30.0)
    """For a peer to answer. The endpoint believes it is connected meanwhile; people give a page
    up after some 30 s."""
    dial_vip_seconds: Seconds = Seconds(300.0)
    """For an endpoint, which may be away: as long as its peer's patience is likely to last."""
    spool: SpoolSettings | None = None

    def __post_init__(self) -> None:
        if not LEAST_OCTETS_PER_FLOW <= self.octets_per_flow <= MOST_OCTETS_PER_FLOW:
            raise ValueError(
                f"octets_per_flow is not between {LEAST_OCTETS_PER_FLOW} and"
                f" {MOST_OCTETS_PER_FLOW}"
            )
        if min(self.octets_per_vip, self.octets) < self.octets_per_flow:
            raise ValueError("a limit of octets is lower than that of one flow")
        if self.flows < 1 or self.flows_per_vip < 1:
            raise ValueError("a limit of no flows at all")
        if self.dial_seconds <= 0 or self.dial_vip_seconds <= 0:
            raise ValueError("no time to dial in")
        for port in (self.ports.from_endpoints, self.ports.to_endpoints):
            if not 0 < port < 1 << 16:
                raise ValueError(f"{port} is no port")
        if self.ports.from_endpoints == self.ports.to_endpoints:
            raise ValueError("both listeners on one port")

    def covers(self, address: IPAddress) -> bool:
        """Whether the address is a VIP."""
        return any(address in pool for pool in self.pools)


UNCONFIGURED: Final = ProxySettings(
    pools=(),
    source=SourcePolicy.VIP,
    ports=ProxyPorts(1, 2),
    flows_per_vip=1,
    flows=1,
    octets_per_flow=LEAST_OCTETS_PER_FLOW,
    octets_per_vip=LEAST_OCTETS_PER_FLOW,
    octets=LEAST_OCTETS_PER_FLOW,
)
"""Before the daemon has said anything: without pools nothing is listened for."""
UNLIMITED_MS: Final = 2**31 - 1
"""TCP_USER_TIMEOUT at its maximum, 24.8 days: how long sent bytes may stay unacknowledged."""
FIXED_MS: Final = 15 * 60 * 1000
"""A peer on the LAN: what the kernel's own tcp_retries2 amounts to, whatever it is set to."""


@dataclass(frozen=True, slots=True)
class LegTuning:
    """What a socket is told. Octets count as the kernel does, overhead included."""

    receive: int
    send: int
    user_timeout_ms: int
    keepalive: bool
    """Whether a silent far end is asked if it still lives (two hours, RFC 1122 4.2.3.6)."""


@dataclass(frozen=True, slots=True)
class Tunings:
    """How a flow's limit is shared out: source's receive buffer, queue, destination's send
    buffer, for each direction. The mobile leg has the long round trips, so it gets the most."""

    queue: int
    mobile: LegTuning
    fixed: LegTuning
    mobile_pair: LegTuning
    """Both legs of a flow between two endpoints."""


def tunings(settings: ProxySettings) -> Tunings:
    limit = settings.octets_per_flow
    queue = min(LARGEST_QUEUE, limit // 8)
    near = limit // 4
    far = limit - queue - near
    even = (limit - queue) // 2
    return Tunings(
        queue,
        LegTuning(far, far, UNLIMITED_MS, keepalive=False),
        LegTuning(near, near, FIXED_MS, keepalive=True),
        LegTuning(even, even, UNLIMITED_MS, keepalive=False),
    )


def admit(
    settings: ProxySettings,
    vip: IPAddress,
    peer: IPAddress,
    *,
    of_vip: int,
    in_all: int,
    capacity: int,
) -> Refusal | None:
    """Whether a flow between the two may begin while so many others run; None: it may.

    `capacity` is what this process can hold, whatever the settings say.
    """
    if not settings.covers(vip):
        return Refusal.FOREIGN
    if peer.is_loopback or peer.is_multicast or peer.is_unspecified or peer.is_link_local:
        return Refusal.DESTINATION
    if of_vip >= settings.flows_per_vip:
        return Refusal.VIP_FULL
    if in_all >= min(settings.flows, capacity):
        return Refusal.SERVER_FULL
    return None


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """One flow, as people and the daemon see it."""

    vip: SocketAddress
    peer: SocketAddress
    direction: FlowDirection
    since: Instant
    state: Phase
    to_peer: int
    """octets passed on, ever"""
    to_endpoint: int
    queued_to_peer: int
    """octets acknowledged to the sender and not yet by the receiver: in memory, socket buffers
    included"""
    queued_to_endpoint: int
    spooled: int = 0
    """octets that wait on disk, both ways"""
    waits_since: Instant | None = None
    """when it met a limit of its session or of all, in memory or on disk; None: it has not"""


@dataclass(frozen=True, slots=True)
class FlowOpened:
    """Taken from one side; the other is being dialled."""

    record: FlowRecord


@dataclass(frozen=True, slots=True)
class FlowEnded:
    record: FlowRecord
    outcome: Outcome
    dial_failure: DialFailure | None = None


@dataclass(frozen=True, slots=True)
class FlowRefused:
    """Reset at once: a limit, or an address that makes no sense."""

    vip: SocketAddress
    peer: SocketAddress
    direction: FlowDirection
    reason: Refusal


FlowEvent = FlowOpened | FlowEnded | FlowRefused


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept in memory, or on disk, of all flows, now."""

    octets: int
    limit: int
    """0: nothing is kept there"""
    waiting: int
    """streams of flows that have met a limit"""
    since: Instant | None
    """when the first of these met it"""
    met: Sequence[tuple[Shortage, int]]
    """how often which limit was met, since the worker started"""


@dataclass(frozen=True, slots=True)
class ProxyCounters:
    """Since the worker started. `open` is now."""

    open: int
    capacity: int
    """flows in all, as far as descriptors allow"""
    accepted: int
    to_peer: int
    to_endpoint: int
    refused: Sequence[tuple[Refusal, int]]
    dial_failures: Sequence[tuple[DialFailure, int]]
    ended: Sequence[tuple[Outcome, int]]
    events_lost: int
    """watchers that were not quick enough, and were dropped"""
    memory: Kept
    disk: Kept
    disk_failures: int
    """how often the disk took nothing: the peer waits, nothing is lost"""
    disk_lost: int
    """octets that the disk did not give back"""
    disk_problem: str | None
    """why nothing is spooled now, if it should be"""
