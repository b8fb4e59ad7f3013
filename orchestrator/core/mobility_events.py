"""The endpoint machine's vocabulary: the news it takes, the acts it orders, its words."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.endpoint_state import EndpointState
from orchestrator.core.flow_class import FlowReason
from orchestrator.core.ike import IkeEvent, IkeFailure, Tunnel
from orchestrator.core.network import Change, Snapshot
from orchestrator.core.paths import Absence, Path, Servers
from orchestrator.core.portal_events import PortalEffect, PortalEvent, PortalReason
from orchestrator.core.quantities import IPAddress, LinkIndex, Seconds, Spi


class State(StrEnum):
    DETACHED = "detached"
    """No path carries traffic; it is held."""
    MOVING = "moving"
    """Traffic was sent on its way over a path that has not answered yet; or, around a sleep of
    the device, it waits for that answer."""
    ATTACHED = "attached"
    """A path carries traffic, and has proved it."""


class Reason(StrEnum):
    STARTED = "started"
    ADOPTED = "adopted"
    PATH_RETURNED = "path-returned"
    PATH_DEAD = "path-dead"
    TUNNEL_MOVED = "tunnel-moved"
    TUNNEL_DELETED = "tunnel-deleted"
    MOVE_REFUSED = "move-refused"
    NEGOTIATED = "negotiated"
    BETTER_LINK = "better-link"
    LESS_LOSS = "less-loss"
    SHORTER_RTT = "shorter-round-trip"
    STRONGER_SIGNAL = "stronger-signal"
    LOSSY = "lossy"
    """So much is lost that it is useless."""
    WARM = "warm-path"
    """A tunnel was ready there."""
    OPERATOR = "operator"
    ANSWERED = "answered"
    FALLING_ASLEEP = "falling-asleep"
    WOKE = "woke"
    CHARON_RESTARTED = "charon-restarted"
    CHARON_ABSENT = "charon-absent"
    NO_SUCH_PATH = "no-such-path"
    VIP_CHANGED = "virtual-address-changed"
    LARGE_LOST = "large-packets-lost"


AnyReason = Reason | Change | Absence | IkeFailure | PortalReason | FlowReason


# News


@dataclass(frozen=True, slots=True)
class Started:
    """The daemon begins; what a predecessor left in the kernel comes along."""

    snapshot: Snapshot
    vips: tuple[IPAddress, ...]
    """Virtual addresses remembered from before; empty on a first start."""
    adopted: Tunnel | None = None
    """The tunnel that the kernel's policies use now; its IKE_SA is not known yet (ike 0)."""
    doubted: bool = False
    """They use it for probes only: the predecessor did not trust it."""


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class ServersKnown:
    """Where the server is: all that is known of it, not what is new."""

    servers: Servers


@dataclass(frozen=True, slots=True)
class AttemptAnswered:
    """The server has said something to this negotiation; how it ends is not known yet."""

    connection: str


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    connection: str
    why: IkeFailure
    detail: str


@dataclass(frozen=True, slots=True)
class MoveEnded:
    """The answer to MoveTunnel, at once."""

    tunnel: Tunnel
    path: Path
    moved: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    sequence: int
    agreed: Seconds | None = None
    """So long the server waits for the next one; None: it does not say."""


@dataclass(frozen=True, slots=True)
class ProbeTooLarge:
    """The answer to SendProbe with a size, at once: the kernel knows of a smaller one."""

    sequence: int


@dataclass(frozen=True, slots=True)
class TrafficSeen:
    """The answer to LookAtTraffic, at once: what the tunnel's SAs have counted."""

    tunnel: Tunnel
    received: int
    """Packets, as `sent`."""
    sent: int
    octets_in: int = 0
    """Of those packets, as `octets_out`."""
    octets_out: int = 0
    highest: int = 0
    """The highest sequence number received: what it grew by beyond `received` was lost."""


@dataclass(frozen=True, slots=True)
class TrafficStirs:
    """Ordered by WatchTraffic: these SAs, whosesoever, have counted packets."""

    spis: frozenset[Spi]


@dataclass(frozen=True, slots=True)
class SignalSeen:
    """How well the radio of a link hears its access point."""

    link: LinkIndex
    dbm: int


@dataclass(frozen=True, slots=True)
class RoamRequested:
    """The operator wants to be on this link and to stay there, or negotiated anew."""

    link_name: str | None
    """None: wherever it is best; a link asked for before is forgotten."""


@dataclass(frozen=True, slots=True)
class FallsAsleep:
    """The device is about to sleep, and waits until the server has been told."""


@dataclass(frozen=True, slots=True)
class Woke:
    """The device slept, or the clock jumped: nothing known before is trusted."""

    slept: Seconds


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline passed."""


Event = (
    Started
    | NetworkChanged
    | ServersKnown
    | AttemptAnswered
    | AttemptFailed
    | MoveEnded
    | ProbeAnswered
    | ProbeTooLarge
    | TrafficSeen
    | TrafficStirs
    | SignalSeen
    | RoamRequested
    | FallsAsleep
    | Woke
    | Tick
    | IkeEvent
    | PortalEvent
)


# Acts


class Ask(StrEnum):
    """How a negotiation gets its virtual addresses."""

    LEASED = "leased"
    """Offer all selectors; the server narrows them to what it has leased to our identity."""
    ASSIGN = "assign"
    """Request new ones in a configuration payload: the server knows no lease for us."""
    FIXED = "fixed"
    """Offer those that the operator fixed, and nothing else."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the kernel look like this."""

    state: EndpointState


@dataclass(frozen=True, slots=True)
class MoveTunnel:
    """Rewrite both SAs of the tunnel to the path. Only ever ordered while traffic is held."""

    tunnel: Tunnel
    path: Path


@dataclass(frozen=True, slots=True)
class Negotiate:
    """Begin IKE_SA and CHILD_SA on the path, under a connection name of its own."""

    connection: str
    path: Path
    ask: Ask
    vips: tuple[IPAddress, ...]
    """What the operator fixed; only with Ask.FIXED."""
    limit: Seconds


@dataclass(frozen=True, slots=True)
class Abandon:
    """Give up a negotiation under way."""

    connection: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Delete the tunnel's IKE_SA, and its SAs in the kernel where charon cannot."""

    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class Bury:
    """Delete the tunnel's SAs from the kernel. charon is through with them, but looks for them
    where they were before they were moved."""

    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class SendProbe:
    sequence: int
    flip: int
    spi: Spi
    """Our inbound SPI: on which CHILD_SA the server shall send."""
    asleep: bool = False
    """It says that we take nothing any more, until another one comes."""
    slot: int | None = None
    """Over the warm tunnel with this one, which it leaves as it is. None: with the traffic."""
    within: Seconds | None = None
    """So soon comes the next one at the latest, if this one is answered. None: it does not
    say."""
    size: int = 0
    """Of the packet inside the tunnel, and of the answer: whether the path carries that is all
    that is asked. 0: no larger than need be."""
    limit: int = 0
    """The largest packet that the server may send; 0: no other than it has."""
    carries: bool = False
    """It says that flows take that tunnel, until a later flip."""


@dataclass(frozen=True, slots=True)
class LookAtTraffic:
    """Count what came and went through the tunnel."""

    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class WatchTraffic:
    """Have the kernel tell when an SA counts packets (TrafficStirs), or no longer."""

    on: bool


@dataclass(frozen=True, slots=True)
class MaySleep:
    """The server knows, or nobody can tell it: the device need not wait any longer."""


@dataclass(frozen=True, slots=True)
class Release:
    """Send what is held, in order."""


@dataclass(frozen=True, slots=True)
class RestartSenders:
    """Senders of TCP whose segments were lost on their way go on, by themselves or helped: of
    what they wait for nothing is held."""


@dataclass(frozen=True, slots=True)
class HideEchoes:
    """What TCP segments from and to the virtual addresses echo is hidden from their receivers,
    or not."""

    hide: bool


@dataclass(frozen=True, slots=True)
class RememberVips:
    vips: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """Something happened that people want to know."""

    what: str
    """"attached", "moving", "detached", "negotiating", "failed", …"""
    reasons: frozenset[AnyReason]
    path: Path | None = None
    fields: Mapping[str, str | int | float] | None = None


Effect = (
    Apply
    | MoveTunnel
    | Negotiate
    | Abandon
    | Terminate
    | Bury
    | SendProbe
    | LookAtTraffic
    | WatchTraffic
    | MaySleep
    | Release
    | RestartSenders
    | HideEchoes
    | RememberVips
    | Tell
    | PortalEffect
)
