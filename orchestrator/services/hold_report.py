"""What `orchestrator status` and `sessions` say of what is held."""

from orchestrator.core.hold_total import HoldTotal
from orchestrator.services.hold import Held


def held_report(held: Held) -> dict[str, object]:
    return {
        "packets": held.packets,
        "bytes": held.octets,
        "flows": held.flows,
        "since_s": None if held.since is None else round(held.since, 3),
        "oldest_s": None if held.oldest is None else round(held.oldest, 3),
        "limit_bytes": held.limit,
        "percent": round(100 * held.fullness, 1),
        "dropped": {str(why): count for why, count in held.dropped.items()},
    }


def all_held_report(held: Held, total: HoldTotal) -> dict[str, object]:
    """And of the limit of all sessions together."""
    limit = total.limit if total.is_limited else None
    return {
        **held_report(held),
        "sessions": total.sessions,
        "total_bytes": total.octets,
        "total_limit_bytes": limit,
        "total_percent": None if limit is None else round(100 * total.octets / limit, 1),
    }
