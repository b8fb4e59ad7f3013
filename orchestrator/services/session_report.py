"""What `orchestrator sessions` and `status` say of a server's sessions."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from orchestrator.core.absence import SessionPolicy, SessionState
from orchestrator.core.flows import FlowRecord, ProxySettings
from orchestrator.core.ike import Tunnel
from orchestrator.core.quantities import Instant, IPAddress
from orchestrator.core.session import Session

KEPT: Final = (SessionState.ATTACHED, SessionState.AWAY, SessionState.ASLEEP)
"""One that has expired is not."""


def tally(sessions: Iterable[Session]) -> dict[str, int]:
    """How many there are in each state, and in all."""
    states = Counter(session.state for session in sessions)
    return {**{str(state): states[state] for state in KEPT}, "all": states.total()}


def by_vip(flows: Iterable[FlowRecord]) -> Mapping[IPAddress, Sequence[FlowRecord]]:
    found = defaultdict(list)
    for flow in flows:
        found[flow.vip.host].append(flow)
    return found


def queued(
    flows: Sequence[FlowRecord], vips: int, settings: ProxySettings, now: Instant
) -> dict[str, object]:
    """What the proxy keeps for the flows of one session, and the sum of the limits of its
    virtual addresses, of which there are so many."""
    spool = settings.spool
    waits = [flow.waits_since for flow in flows if flow.waits_since is not None]
    return {
        "bytes": sum(flow.queued_to_peer + flow.queued_to_endpoint for flow in flows),
        "limit_bytes": vips * settings.octets_per_vip,
        "spooled_bytes": sum(flow.spooled for flow in flows),
        "spool_limit_bytes": None if spool is None else vips * spool.per_vip,
        "waiting": len(waits),
        "waiting_since_s": round(now - min(waits), 3) if waits else None,
    }


def report(
    session: Session,
    policy: SessionPolicy,
    flows: Mapping[IPAddress, Sequence[FlowRecord]],
    settings: ProxySettings,
    held: Mapping[str, object],
    lease: object,
    now: Instant,
) -> dict[str, object]:
    """`flows` are those of each virtual address."""
    tunnel, following = session.active, session.next_state(policy)
    own = [flow for vip in session.vips for flow in flows.get(vip, ())]
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
        "tunnels": [_tunnel(session, tunnel, now) for tunnel in session.tunnels],
        "roams": session.roams,
        "flows": len(own),
        "queued": queued(own, len(session.vips), settings, now),
        "held": held,
        "lease": lease,
    }


def _tunnel(session: Session, tunnel: Tunnel, now: Instant) -> dict[str, object]:
    """`heard_s`: since a probe named it; None: none has."""
    heard = session.known[tunnel.child].heard
    return {
        "pop": f"{tunnel.remote}:{tunnel.remote_port}",
        "ike_sa": tunnel.ike,
        "spi_out": f"{tunnel.spi_out:08x}",
        "active": tunnel == session.active,
        "heard_s": None if heard is None else round(now - heard, 3),
    }
