"""An endpoint's metrics: where it is, how it got there, how its path does."""

from collections.abc import Iterator
from typing import Final

from orchestrator.core.liveness import PathHealth
from orchestrator.core.metric import Metric, MetricKind, Sample, counter, gauge, one_of
from orchestrator.core.mobility_events import State
from orchestrator.core.mobility_view import MobilityView
from orchestrator.core.quantities import Instant

DURATIONS: Final = {
    "attached": (
        "handover_seconds",
        "From the loss of a path, or the flip, to the first answer.",
    ),
}


def endpoint_metrics(machine: MobilityView, now: Instant, frozen: int) -> Iterator[Metric]:
    """`frozen` is how many sockets of applications have their limits of patience lifted."""
    yield one_of("state", "1 for the state that it is in.", "state", machine.state, State)
    yield gauge("state_seconds", "Since when it is in it.", now - machine.since)
    yield counter("roams", "Changes of link, own address or server address.", machine.roams)
    yield gauge("paths", "Usable ways to the server.", len(machine.paths))
    tunnels = sum(machine.tunnel_of(path) is not None for path in machine.paths)
    yield gauge("tunnels", "Of them, those with a tunnel.", tunnels)
    yield gauge("frozen_sockets", "Applications' sockets whose limits are lifted.", frozen)
    yield from _path_metrics(machine, now)
    liveness = machine.liveness
    yield gauge(
        "probe_rtt_seconds",
        "Smoothed round trip of the active path (RFC 6298).",
        liveness.srtt if liveness else None,
    )
    yield gauge(
        "probe_rtt_variation_seconds",
        "How much it varies.",
        liveness.rttvar if liveness and liveness.srtt is not None else None,
    )
    path = machine.active_path
    yield gauge(
        "path_mtu_octets",
        "The largest packet inside the tunnel that is sent along the active path.",
        machine.mtu_of(path) if path else None,
    )
    if liveness is not None:
        health = liveness.health(now)
        yield one_of("path_health", "1 for how the path is.", "health", health, PathHealth)


def _path_metrics(machine: MobilityView, now: Instant) -> Iterator[Metric]:
    """By link, own address and server address; as many as there are tables for."""
    active = machine.active_path
    rtt: list[Sample] = []
    loss: list[Sample] = []
    rate: list[Sample] = []
    signal: list[Sample] = []
    used: list[Sample] = []
    for path in machine.paths:
        of = {"link": path.link_name, "pop": str(path.pop), "server": str(path.server)}
        known = machine.quality_of(path, now)
        used.append(Sample(float(path == active), of))
        rtt += [] if known.rtt is None else [Sample(known.rtt, of)]
        loss += [] if known.loss is None else [Sample(known.loss, of)]
        signal += [] if known.signal is None else [Sample(float(known.signal), of)]
        rate.append(Sample(known.rate_in, {**of, "direction": "in"}))
        rate.append(Sample(known.rate_out, {**of, "direction": "out"}))
    for name, about, samples in (
        ("path_active", "1 for the one that carries the traffic.", used),
        ("path_rtt_seconds", "Shortest of the last round trips of its probes.", rtt),
        ("path_loss_ratio", "Of its round trips, or of what the server sent over it.", loss),
        ("path_signal_dbm", "How well its radio hears the access point.", signal),
        ("path_rate_bytes", "Octets a second, in its best second of ten minutes.", rate),
    ):
        yield Metric(name, MetricKind.GAUGE, about, tuple(samples))
