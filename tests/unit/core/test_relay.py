"""Dialogues with the relay: what it reads and writes, and how a connection ends."""

import pytest

from orchestrator.core.errors import IllegalEvent
from orchestrator.core.relay import Relay
from orchestrator.core.relay_events import Act, Event, Outcome, Phase
from tests.unit.core.relay_dialogues import (
    INNER,
    LIMIT,
    OUTER,
    READ_INNER,
    READ_OUTER,
    WRITE_INNER,
    WRITE_OUTER,
    opened,
    says,
    step,
    writing,
)


def test_reads_nothing_before_the_dialled_leg_answers() -> None:
    relay = Relay(dialled=OUTER, limit=LIMIT)
    says(
        relay,
        (Event.READABLE, INNER, 0, ()),
        (Event.WRITABLE, INNER, 0, ()),
        (Event.CONNECTED, OUTER, 0, READ_INNER),
    )


def test_carries_a_small_message_with_one_read_and_one_write() -> None:
    relay = opened()
    says(
        relay,
        (Event.READABLE, INNER, 0, READ_INNER),
        (Event.READ, INNER, 5, WRITE_OUTER),
        (Event.WROTE, OUTER, 5, ()),
    )
    assert relay.moved(INNER) == 5


def test_counts_what_a_pump_passes_on_at_once() -> None:
    relay = opened()
    says(
        relay,
        (Event.READABLE, INNER, 0, READ_INNER),
        (Event.PASSED, INNER, 3 * LIMIT, ()),
        (Event.READABLE, INNER, 0, ()),
        (Event.DRY, INNER, 0, ()),
    )
    assert relay.moved(INNER) == 3 * LIMIT
    assert relay.queued(INNER) == 0


def test_nothing_is_passed_past_the_queue() -> None:
    with pytest.raises(IllegalEvent, match="not asked for"):
        writing().handle(Event.PASSED, OUTER, 1)


def test_goes_on_reading_while_reads_are_full() -> None:
    says(
        opened(),
        (Event.READABLE, INNER, 0, READ_INNER),
        (Event.READ, INNER, LIMIT, WRITE_OUTER),
        (Event.WROTE, OUTER, LIMIT, READ_INNER),
        (Event.DRY, INNER, 0, ()),
        (Event.READABLE, INNER, 0, READ_INNER),
    )


def test_reads_no_more_while_the_other_leg_is_full() -> None:
    relay = opened()
    says(
        relay,
        (Event.READABLE, INNER, 0, READ_INNER),
        (Event.READ, INNER, LIMIT, WRITE_OUTER),
        (Event.WROTE, OUTER, 3, ()),
        (Event.READABLE, INNER, 0, ()),
        (Event.WRITABLE, OUTER, 0, WRITE_OUTER),
        (Event.WROTE, OUTER, 0, ()),
        (Event.WRITABLE, OUTER, 0, WRITE_OUTER),
        (Event.WROTE, OUTER, 5, READ_INNER),
    )
    assert relay.queued(INNER) == 0


def test_does_not_ask_twice_for_what_is_not_answered() -> None:
    says(
        opened(),
        (Event.READABLE, INNER, 0, READ_INNER),
        (Event.READABLE, INNER, 0, ()),
        (Event.HANGUP, INNER, 0, ()),
    )


def test_a_short_read_is_not_the_last_when_the_leg_hung_up() -> None:
    says(
        opened(),
        (Event.HANGUP, INNER, 0, READ_INNER),
        (Event.READ, INNER, 2, WRITE_OUTER),
        (Event.WROTE, OUTER, 2, READ_INNER),
        (Event.END, INNER, 0, (step(Act.SHUTDOWN, OUTER),)),
    )


def test_one_direction_goes_on_after_the_other_has_ended() -> None:
    relay = opened()
    says(
        relay,
        (Event.HANGUP, INNER, 0, READ_INNER),
        (Event.END, INNER, 0, (step(Act.SHUTDOWN, OUTER),)),
    )
    assert relay.phase is Phase.HALF_CLOSED
    says(
        relay,
        (Event.READABLE, OUTER, 0, READ_OUTER),
        (Event.READ, OUTER, 4, WRITE_INNER),
        (Event.WROTE, INNER, 4, ()),
    )


def test_closes_only_when_both_far_ends_have_acknowledged_everything() -> None:
    relay = opened()
    says(
        relay,
        (Event.HANGUP, INNER, 0, READ_INNER),
        (Event.END, INNER, 0, (step(Act.SHUTDOWN, OUTER),)),
        (Event.HANGUP, OUTER, 0, READ_OUTER),
        (
            Event.END,
            OUTER,
            0,
            (step(Act.SHUTDOWN, INNER), step(Act.WATCH, INNER), step(Act.WATCH, OUTER)),
        ),
    )
    assert relay.phase is Phase.CLOSING
    says(
        relay,
        (Event.DRAINED, OUTER, 0, ()),
        (Event.DRAINED, INNER, 0, (step(Act.CLOSE, INNER), step(Act.CLOSE, OUTER))),
    )
    assert relay.outcome is Outcome.FINISHED


def test_resets_the_waiting_leg_when_the_dial_fails() -> None:
    relay = Relay(dialled=OUTER, limit=LIMIT, patient=frozenset({INNER}))
    answer = (step(Act.RESET, INNER), step(Act.CLOSE, OUTER))
    says(relay, (Event.DIAL_FAILED, OUTER, 0, answer))
    assert relay.outcome is Outcome.DIAL_FAILED


def test_abandons_the_dial_when_the_waiting_leg_is_reset() -> None:
    relay = Relay(dialled=OUTER, limit=LIMIT)
    answer = (step(Act.RESET, OUTER), step(Act.CLOSE, INNER))
    says(relay, (Event.FAULT, INNER, 0, answer))
    assert relay.outcome is Outcome.RESET_BY_ENDPOINT


def test_passes_a_reset_to_an_impatient_leg_at_once() -> None:
    relay = opened(patient=[INNER])
    says(
        relay,
        (Event.READABLE, INNER, 0, READ_INNER),
        (Event.READ, INNER, LIMIT, WRITE_OUTER),
        (Event.WROTE, OUTER, 2, ()),
        (Event.FAULT, INNER, 0, (step(Act.RESET, OUTER), step(Act.CLOSE, INNER))),
    )


def test_a_reset_waits_behind_the_bytes_owed_to_a_patient_leg() -> None:
    relay = opened(patient=[INNER])
    says(
        relay,
        (Event.READABLE, OUTER, 0, READ_OUTER),
        (Event.READ, OUTER, LIMIT, WRITE_INNER),
        (Event.WROTE, INNER, 2, ()),
        (Event.FAULT, OUTER, 0, ()),
    )
    assert relay.phase is Phase.RESETTING
    says(
        relay,
        (Event.WRITABLE, INNER, 0, WRITE_INNER),
        (Event.WROTE, INNER, 6, READ_OUTER),
        (Event.READ, OUTER, 3, WRITE_INNER),
        (Event.WROTE, INNER, 3, READ_OUTER),
        (Event.READ_FAILED, OUTER, 0, (step(Act.WATCH, INNER),)),
        (Event.DRAINED, INNER, 0, (step(Act.RESET, INNER), step(Act.CLOSE, OUTER))),
    )
    assert relay.outcome is Outcome.RESET_BY_PEER
    assert relay.moved(OUTER) == LIMIT + 3


def test_an_end_behind_a_known_fault_is_not_taken_for_a_fin() -> None:
    says(
        opened(patient=[INNER]),
        (Event.READABLE, INNER, 0, READ_INNER),
        (Event.READ, INNER, 2, WRITE_OUTER),
        (Event.FAULT, OUTER, 0, READ_OUTER),  # the write met the reset, and consumed it
        (Event.END, OUTER, 0, (step(Act.WATCH, INNER),)),
    )


def test_a_reset_after_the_fin_waits_for_the_patient_leg_too() -> None:
    says(
        opened(patient=[INNER]),
        (Event.HANGUP, OUTER, 0, READ_OUTER),
        (Event.END, OUTER, 0, (step(Act.SHUTDOWN, INNER),)),
        (Event.FAULT, OUTER, 0, (step(Act.WATCH, INNER),)),
        (Event.FAULT, OUTER, 0, ()),
        (Event.DRAINED, INNER, 0, (step(Act.RESET, INNER), step(Act.CLOSE, OUTER))),
    )


def test_gives_up_when_both_legs_are_lost() -> None:
    relay = opened(patient=[INNER])
    says(
        relay,
        (Event.READABLE, OUTER, 0, READ_OUTER),
        (Event.READ, OUTER, LIMIT, WRITE_INNER),
        (Event.WROTE, INNER, 2, ()),
        (Event.FAULT, OUTER, 0, ()),
        (Event.FAULT, INNER, 0, (step(Act.CLOSE, INNER), step(Act.CLOSE, OUTER))),
    )
    assert relay.outcome is Outcome.RESET_BY_PEER


def test_an_abort_resets_both_and_later_events_change_nothing() -> None:
    relay = opened()
    answer = (step(Act.RESET, INNER), step(Act.RESET, OUTER))
    says(relay, (Event.ABORT, INNER, 0, answer), (Event.READABLE, INNER, 0, ()))
    assert relay.outcome is Outcome.ABORTED
    assert relay.phase is Phase.OVER


def test_reads_no_more_where_there_is_no_room_in_memory() -> None:
    says(
        opened(),
        (Event.READABLE, INNER, 0, READ_INNER),
        (Event.NO_ROOM, INNER, 0, ()),
        (Event.READABLE, INNER, 0, ()),
        (Event.ROOM, INNER, 0, READ_INNER),
    )
