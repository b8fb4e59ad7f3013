"""What an endpoint's machine knows, each part with rules of its own, and what follows for the
kernel."""

from orchestrator.core.attempts import Attempts, Patience
from orchestrator.core.carried import Carried
from orchestrator.core.choice import Choice
from orchestrator.core.classes import Classes
from orchestrator.core.echoes import Echoes
from orchestrator.core.endpoint_state import EndpointState
from orchestrator.core.flaps import Flaps
from orchestrator.core.ike import Tunnel
from orchestrator.core.kernel import ENDPOINT_REQID, Template
from orchestrator.core.liveness import Liveness
from orchestrator.core.mobility_policy import MobilityPolicy
from orchestrator.core.mtu import PathMtus
from orchestrator.core.paths import Path
from orchestrator.core.places import Places, place_of
from orchestrator.core.portal import Portals
from orchestrator.core.quantities import Instant
from orchestrator.core.race import Race
from orchestrator.core.record import Record
from orchestrator.core.trust import Trust
from orchestrator.core.tunnels import Held, Tunnels
from orchestrator.core.vigil import Vigil
from orchestrator.core.warmth import Warmth
from orchestrator.core.wishes import Wishes


class Knowledge:
    """Of one endpoint. Those who decide share it."""

    def __init__(self, policy: MobilityPolicy, first_flip: int) -> None:
        self.policy = policy
        self.record = Record(first_flip, policy.static_vips)
        self.trust = Trust()
        self.active: Held | None = None
        """The tunnel that the traffic takes (`core.steering`); None: it is held."""
        self.places = Places(policy.servers, policy.choice)
        patience = Patience(policy.attempt_limit, policy.backoff_min, policy.backoff_max)
        self.attempts = Attempts(patience, policy.static_vips, first_flip)
        self.tunnels = Tunnels(self.places)
        self.flaps = Flaps()
        self.choice = Choice(self.places, self.flaps, policy.lossy)
        self.warmth = Warmth(
            self.tunnels, self.places, self.choice, policy.warm_links, policy.flows
        )
        self.classes = Classes(policy.flows, self.places, self.warmth, self.choice.penalties)
        self.carried = Carried()
        self.wishes = Wishes(self.places, self.attempts, self.tunnels, self.warmth)
        self.race = Race(self.attempts, self.wishes, self.flaps, policy.race)
        self.portals = Portals(policy.portal, self.places, self.tunnels, self.attempts)
        usual, longest = policy.probe_interval, policy.probe_idle
        meters = self.choice.meters
        self.vigil = Vigil(self.warmth, meters, usual, longest, policy.dead_after)
        self.mtus = PathMtus(policy.inner.mtu if policy.seeks_mtu else None, self.vigil)
        self.echoes = Echoes()

    @property
    def active_path(self) -> Path | None:
        return self.active.path if self.active else None

    @property
    def watched(self) -> Held | None:
        """Whose traffic is looked at."""
        return self.active if self.trust.watches else None

    @property
    def sized(self) -> Held | None:
        """Of which it is asked how much it carries: what the server is deaf to would count as
        too large."""
        return None if self.trust.waits else self.watched

    @property
    def can_negotiate(self) -> bool:
        return self.record.charon is not None and not self.trust.falls_asleep

    def tunnel_of(self, path: Path) -> Tunnel | None:
        """The one in use, if it leads there, or else one that does."""
        active = self.active
        if active is not None and place_of(active.path) == place_of(path):
            return active.tunnel
        return self.tunnels.at(path)

    def unproven(self, now: Instant) -> Liveness:
        """Of a tunnel of which nothing is known yet."""
        return Liveness(self.policy.probe_interval, self.policy.dead_after, now)

    def kernel(self) -> EndpointState:
        """What the kernel has to look like now."""
        way = None
        if self.active is not None:
            way = _template(self.active.tunnel)
        active, probed = (None, way) if self.trust.waits else (way, None)
        warm = tuple((held.slot, _template(held.tunnel)) for held in self.warmth.warm)
        tables, limit = self.places.tables, self.mtus.limit(self.active)
        inner, vips, flows = self.policy.inner, self.record.vips, self.policy.flows
        state = EndpointState(inner, vips, tables, active, probed, limit, warm, flows)
        for number, held in self.classes.bound:
            state = state.bind(number, _template(held.tunnel), held.slot)
        return state


def _template(tunnel: Tunnel) -> Template:
    return Template(tunnel.local, tunnel.remote, ENDPOINT_REQID)
