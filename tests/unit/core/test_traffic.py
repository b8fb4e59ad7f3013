"""When a tunnel's counters are a reason to ask, and how often they are looked at."""

import pytest

from orchestrator.core.quantities import Instant
from orchestrator.core.traffic import (
    BELIEVED,
    IDLE,
    LOOK,
    LOOK_IDLE,
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
    ("received", "sent", "pause"),
    [
        (0, 0, LOOK_IDLE),
        (IDLE, IDLE, LOOK_IDLE),
        (IDLE + 1, 0, LOOK),
        (0, UNANSWERED, LOOK),
    ],
)
def test_is_looked_at_often_while_there_is_traffic(
    traffic: Traffic, received: int, sent: int, pause: float
) -> None:
    traffic.seen(100 + received, 100 + sent, at(1))
    assert traffic.next_look == 1 + pause
