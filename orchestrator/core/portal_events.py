"""The words of `core.portal`: what is heard and ordered about networks with a sign-in."""

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.paths import Path
from orchestrator.core.quantities import Seconds


class Finding(StrEnum):
    """What came of asking through a network."""

    OPEN = "open"
    """The answer that was expected."""
    PORTAL = "portal"
    """Another one: somebody between us and whom we asked has answered."""
    SILENT = "silent"
    """None, or nothing that is HTTP: that says nothing about a portal."""


class PortalReason(StrEnum):
    PORTAL = "portal"
    """The network wants somebody to sign in."""
    TUNNEL_UP = "tunnel-up"
    """There is a tunnel over that link: nobody has to sign in."""
    TIME_OVER = "time-over"
    NETWORK_GONE = "network-gone"
    LEFT = "left"
    """The command for which the way was open has ended."""
    ALREADY_OPEN = "already-open"


# News


@dataclass(frozen=True, slots=True)
class PortalAnswered:
    """The outcome of AskPortal, sooner or later."""

    number: int
    finding: Finding
    detail: str = ""
    """In words of ours; nothing of the answer but its status."""


@dataclass(frozen=True, slots=True)
class WayRequested:
    """Somebody wants to sign in over this link."""

    link_name: str | None
    """None: wherever it is needed most."""


@dataclass(frozen=True, slots=True)
class WayLeft:
    """Whoever had the way of this number does not need it any more."""

    number: int


# Acts


@dataclass(frozen=True, slots=True)
class AskPortal:
    """Begin to ask, from this point of presence and through its gateway."""

    number: int
    path: Path


@dataclass(frozen=True, slots=True)
class OpenWay:
    """Let the program for which it was requested out, and nothing else."""

    number: int
    paths: tuple[Path, ...]
    """Of one link; one for each family that it has."""
    limit: Seconds


@dataclass(frozen=True, slots=True)
class CloseWay:
    """At once, with every connection over it."""

    number: int
    why: PortalReason


PortalEvent = PortalAnswered | WayRequested | WayLeft
PortalEffect = AskPortal | OpenWay | CloseWay
