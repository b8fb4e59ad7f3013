"""How long an endpoint may stay away, and what becomes of its session meanwhile.

    attached --unheard, no tunnel--> away --said so, asleep_after--> asleep
    attached --said that it sleeps--> asleep
    away, asleep --expire_after--> expired
    away, asleep --a probe out of a tunnel--> attached

1. Both times count from the moment the endpoint left; what is unlimited never comes (`after`).
2. Every session that is not attached is in `Absent`, in the order in which they left: the one
   that has been away longest is the first (`Absent.longest`).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from orchestrator.core.quantities import Instant, Seconds


class SessionState(StrEnum):
    ATTACHED = "attached"
    """Its packets go out."""
    AWAY = "away"
    """Unheard, or without a tunnel: everything for it is held."""
    ASLEEP = "asleep"
    """It said so, or has been away for long: of what is for it only TCP is held."""
    EXPIRED = "expired"
    """Over: nothing is held for it, its connections are reset. It is seen in news only."""


@dataclass(frozen=True, slots=True)
class Patience:
    """With one endpoint that is away; None: without end."""

    asleep_after: Seconds | None = Seconds(600.0)
    expire_after: Seconds | None = None

    def after(self, state: SessionState, left: Instant) -> tuple[SessionState, Instant] | None:
        """Rule 1: what a session in this state, whose endpoint left then, becomes, and when."""
        ends = []
        if self.expire_after is not None:
            ends.append((Instant(left + self.expire_after), SessionState.EXPIRED))
        if self.asleep_after is not None and state is SessionState.AWAY:
            ends.append((Instant(left + self.asleep_after), SessionState.ASLEEP))
        if not ends:
            return None
        at, becomes = min(ends, key=lambda end: end[0])
        return becomes, at


USUAL: Final = Seconds(2.0)
"""So often an endpoint asks that does not say how often: an operator who sets `detach_after`
counts on it."""
FORGOTTEN: Final = Seconds(12.5)
"""How soon one wants to be heard that spoke to this daemon's predecessor: an idle one, by
default."""
LONGEST_SILENCE: Final = Seconds(60.0)
"""More is not agreed to: who is gone has to be noticed."""


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """What the operator configured about sessions."""

    detach_after: Seconds = Seconds(7.0)
    patience: Patience = Patience()
    of_identity: Mapping[str, Patience] = field(default_factory=lambda: MappingProxyType({}))
    """Where it is another one."""
    most: int = 2000
    """Sessions at a time, whatever their state."""
    evict: bool = False
    """Whether the one that has been away longest makes room for a further one."""

    def silence(self, within: Seconds | None) -> Seconds:
        """How long an endpoint is silent that is away, if it wanted to be heard `within`."""
        beyond = 0.0 if within is None else max(0.0, within - USUAL)
        return Seconds(self.detach_after + beyond)

    def patience_with(self, identity: str) -> Patience:
        return self.of_identity.get(identity, self.patience)


class Absent:
    """The identities whose sessions are not attached; each operation takes the same time,
    however many there are."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, identity: str) -> bool:
        return identity in self._left

    def __len__(self) -> int:
        return len(self._left)

    def left(self, identity: str) -> None:
        """It left now: it comes last."""
        self._left[identity] = None
        self._left.move_to_end(identity)

    def returned(self, identity: str) -> None:
        """It is attached, or its session is no more."""
        self._left.pop(identity, None)

    def longest(self) -> str | None:
        """Rule 2. None: all are attached."""
        return next(iter(self._left), None)
