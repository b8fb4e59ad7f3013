"""A server's metrics: its sessions, leases and proxied connections."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from orchestrator.config.server import ServerConfig
from orchestrator.core import leases
from orchestrator.core.flows import Kept, ProxyCounters
from orchestrator.core.leases import Lease
from orchestrator.core.metric import (
    Metric,
    MetricKind,
    Sample,
    counter,
    counters,
    gauge,
    gauges,
)
from orchestrator.core.quantities import Instant
from orchestrator.core.session import Session
from orchestrator.services.session_report import KEPT

DURATIONS: Final = {
    "attached": ("absence_seconds", "How long endpoints were away that are back."),
    "proxy": (
        "proxy_standstill_seconds",
        "Of all connections, while a worker replaced another.",
    ),
}


def session_metrics(sessions: Collection[Session], limit: int) -> Iterator[Metric]:
    states = Counter(session.state for session in sessions)
    found = {str(state): float(states[state]) for state in KEPT}
    yield gauges("sessions", "Endpoints with a session.", "state", found)
    yield gauge("sessions_limit", "[limits] sessions.", limit)
    tunnels = sum(len(session.tunnels) for session in sessions)
    yield gauge("tunnels", "Of all sessions.", tunnels)


def each_session_metrics(sessions: Iterable[Session], now: Instant) -> Iterator[Metric]:
    """By identity: as many as there are endpoints."""
    known = tuple(sessions)
    states = (
        Sample(
            float(session.state is state), {"identity": session.identity, "state": str(state)}
        )
        for session in known
        for state in KEPT
    )
    about = "1 for the state that it is in."
    yield Metric("session_state", MetricKind.GAUGE, about, tuple(states))
    since = (Sample(now - each.since, {"identity": each.identity}) for each in known)
    about = "Since when it is in it."
    yield Metric("session_state_seconds", MetricKind.GAUGE, about, tuple(since))
    roams = (Sample(float(each.roams), {"identity": each.identity}) for each in known)
    about = "Changes of the address that it comes from, or that it comes to."
    yield Metric("session_roams", MetricKind.COUNTER, about, tuple(roams))


def lease_metrics(config: ServerConfig, known: Collection[Lease]) -> Iterator[Metric]:
    fixed = sum(lease.static for lease in known)
    kinds = {"fixed": float(fixed), "leased": float(len(known) - fixed)}
    yield gauges("leases", "Identities with virtual addresses.", "kind", kinds)
    free = {str(pool): float(leases.free(pool, config.vip, known)) for pool in config.vip.pools}
    yield gauges("pool_free_addresses", "Virtual addresses of nobody.", "pool", free)


def proxy_metrics(found: ProxyCounters | None) -> Iterator[Metric]:
    """None: no worker answers."""
    yield gauge("proxy_up", "Whether the proxy worker answers.", float(found is not None))
    if found is None:
        return
    yield gauge("proxy_flows", "Connections that stand.", found.open)
    yield gauge("proxy_flows_capacity", "As many as there may be.", found.capacity)
    yield counter("proxy_flows_accepted", "Connections taken.", found.accepted)
    octets = {"to-peer": float(found.to_peer), "to-endpoint": float(found.to_endpoint)}
    yield counters("proxy_bytes", "Octets passed on.", "direction", octets)
    for name, about, label, values in (
        ("proxy_flows_refused", "Connections reset at once.", "reason", found.refused),
        (
            "proxy_dial_failures",
            "Peers that could not be reached.",
            "reason",
            found.dial_failures,
        ),
        ("proxy_flows_ended", "Connections that are over.", "outcome", found.ended),
    ):
        yield counters(name, about, label, {str(why): float(count) for why, count in values})
    yield counter("proxy_watchers_lost", "Watchers too slow for events.", found.events_lost)
    yield from _kept("proxy_queued", "in memory", found.memory)
    yield from _kept("proxy_spooled", "on disk", found.disk)
    yield counter("proxy_spool_failures", "Times the disk took nothing.", found.disk_failures)
    about = "Acknowledged octets that the disk did not give back."
    yield counter("proxy_spool_lost_bytes", about, found.disk_lost)


def _kept(name: str, where: str, kept: Kept) -> Iterator[Metric]:
    yield gauge(f"{name}_bytes", f"Octets kept {where} for who does not read.", kept.octets)
    yield gauge(f"{name}_limit_bytes", "As many as there may be; 0: none.", kept.limit)
    yield gauge(f"{name}_waiting", f"Streams that wait for room {where}.", kept.waiting)
    met = {str(limit): float(count) for limit, count in kept.met}
    yield counters(f"{name}_met", "Times a limit was met.", "limit", met)
