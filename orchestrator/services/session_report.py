"""What `orchestrator sessions` and `status` say of a server's sessions."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from orchestrator.core.absence import SessionPolicy, SessionState
from orchestrator.core.quantities import Instant, IPAddress
from orchestrator.core.session import Session

KEPT: Final = (SessionState.ATTACHED, SessionState.AWAY, SessionState.ASLEEP)
"""One that has expired is not."""


def tally(sessions: Iterable[Session]) -> dict[str, int]:
    """How many there are in each state, and in all."""
    states = Counter(session.state for session in sessions)
    return {**{str(state): states[state] for state in KEPT}, "all": states.total()}


def report(
    session: Session,
    policy: SessionPolicy,
    flows: Mapping[IPAddress, int],
    held: Mapping[str, object],
    lease: object,
    now: Instant,
) -> dict[str, object]:
    """`flows` counts those of each virtual address."""
    tunnel, following = session.active, session.next_state(policy)
    return {
        "identity": session.identity,
        "vip": [str(vip) for vip in session.vips],
        "state": str(session.state),
        "reasons": [str(session.reason)],
        "since_s": round(now - session.since, 3),
        "next": None
        if following is None
        else {"state": str(following[0]), "in_s": round(max(following[1] - now, 0), 3)},
        "pop": f"{tunnel.remote}:{tunnel.remote_port}" if tunnel else None,
        "ike_sa": tunnel.ike if tunnel else None,
        "reqid": tunnel.reqid if tunnel else None,
        "tunnels": len(session.tunnels),
        "roams": session.roams,
        "flows": sum(flows[vip] for vip in session.vips),
        "held": held,
        "lease": lease,
    }
