"""What the operator configured about moving, as the endpoint's machine has it."""

from dataclasses import dataclass

from orchestrator.core.endpoint_state import Inner
from orchestrator.core.flow_class import FlowClass
from orchestrator.core.paths import LinkChoice
from orchestrator.core.portal import PortalPolicy
from orchestrator.core.quantities import IPAddress, Seconds
from orchestrator.core.race import WIDTH


@dataclass(frozen=True, slots=True)
class MobilityPolicy:
    """Of one endpoint."""

    servers: tuple[IPAddress, ...]
    attempt_limit: Seconds
    backoff_min: Seconds
    backoff_max: Seconds
    probe_interval: Seconds
    dead_after: Seconds
    probe_idle: Seconds = Seconds(12.5)
    """The longest interval between two probes of the active path."""
    choice: LinkChoice = LinkChoice()
    inner: Inner = Inner()
    static_vips: tuple[IPAddress, ...] = ()
    seeks_mtu: bool = False
    """Whether it is asked how large a packet each path carries."""
    lossy: float | None = None
    """The loss, 0 to 1, at which a path is useless; None: quality is no reason to leave one."""
    warm_links: int = 1
    """On how many links there is a tunnel at the same time."""
    race: int = WIDTH
    """So many negotiations at the same time while nothing works."""
    portal: PortalPolicy = PortalPolicy()
    flows: tuple[FlowClass, ...] = ()
    drain: Seconds = Seconds(1.0)
    """A replaced tunnel still receives this long: more than any RTT we work with."""
