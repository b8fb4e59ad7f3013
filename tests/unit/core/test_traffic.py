"""When a tunnel's counters are a reason to ask, and how often they are looked at."""

import pytest

from orchestrator.core.quantities import Instant
from orchestrator.core.traffic import (
    BELIEVED,
    IDLE,
    LOOK,
    LOOK_DEAF,
    SILENCE,
    UNANSWERED,
    Traffic,
)

EARLY = 0.001


def at(seconds: float) -> Instant:
    return Instant(seconds)


@pytest.fixture
def traffic() -> Traffic:
    """Looked at once, at 0: a hundred packets had come and gone before."""
    found = Traffic(at(0))
    found.seen(100, 100, at(0))
    return found


@pytest.fixture
def quiet(traffic: Traffic) -> Traffic:
    """Nothing came since."""
    traffic.seen(100, 100, at(LOOK))
    assert traffic.quiet
    return traffic


def test_nothing_is_silent_before_the_first_look() -> None:
    assert not Traffic(at(0)).silent(at(60))


def test_packets_that_bring_nothing_back_are_a_reason_to_ask(traffic: Traffic) -> None:
    traffic.seen(100, 100 + UNANSWERED, at(SILENCE))
    assert not traffic.silent(at(SILENCE - EARLY))
    assert traffic.silent(at(SILENCE))


def test_fewer_are_none(traffic: Traffic) -> None:
    traffic.seen(100, 100 + UNANSWERED - 1, at(SILENCE))
    assert not traffic.silent(at(60))


def test_a_stream_that_stops_is_a_reason_to_ask(traffic: Traffic) -> None:
    traffic.seen(100 + IDLE + 1, 100, at(LOOK))
    assert not traffic.silent(at(LOOK + SILENCE - EARLY))
    assert traffic.silent(at(LOOK + SILENCE))


def test_answers_to_probes_are_no_stream(traffic: Traffic) -> None:
    traffic.seen(100 + IDLE, 100, at(LOOK))
    assert not traffic.silent(at(60))


def test_after_asking_the_same_silence_is_no_reason_again(traffic: Traffic) -> None:
    traffic.seen(100, 110, at(SILENCE))
    traffic.asked(at(SILENCE))
    assert not traffic.silent(at(60))
    traffic.seen(100, 110 + UNANSWERED, at(SILENCE + LOOK))
    assert not traffic.silent(at(SILENCE + BELIEVED - EARLY))
    assert traffic.silent(at(SILENCE + BELIEVED))


@pytest.mark.parametrize(
    ("received", "sent"), [(1, 0), (0, 1), (1, 1), (IDLE + 1, 0), (0, UNANSWERED)]
)
def test_is_looked_at_often_while_there_is_traffic(
    traffic: Traffic, received: int, sent: int
) -> None:
    traffic.seen(100 + received, 100 + sent, at(1))
    assert traffic.next_look == 1 + LOOK
    assert not traffic.quiet


class TestQuiet:
    def test_there_is_no_look_until_the_kernel_tells(self, quiet: Traffic) -> None:
        assert quiet.next_look is None
        quiet.stirred(at(7), ours=True)
        assert quiet.next_look == 7

    def test_probes_and_their_answers_do_not_end_it(self, quiet: Traffic) -> None:
        for second in range(1, 4):
            quiet.probed()
            quiet.seen(100 + second - 1, 100 + second, at(second))
            assert quiet.quiet
            quiet.seen(100 + second, 100 + second, at(second + 0.02))
            quiet.answered()
            assert quiet.quiet

    def test_a_packet_beside_a_probe_does(self, quiet: Traffic) -> None:
        quiet.probed()
        quiet.seen(100, 102, at(1))
        assert not quiet.quiet

    def test_a_packet_that_was_answered_ends_it_for_two_looks(self, quiet: Traffic) -> None:
        quiet.seen(101, 101, at(1))
        assert not quiet.wants_probes
        quiet.seen(101, 101, at(1 + LOOK))
        assert quiet.quiet

    def test_others_traffic_makes_us_deaf_for_a_while(self, quiet: Traffic) -> None:
        quiet.stirred(at(7), ours=False)
        assert (quiet.quiet, quiet.next_look) == (False, 7 + LOOK_DEAF)
        quiet.stirred(at(7), ours=True)
        assert quiet.next_look == 7 + LOOK_DEAF, "what it told before is not new"

    def test_an_sa_that_is_new_counts_from_the_beginning(self, quiet: Traffic) -> None:
        quiet.seen(0, 1, at(5))
        assert not quiet.quiet
        quiet.seen(0, 1, at(5 + LOOK))
        assert quiet.quiet


class TestProbesWanted:
    def test_by_a_packet_that_had_its_time_to_bring_something_back(
        self, quiet: Traffic
    ) -> None:
        quiet.seen(100, 101, at(5))
        wanted = [quiet.wants_probes]
        for later in (SILENCE, SILENCE + LOOK):
            quiet.seen(100, 101, at(5 + later))
            wanted.append(quiet.wants_probes)
        assert wanted == [False, True, False], "it has just gone; asked for; the probe decides"
        assert quiet.quiet

    def test_not_by_one_that_was_answered(self, quiet: Traffic) -> None:
        quiet.seen(100, 101, at(5))
        quiet.seen(101, 101, at(5 + SILENCE))
        assert not quiet.wants_probes

    def test_by_much_traffic_although_it_is_answered(self, quiet: Traffic) -> None:
        quiet.seen(110, 110, at(5))
        assert quiet.wants_probes


class TestComing:
    def test_packets_count_for_a_moment(self, quiet: Traffic) -> None:
        quiet.seen(101, 100, at(5))
        assert quiet.heard_until == 5 + LOOK + SILENCE

    def test_answers_to_probes_do_not(self, quiet: Traffic) -> None:
        quiet.probed()
        quiet.seen(101, 101, at(5))
        assert quiet.heard_until == at(0)

    def test_probes_that_were_lost_hide_one_packet_at_most(self, quiet: Traffic) -> None:
        for _ in range(9):
            quiet.probed()
        quiet.seen(100, 109, at(5))
        quiet.answered()
        quiet.seen(102, 109, at(5 + LOOK))
        assert quiet.heard_until == 5 + LOOK + LOOK + SILENCE
