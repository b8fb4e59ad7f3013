"""What can be read of an endpoint's machine: for status, metrics and tests; nothing is decided
here."""

from orchestrator.core.choice import Standing
from orchestrator.core.classes import Classes
from orchestrator.core.endpoint_state import EndpointState
from orchestrator.core.ike import IkeFailure, Tunnel
from orchestrator.core.knowledge import Knowledge
from orchestrator.core.liveness import Liveness
from orchestrator.core.mobility_events import AnyReason, State
from orchestrator.core.mobility_policy import MobilityPolicy
from orchestrator.core.paths import Path
from orchestrator.core.places import place_of
from orchestrator.core.portal import Portals
from orchestrator.core.quality import Quality
from orchestrator.core.quantities import Instant, IPAddress
from orchestrator.core.tunnels import Held
from orchestrator.core.verdict import Verdict


class MobilityView:
    """Of one endpoint, as it is after the latest news."""

    def __init__(self, known: Knowledge) -> None:
        self._known = known

    @property
    def policy(self) -> MobilityPolicy:
        return self._known.policy

    # The endpoint

    @property
    def state(self) -> State:
        return self._known.record.state

    @property
    def reasons(self) -> frozenset[AnyReason]:
        """For the state."""
        return self._known.record.reasons

    @property
    def since(self) -> Instant:
        """When it got into the state."""
        return self._known.record.since

    @property
    def vips(self) -> tuple[IPAddress, ...]:
        return self._known.record.vips

    @property
    def charon(self) -> str | None:
        """charon's version while it answers."""
        return self._known.record.charon

    @property
    def roams(self) -> int:
        """Activations at another place than the one before."""
        return self._known.record.roams

    @property
    def flip(self) -> int:
        """The number of the latest change of path."""
        return self._known.record.flip

    @property
    def classes(self) -> Classes:
        """Which flows go where."""
        return self._known.classes

    @property
    def portals(self) -> Portals:
        """Which networks ask for a sign-in."""
        return self._known.portals

    def kernel(self) -> EndpointState:
        """What the kernel has to look like now."""
        return self._known.kernel()

    # The tunnel in use

    @property
    def active(self) -> Tunnel | None:
        return self._known.active.tunnel if self._known.active else None

    @property
    def active_path(self) -> Path | None:
        return self._known.active_path

    @property
    def liveness(self) -> Liveness | None:
        """Of the active path."""
        return self._known.active.liveness if self._known.active else None

    # Each path

    @property
    def paths(self) -> tuple[Path, ...]:
        """The usable ones, best first."""
        return self._known.places.paths

    @property
    def attempt_paths(self) -> tuple[Path, ...]:
        """Those on which a negotiation is under way."""
        return tuple(attempt.path for attempt in self._known.attempts.under_way)

    def tunnel_of(self, path: Path) -> Tunnel | None:
        return self._known.tunnel_of(path)

    def liveness_of(self, path: Path) -> Liveness | None:
        """Of the tunnel there that is in use, or kept warm."""
        held = self._asked(path)
        return held.liveness if held else None

    def verdict_of(self, path: Path, now: Instant) -> Verdict | None:
        """On that one."""
        held = self._asked(path)
        return self._known.vigil.verdict(held, self._known.active, now) if held else None

    def mtu_of(self, path: Path) -> int:
        """The largest packet inside the tunnel that is sent along this path."""
        return self._known.mtus.limit_at(place_of(path)) or self.policy.inner.mtu

    def quality_of(self, path: Path, now: Instant) -> Quality:
        return self._known.choice.quality(path, now)

    def why_not(self, path: Path, now: Instant) -> frozenset[Standing]:
        """Why the traffic is not there; empty if it is, or if it is nowhere."""
        return self._known.choice.why_not(path, self._known.active, now)

    def failure_of(self, path: Path) -> tuple[IkeFailure, str] | None:
        """The latest there, with its detail."""
        return self._known.attempts.failure_of(path)

    def _asked(self, path: Path) -> Held | None:
        active = self._known.active
        asked = (*self._known.warmth.warm, *((active,) if active else ()))
        return next((held for held in asked if place_of(held.path) == place_of(path)), None)
