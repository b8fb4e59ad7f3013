"""What both daemons count, as metrics; see also `endpoint_metrics` and `server_metrics`."""

from collections.abc import Iterator, Mapping

from orchestrator import __version__
from orchestrator.adapters import nftables
from orchestrator.core.errors import KernelError
from orchestrator.core.hold import Drop
from orchestrator.core.metric import (
    Metric,
    MetricKind,
    Sample,
    counter,
    counters,
    gauge,
)
from orchestrator.core.quantities import Seconds
from orchestrator.services.hold import Held, Holder
from orchestrator.services.journal import Journal
from orchestrator.services.reconciler import Reconciler


def daemon_metrics(
    role: str, uptime: Seconds, charon: str | None, waiting: int, reconciler: Reconciler
) -> Iterator[Metric]:
    """`charon` is its version, None while it is absent; `waiting` is news not handled yet."""
    build = Sample(1.0, {"version": __version__, "role": role})
    yield Metric("build", MetricKind.INFO, "The release that runs, and as what.", (build,))
    yield gauge("uptime_seconds", "Since the daemon started.", uptime)
    yield gauge("charon_up", "Whether strongSwan's charon answers.", float(charon is not None))
    yield gauge("news_waiting", "Events that are not handled yet.", waiting)
    yield counter("repairs", "Objects that others changed in the kernel.", reconciler.repairs)
    refused = len(reconciler.failures)
    yield gauge("kernel_refusals", "Objects that the kernel does not accept now.", refused)


def journal_metrics(
    journal: Journal, durations: Mapping[str, tuple[str, str]]
) -> Iterator[Metric]:
    """`durations` names those of events that take a time, and says what it is."""
    yield counters("events", "What happened, as `watch` tells it.", "event", journal.counters)
    reasons = [
        Sample(count, {"event": event, "reason": reason})
        for (event, reason), count in sorted(journal.reasons.items())
    ]
    about = "What happened, by reason; with several of them an event counts for each."
    yield Metric("event_reasons", MetricKind.COUNTER, about, tuple(reasons))
    for event, (name, about) in durations.items():
        known = journal.durations.get(event)
        samples = () if known is None else (Sample(known.distribution(), {}),)
        yield Metric(name, MetricKind.HISTOGRAM, about, samples)


def hold_metrics(holder: Holder) -> Iterator[Metric]:
    """Of all sessions together."""
    held, total = holder.held(), holder.total
    yield gauge("hold_packets", "Packets that cannot be sent now.", held.packets)
    yield gauge("hold_bytes", "Octets of them.", held.octets)
    yield gauge("hold_flows", "Flows with a packet among them.", held.flows)
    yield gauge("hold_limit_bytes", "Sum of the limits of all addresses.", held.limit)
    about = "How near the fullest address is to a limit of its own: 1 is full."
    yield gauge("hold_fullness_ratio", about, held.fullness)
    yield gauge("hold_oldest_seconds", "Age of the oldest packet.", held.oldest)
    yield gauge("hold_since_seconds", "Since when something is held.", held.since)
    yield gauge("hold_sessions", "Sessions with a packet among them.", total.sessions)
    yield gauge(
        "hold_memory_bytes", "Memory for them, as [hold] total counts it.", total.octets
    )
    if total.is_limited:
        yield gauge("hold_memory_limit_bytes", "[hold] total.", total.limit)
    dropped = {str(why): float(held.dropped[why]) for why in Drop}
    about = "Packets that were lost instead of sent, by reason."
    yield counters("hold_dropped_packets", about, "reason", dropped)


def session_hold_metrics(of_whom: Mapping[str, Held]) -> Iterator[Metric]:
    """The same for each session, by identity."""
    values = {
        who: (float(held.packets), float(held.octets), held.fullness, held.oldest or 0.0)
        for who, held in of_whom.items()
    }
    names = (
        ("session_hold_packets", "Packets held."),
        ("session_hold_bytes", "Octets of them."),
        ("session_hold_fullness_ratio", "How near to a limit: 1 is full."),
        ("session_hold_oldest_seconds", "Age of the oldest packet."),
    )
    for place, (name, about) in enumerate(names):
        samples = (Sample(value[place], {"identity": who}) for who, value in values.items())
        yield Metric(name, MetricKind.GAUGE, about, tuple(samples))
    dropped = [
        Sample(count, {"identity": who, "reason": str(why)})
        for who, held in of_whom.items()
        for why, count in sorted(held.dropped.items())
    ]
    about = "Packets lost, by reason, since the session began."
    yield Metric("session_hold_dropped_packets", MetricKind.COUNTER, about, tuple(dropped))


async def firewall_metrics() -> tuple[Metric, ...]:
    """Without samples where they cannot be read."""
    try:
        found = await nftables.counters()
    except KernelError:
        found = {}
    packets = {name: float(each.packets) for name, each in found.items()}
    octets = {name: float(each.octets) for name, each in found.items()}
    return (
        counters("firewall_packets", "Counters of our nftables table.", "counter", packets),
        counters("firewall_bytes", "Counters of our nftables table.", "counter", octets),
    )
