"""What people are told of classes of flows: which way each goes, and why."""

from orchestrator.core.classes import Way
from orchestrator.core.mobility_view import MobilityView
from orchestrator.core.paths import Path


def way_of(way: Way, active: Path | None) -> Path | None:
    """None: it is held, as everything is."""
    return way.held.path if way.held is not None else active


def flow_report(machine: MobilityView) -> list[dict[str, object]]:
    """For `status`: every class."""
    found: list[dict[str, object]] = []
    for way in machine.classes.ways:
        path = way_of(way, machine.active_path)
        found.append(
            {
                "name": way.flows.name,
                "link": path.link_name if path is not None else None,
                "own_way": way.held is not None,
                "reason": str(way.why),
            }
        )
    return found


def flows_on(machine: MobilityView, path: Path) -> list[str]:
    """For `paths`: the classes that take this one."""
    ways = machine.classes.ways
    return [way.flows.name for way in ways if way_of(way, machine.active_path) == path]
