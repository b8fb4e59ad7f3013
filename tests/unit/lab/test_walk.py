"""What a download is said to have seen of a roam."""

import pytest

from orchestrator.lab.internet import Quality
from orchestrator.lab.walk import roam_seen

LTE = Quality(delay_ms=25)
BEGUN, ATTACHED, UNTIL = 10.0, 10.1, 20.0


def every_10_ms(begin: float, end: float) -> list[float]:
    return [begin + n / 100 for n in range(round((end - begin) * 100))]


def test_a_longer_stall_later_is_not_when_data_came_again() -> None:
    arrivals = [*every_10_ms(5.0, 10.0), *every_10_ms(10.335, 12.0), *every_10_ms(12.5, 18.0)]
    seen = roam_seen("wifi -> lte", arrivals, BEGUN, ATTACHED, UNTIL, LTE)
    assert seen.resumed_ms == pytest.approx(235)
    assert seen.outage_ms == pytest.approx(510, abs=10)


def test_what_was_under_way_over_the_old_link_is_not_data_again() -> None:
    arrivals = [*every_10_ms(5.0, 10.14), *every_10_ms(10.4, 18.0)]
    seen = roam_seen("wifi -> lte", arrivals, BEGUN, ATTACHED, UNTIL, LTE)
    assert seen.resumed_ms == pytest.approx(300)


@pytest.mark.parametrize("last", [10.12, 9.0])
def test_nothing_over_the_new_link_is_never(last: float) -> None:
    arrivals = every_10_ms(5.0, last)
    seen = roam_seen("wifi -> lte", arrivals, BEGUN, ATTACHED, UNTIL, LTE)
    assert seen.resumed_ms is None
    assert seen.outage_ms == pytest.approx(1000 * (UNTIL - max(last, BEGUN)), abs=20)
