"""What a daemon counts and measures, as values; `faces.metrics` writes them as text.

Names follow Prometheus (https://prometheus.io/docs/practices/naming): base units, in the name;
of a counter without the `_total` that the text has; all without `orchestrator_`, which it has.
A label's values are words of ours, or keys of the configuration: never a peer's, but for an
operator who asks for sessions by name.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Final

from orchestrator.core.quantities import Seconds

BOUNDS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
    28800.0,
)  # fmt: skip
"""Seconds: from a flip between two warm paths (some ms) to a night asleep (8 h)."""


class MetricKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    INFO = "info"
    """Labels, and nothing else."""
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many of something took how long."""

    buckets: tuple[tuple[float | None, int], ...]
    """How many took that many seconds at most; None: any."""
    sum: float
    """Seconds."""


Value = float | Distribution


@dataclass(frozen=True, slots=True)
class Sample:
    value: Value
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: MetricKind
    about: str
    samples: tuple[Sample, ...]
    """All with the same labels' names."""


class Histogram:
    """Counts durations by how long they were."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: Seconds) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def distribution(self) -> Distribution:
        limits = (*BOUNDS, None)
        return Distribution(
            tuple(zip(limits, accumulate(self._counts), strict=True)), self._sum
        )


def counter(name: str, about: str, value: float) -> Metric:
    return Metric(name, MetricKind.COUNTER, about, (Sample(value, {}),))


def gauge(name: str, about: str, value: float | None) -> Metric:
    """Without a sample where there is nothing to be said."""
    samples = () if value is None else (Sample(value, {}),)
    return Metric(name, MetricKind.GAUGE, about, samples)


def counters(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    """One for each value of the label."""
    return Metric(name, MetricKind.COUNTER, about, _samples(label, values))


def gauges(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    return Metric(name, MetricKind.GAUGE, about, _samples(label, values))


def one_of(name: str, about: str, label: str, now: str, all_of: Iterable[str]) -> Metric:
    """1 for what is so, 0 for what could be."""
    return gauges(name, about, label, {str(each): float(each == now) for each in all_of})


def _samples(label: str, values: Mapping[str, float]) -> tuple[Sample, ...]:
    return tuple(Sample(values[each], {label: str(each)}) for each in sorted(values))
