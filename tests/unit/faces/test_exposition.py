"""The text is what a Prometheus reads: its own parser does, and finds what was written."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from orchestrator.core.metric import (
    Distribution,
    Histogram,
    Metric,
    MetricKind,
    Sample,
    counter,
    counters,
    gauge,
)
from orchestrator.core.quantities import Seconds
from orchestrator.faces.exposition import exposition


def read(*metrics: Metric) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(  # type: ignore[no-untyped-call]
        exposition(metrics)
    )
    return {
        (sample.name, ",".join(f"{k}={v}" for k, v in sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_text_word_by_word() -> None:
    refused = counters("flows_refused", "Reset at once.", "reason", {"full": 2, "foreign": 1})
    assert exposition((refused, gauge("hold_bytes", "Held.", 7))) == (
        "# HELP orchestrator_flows_refused Reset at once.\n"
        "# TYPE orchestrator_flows_refused counter\n"
        'orchestrator_flows_refused_total{reason="foreign"} 1.0\n'
        'orchestrator_flows_refused_total{reason="full"} 2.0\n'
        "# HELP orchestrator_hold_bytes Held.\n"
        "# TYPE orchestrator_hold_bytes gauge\n"
        "orchestrator_hold_bytes 7.0\n"
        "# EOF\n"
    )


def test_what_has_nothing_to_say_is_left_away() -> None:
    assert read(gauge("probe_rtt_seconds", "", None), counter("roams", "", 3)) == {
        ("orchestrator_roams_total", ""): 3
    }


def test_a_histogram_has_buckets_a_count_and_a_sum() -> None:
    histogram = Histogram()
    histogram.observe(Seconds(0.02))
    histogram.observe(Seconds(7))
    sample = Sample(histogram.distribution(), {})
    found = read(Metric("handover_seconds", MetricKind.HISTOGRAM, "", (sample,)))
    name = "orchestrator_handover_seconds"
    assert found[f"{name}_bucket", "le=0.01"] == 0
    assert found[f"{name}_bucket", "le=0.025"] == 1
    assert found[f"{name}_bucket", "le=+Inf"] == 2
    assert (found[f"{name}_count", ""], found[f"{name}_sum", ""]) == (2, 7.02)


def test_an_info_has_labels_only() -> None:
    sample = Sample(1, {"version": "0.1.0", "role": "server"})
    found = read(Metric("build", MetricKind.INFO, "", (sample,)))
    assert found == {("orchestrator_build_info", "role=server,version=0.1.0"): 1}


def test_a_label_may_be_any_text() -> None:
    ugly = 'a"b\\c\nd e{}='
    found = read(counters("x", "", "identity", {ugly: 1}))
    assert found == {("orchestrator_x_total", f"identity={ugly}"): 1}


@pytest.mark.parametrize(
    ("kind", "value"),
    [(MetricKind.COUNTER, Distribution((), 0)), (MetricKind.HISTOGRAM, 1.0)],
)
def test_a_value_of_another_kind_is_a_defect(
    kind: MetricKind, value: float | Distribution
) -> None:
    with pytest.raises(TypeError):
        exposition((Metric("x", kind, "", (Sample(value, {}),)),))
