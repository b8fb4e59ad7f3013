"""Writes metrics as OpenMetrics text (https://prometheus.io/docs/specs/om/open_metrics_spec/),
which every Prometheus since 2.5 reads.

Of prometheus_client only the writer is used: its metrics count by themselves, in a registry of
the process and under locks for threads; ours are read off the machines when somebody asks.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, assert_never

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from orchestrator.core.metric import Distribution, Metric, MetricKind, Sample

PREFIX: Final = "orchestrator_"
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily


def exposition(metrics: Iterable[Metric]) -> str:
    """The whole text, `# EOF` included."""
    text: bytes = generate_latest(_Collected(metrics))  # type: ignore[no-untyped-call]
    return text.decode()


async def written(metrics: Iterable[Metric]) -> str:
    """The same, beside what the daemon does: of 2000 sessions by name it takes 0.2 s."""
    return await asyncio.to_thread(exposition, tuple(metrics))


@dataclass(frozen=True, slots=True)
class _Collected:
    """What the writer takes for a registry."""

    metrics: Iterable[Metric]

    def collect(self) -> Iterator[_Family]:
        for metric in self.metrics:
            if metric.samples:
                yield _family(metric)


def _family(metric: Metric) -> _Family:
    name = PREFIX + metric.name
    labels = tuple(metric.samples[0].labels)
    match metric.kind:
        case MetricKind.COUNTER:
            counted = CounterMetricFamily(name, metric.about, labels=labels)
            for sample in metric.samples:
                counted.add_metric(_values(sample, labels), _number(sample))
            return counted
        case MetricKind.GAUGE:
            measured = GaugeMetricFamily(name, metric.about, labels=labels)
            for sample in metric.samples:
                measured.add_metric(_values(sample, labels), _number(sample))
            return measured
        case MetricKind.INFO:
            known = InfoMetricFamily(name, metric.about)
            known.add_metric((), dict(metric.samples[0].labels))
            return known
        case MetricKind.HISTOGRAM:
            shared = HistogramMetricFamily(name, metric.about, labels=labels)
            for sample in metric.samples:
                found = _distribution(sample)
                buckets = [(_limit(most), count) for most, count in found.buckets]
                shared.add_metric(_values(sample, labels), buckets, found.sum)
            return shared
        case _:
            assert_never(metric.kind)


def _values(sample: Sample, labels: tuple[str, ...]) -> list[str]:
    return [sample.labels[name] for name in labels]


def _number(sample: Sample) -> float:
    if isinstance(sample.value, Distribution):
        raise TypeError("a distribution is no number")
    return sample.value


def _distribution(sample: Sample) -> Distribution:
    if not isinstance(sample.value, Distribution):
        raise TypeError("a number is no distribution")
    return sample.value


def _limit(seconds: float | None) -> str:
    return "+Inf" if seconds is None else str(seconds)
