"""The server machine's vocabulary: the news it takes, the acts it orders, its words."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.absence import SessionPolicy
from orchestrator.core.ike import (
    CharonGone,
    CharonUp,
    IkeDown,
    IkeMoved,
    IkeRekeyed,
    Tunnel,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.kernel import KernelObject
from orchestrator.core.quantities import IPAddress, Reqid, Seconds, Spi


class SessionReason(StrEnum):
    ADOPTED = "adopted"
    ACTIVATED = "activated"
    FOLLOWED = "followed"
    UNHEARD = "unheard"
    NO_TUNNEL = "no-tunnel"
    TUNNEL_ENDED = "tunnel-ended"
    """The active one; others are left, and wait to be activated."""
    CHARON_ABSENT = "charon-absent"
    SUPERSEDED = "superseded"
    UNASKED = "not-asked-for"
    """An idle tunnel; the endpoint has lost it."""
    TOO_MANY = "too-many-tunnels"
    NEVER_MOVED = "charon-did-not-follow"
    SAID_ASLEEP = "said-that-it-sleeps"
    LONG_AWAY = "away-for-long"
    MADE_ROOM = "made-room"
    """For another endpoint, because there were as many as may be."""
    TOO_MANY_SESSIONS = "too-many-sessions"


# News


@dataclass(frozen=True, slots=True)
class Admitted:
    """The tunnel's identity may use these virtual addresses: the lease says so."""

    identity: str
    vips: tuple[IPAddress, ...]
    tunnel: Tunnel
    adopted: bool = False
    """It was there before this daemon."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A probe from an endpoint, out of one of its SAs."""

    vip: IPAddress
    flip: int
    spi: Spi
    sequence: int = 0
    asleep: bool = False
    """It is about to sleep, and takes nothing any more."""
    within: Seconds | None = None
    """So soon comes the next one at the latest; None: it does not say."""
    limit: int = 0
    """The largest packet that its path carries; 0: whatever we send."""


@dataclass(frozen=True, slots=True)
class HeardWarm:
    """A probe as well; it asks whether the tunnel that it names works, and no more."""

    vip: IPAddress
    flip: int
    spi: Spi
    sequence: int = 0
    padding: int = 0
    """Octets; the answer has as many."""
    within: Seconds | None = None
    """So soon it is asked for again at the latest; None: it does not say."""
    carries: bool = False
    """It says that flows of the endpoint take that tunnel."""


@dataclass(frozen=True, slots=True)
class MappingChanged:
    """XFRM_MSG_MAPPING: an authenticated packet of this inbound SA came from elsewhere."""

    spi: Spi


@dataclass(frozen=True, slots=True)
class StateMoved:
    """XFRM_MSG_NEWSA: an outbound SA leads to this address now."""

    spi: Spi
    source: IPAddress
    destination: IPAddress
    reqid: Reqid


@dataclass(frozen=True, slots=True)
class Remembered:
    """A lease without a tunnel, from before: its packets are held from the first moment."""

    identity: str
    vips: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """The operator configured it otherwise."""

    policy: SessionPolicy


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline passed."""


Event = (
    Admitted
    | Remembered
    | Heard
    | HeardWarm
    | MappingChanged
    | StateMoved
    | PolicyChanged
    | Tick
    | TunnelUp
    | TunnelRekeyed
    | TunnelDown
    | IkeRekeyed
    | IkeDown
    | IkeMoved
    | CharonUp
    | CharonGone
)


# Acts


@dataclass(frozen=True, slots=True)
class ApplySession:
    identity: str
    objects: tuple[KernelObject, ...]


@dataclass(frozen=True, slots=True)
class Carry:
    """What comes out of these SAs, inbound ones by SPI, are flows that go back by the tunnel in
    this slot; it is so for no other SA of the session."""

    identity: str
    slots: Mapping[Spi, int]


@dataclass(frozen=True, slots=True)
class Terminate:
    tunnel: Tunnel
    reason: SessionReason


@dataclass(frozen=True, slots=True)
class Release:
    """Send what is held for this session, in order."""

    vips: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Shed:
    """Of what is held for these addresses only TCP stays."""

    vips: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class EndFlows:
    """Reset the proxied connections of these addresses."""

    vips: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    what: str
    reasons: frozenset[SessionReason]
    identity: str
    fields: Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class AnswerProbe:
    """Ordered after whatever the probe changed, so that the answer takes the new path; before
    it where the endpoint goes to sleep, since nothing takes any path then."""

    probe: Heard | HeardWarm
    mark: int = 0
    """Of the answer; 0: none, it goes where everything for this endpoint does."""
    agreed: Seconds | None = None
    """So long we wait for the next one; None: the endpoint did not say."""


Effect = ApplySession | Carry | Terminate | Release | Shed | EndFlows | Tell | AnswerProbe
