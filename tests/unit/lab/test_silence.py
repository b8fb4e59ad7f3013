"""How long nothing came, of arrivals and of a ticker's packets."""

import pytest

from orchestrator.lab.silence import longest_silence
from orchestrator.lab.ticker import Log


def test_the_longest_silence_is_between_two_arrivals() -> None:
    assert longest_silence([1.0, 2.0, 5.0, 6.0], 0.0, 7.0) == (2.0, 5.0)


def test_silence_reaches_to_both_ends() -> None:
    assert longest_silence([3.0, 3.5], 0.0, 4.0) == (0.0, 3.0)
    assert longest_silence([0.5, 1.0], 0.0, 4.0) == (1.0, 4.0)


def test_what_arrived_outside_does_not_count() -> None:
    assert longest_silence([1.0, 9.0], 2.0, 4.0) == (2.0, 4.0)


@pytest.fixture
def log() -> Log:
    """Sent every 10 ms from 0, each 5 ms under way; 3 to 7 are lost."""
    sent = [number / 100 for number in range(20)]
    arrived = {number: at + 0.005 for number, at in enumerate(sent) if not 3 <= number <= 7}
    return Log(sent, arrived)


def test_a_gap_begins_with_the_last_arrival_before_it(log: Log) -> None:
    assert log.longest_gap(0.03, 0.15) == pytest.approx(0.06)


def test_a_gap_that_began_before_is_counted_whole(log: Log) -> None:
    assert log.longest_gap(0.05, 0.15) == pytest.approx(0.06)


def test_what_has_not_come_by_the_end_is_a_gap_until_then(log: Log) -> None:
    assert log.longest_gap(0.0, 0.06) == pytest.approx(0.035)


def test_a_gap_is_no_longer_than_usual_where_nothing_is_lost(log: Log) -> None:
    assert log.longest_gap(0.1, 0.18) == pytest.approx(0.01)


def test_before_the_first_arrival_a_gap_begins_where_one_looks() -> None:
    assert Log([0.0], {}).longest_gap(1.0, 3.0) == 2.0


def test_packets_that_overtake_each_other_keep_the_gap_right() -> None:
    log = Log([0.0, 0.01, 0.02], {1: 0.015, 0: 0.03, 2: 0.04})
    assert log.longest_gap(0.015, 0.04) == pytest.approx(0.015)


def test_the_first_packet_sent_since_then(log: Log) -> None:
    assert log.first_after(0.02, 0.025) == pytest.approx(0.085)
    assert log.first_after(0.02, 0.01) == pytest.approx(0.025)
    assert log.first_after(1.0, 0.0) is None


def test_lost_are_those_that_never_arrive(log: Log) -> None:
    assert log.lost_between(0.0, 0.2) == 5
    assert log.lost_between(0.05, 0.065) == 2
