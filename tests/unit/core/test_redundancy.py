"""Each packet that is sent twice is taken once, whatever becomes of its copies on the way."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.quantities import SERIALS
from orchestrator.core.redundancy import BURST, RATE, WINDOW, Meter, Numbering, Window
from tests.unit.core.builders import at

beginnings = st.sampled_from((0, 1, SERIALS - 2, SERIALS - WINDOW // 2))


@st.composite
def journeys(draw: st.DrawFn) -> list[int]:
    """Numbers as they arrive over two links: each loses some, keeps its order, and is late."""
    first, length = draw(beginnings), draw(st.integers(1, 60))
    links = []
    for _ in range(2):
        delay, lost = draw(st.integers(0, 40)), draw(st.sets(st.integers(0, 59)))
        links += [(n + delay, n) for n in range(length) if n not in lost]
    return [(first + number) % SERIALS for _, number in sorted(links)]


@given(journeys())
def test_each_number_that_arrives_is_taken_exactly_once(arriving: list[int]) -> None:
    window = Window()
    taken = [number for number in arriving if window.takes(1, number)]
    assert sorted(taken) == sorted(set(arriving))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, SERIALS - 1))))
def test_nothing_is_taken_twice_in_a_row_and_what_is_kept_is_bounded(
    arriving: list[tuple[int, int]],
) -> None:
    window = Window()
    for stream, number in arriving:
        window.takes(stream, number)
        assert not window.takes(stream, number)
        assert len(window._latest) == len(window._seen) <= 2
        assert all(seen < 1 << WINDOW for seen in window._seen.values())


def test_what_is_older_than_the_window_is_not_taken() -> None:
    window = Window()
    assert window.takes(1, WINDOW)
    assert window.takes(1, 1)
    assert not window.takes(1, 0)


def test_a_jump_beyond_the_window_forgets_what_was_before() -> None:
    window = Window()
    window.takes(1, 0)
    assert window.takes(1, 5 * WINDOW)
    assert window.takes(1, 5 * WINDOW - 1)
    assert not window.takes(1, 0)


def test_a_restarted_sender_begins_anew_while_copies_of_before_still_arrive() -> None:
    window = Window()
    assert window.takes(1, 500)
    assert window.takes(2, 0)
    assert not window.takes(1, 500)
    assert window.takes(1, 501)
    assert not window.takes(2, 0)


def test_numbers_follow_each_other() -> None:
    numbering = Numbering(7)
    assert [numbering.next() for _ in range(3)] == [0, 1, 2]


def test_a_call_goes_twice_and_a_flood_does_not() -> None:
    call, flood = Meter(), Meter()
    assert all(call.allows(at(number * 0.02)) for number in range(500))
    twice = sum(flood.allows(at(number * 0.0001)) for number in range(10_000))
    assert twice <= BURST + RATE + 1
