"""What is told of a path's quality, and why the traffic is not there."""

from orchestrator.core.mobility_view import MobilityView
from orchestrator.core.paths import Path
from orchestrator.core.quantities import Instant


def path_quality(machine: MobilityView, path: Path, now: Instant) -> dict[str, object]:
    """As `paths --json` has it. Rates are those of the best second within ten minutes."""
    choice, liveness = machine.policy.choice, machine.liveness_of(path)
    known = machine.quality_of(path, now)
    measured = liveness is not None and liveness.srtt is not None
    return {
        "rttvar_ms": round(liveness.rttvar * 1000, 2) if liveness and measured else None,
        "least_rtt_ms": None if known.rtt is None else round(known.rtt * 1000, 2),
        "loss_percent": None if known.loss is None else round(known.loss * 100, 1),
        "signal_dbm": known.signal,
        "rate_in_bps": round(known.rate_in * 8),
        "rate_out_bps": round(known.rate_out * 8),
        "class": choice.class_of(path.link_name) + 1,
        "metered": choice.is_metered(path.link_name),
        "why_not": sorted(machine.why_not(path, now)),
    }
