"""What `orchestrator paths` and `status` say of an endpoint's paths: how each is used, what was
measured of it, and why the traffic is not there."""

from orchestrator.core.mobility_view import MobilityView
from orchestrator.core.paths import Path
from orchestrator.core.quantities import Instant
from orchestrator.services.flow_report import flows_on


def path_report(machine: MobilityView, path: Path, now: Instant) -> dict[str, object]:
    """As `paths --json` has it."""
    tunnel = machine.tunnel_of(path)
    failure = machine.failure_of(path)
    liveness = machine.liveness_of(path)
    verdict = machine.verdict_of(path, now)
    return {
        "link": path.link_name,
        "ifindex": path.link,
        "pop": str(path.pop),
        "gateway": str(path.gateway) if path.gateway else None,
        "server": str(path.server),
        "state": _state(machine, path),
        "health": str(verdict.health) if verdict else None,
        "health_reasons": sorted(verdict.signs) if verdict else [],
        "rtt_ms": round(liveness.srtt * 1000, 2) if liveness and liveness.srtt else None,
        "mtu": machine.mtu_of(path),
        **_quality(machine, path, now),
        "reasons": [str(failure[0])] if failure else [],
        "detail": failure[1] if failure else None,
        "flows": flows_on(machine, path),
        "ike_sa": tunnel.ike if tunnel else None,
        "child_sa": tunnel.child if tunnel else None,
        "spi_in": f"{tunnel.spi_in:08x}" if tunnel else None,
        "spi_out": f"{tunnel.spi_out:08x}" if tunnel else None,
    }


def _state(machine: MobilityView, path: Path) -> str:
    if path == machine.active_path:
        return "active"
    if path in machine.attempt_paths:
        return "negotiating"
    if machine.liveness_of(path):
        return "warm"
    if machine.tunnel_of(path):
        return "draining"
    return "portal" if machine.portals.at(path) else "usable"


def _quality(machine: MobilityView, path: Path, now: Instant) -> dict[str, object]:
    """Rates are those of the best second within ten minutes."""
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
