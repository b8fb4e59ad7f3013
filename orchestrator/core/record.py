"""What people are told of an endpoint: its state, why and since when, and what it counts."""

from collections.abc import Iterable

from orchestrator.core.mobility_events import AnyReason, Reason, State, Tell
from orchestrator.core.paths import Path
from orchestrator.core.places import Place
from orchestrator.core.quantities import Instant, IPAddress, Seconds, successor


class Record:
    """Of one endpoint."""

    def __init__(self, flip: int, vips: tuple[IPAddress, ...]) -> None:
        self.state = State.DETACHED
        self.reasons: frozenset[AnyReason] = frozenset({Reason.STARTED})
        self.since = Instant(0.0)
        """Of the state."""
        self.vips = vips
        self.charon: str | None = None
        """charon's version while it answers."""
        self.roams = 0
        """Activations at another place than the one before; the first attachment is none."""
        self.flip = flip
        """The number of the latest change of path; the server follows the newest."""
        self.lost_at: Instant | None = None
        """When the path was, or the device woke; None: one has answered since."""
        self._activated_at: Place | None = None
        """Where the latest activation was, whatever became of it since."""

    @property
    def attached(self) -> bool:
        return self.state is State.ATTACHED

    def becomes(
        self,
        state: State,
        reasons: Iterable[AnyReason],
        path: Path | None,
        now: Instant,
        **fields: str | float,
    ) -> Tell:
        """The state from now on, or the same one for other reasons; what is told of it."""
        self.reasons = frozenset(reasons)
        if state is not self.state:
            self.since = now
        self.state = state
        return Tell(state, self.reasons, path, fields)

    def flips(self) -> None:
        """What the server was told with any number before counts no more."""
        self.flip = successor(self.flip)

    def goes(self, place: Place) -> None:
        """The traffic goes there."""
        self.roams += self._activated_at not in (None, place)
        self._activated_at = place

    def loses(self, now: Instant) -> None:
        """The path, if there was one."""
        if self.lost_at is None:
            self.lost_at = now

    def returns(self, now: Instant) -> Seconds:
        """A path has answered: how long that took, from the loss, or from the flip."""
        since = self.since if self.lost_at is None else self.lost_at
        self.lost_at = None
        return Seconds(now - since)
