"""Durations are counted in the bucket that they belong to."""

from hypothesis import given, strategies

from orchestrator.core.metric import BOUNDS, Histogram, one_of
from orchestrator.core.quantities import Seconds


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram()
    for seconds in (0.005, 0.0051, 9e9):
        histogram.observe(Seconds(seconds))
    found = histogram.distribution()
    assert found.buckets[:2] == ((0.005, 1), (0.01, 2))
    assert found.buckets[-2:] == ((28800.0, 2), (None, 3))


@given(strategies.lists(strategies.floats(0, 1e6)))
def test_each_bucket_has_all_that_took_no_longer(durations: list[float]) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.observe(Seconds(seconds))
    found = histogram.distribution()
    assert [most for most, _ in found.buckets] == [*BOUNDS, None]
    for most, count in found.buckets:
        assert count == sum(most is None or seconds <= most for seconds in durations)
    assert found.sum == sum(durations)


def test_of_many_states_one_is_so() -> None:
    found = one_of("state", "", "state", "away", ("attached", "away"))
    assert {s.labels["state"]: s.value for s in found.samples} == {"attached": 0, "away": 1}
