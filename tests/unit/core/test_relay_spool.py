"""Dialogues with the relay about its spool: what is put there, and what follows it."""

import pytest

from orchestrator.core.errors import IllegalEvent
from orchestrator.core.relay_events import Act, Event, Outcome
from tests.unit.core.relay_dialogues import (
    INNER,
    LIMIT,
    OUTER,
    READ_OUTER,
    SPOOL_OUTER,
    UNSPOOL_OUTER,
    WRITE_INNER,
    loading,
    opened,
    says,
    spooled,
    spooling,
    step,
    stinted,
)


def test_spools_what_an_absent_far_end_cannot_take_and_writes_it_in_order() -> None:
    relay = opened(patient=[INNER])
    says(
        relay,
        (Event.READABLE, OUTER, 0, READ_OUTER),
        (Event.READ, OUTER, LIMIT, WRITE_INNER),
        (Event.WROTE, INNER, 2, ()),
        (Event.AWAY, INNER, 0, SPOOL_OUTER),
        (Event.SPOOLED, OUTER, LIMIT, SPOOL_OUTER),
        (Event.SPOOLED, OUTER, 3, ()),
        (Event.READABLE, OUTER, 0, SPOOL_OUTER),
        (Event.WRITABLE, INNER, 0, ()),
        (Event.DRY, OUTER, 0, WRITE_INNER),
        (Event.WROTE, INNER, 6, UNSPOOL_OUTER),
        (Event.UNSPOOLED, OUTER, LIMIT, WRITE_INNER),
        (Event.WROTE, INNER, LIMIT, UNSPOOL_OUTER),
        (Event.READABLE, OUTER, 0, ()),
        (Event.UNSPOOLED, OUTER, 3, WRITE_INNER),
        (Event.WROTE, INNER, 3, READ_OUTER),
    )
    assert relay.moved(OUTER) == 2 * LIMIT + 3


def test_a_far_end_that_is_only_slow_is_not_spooled_for() -> None:
    says(
        opened(patient=[INNER]),
        (Event.READABLE, OUTER, 0, READ_OUTER),
        (Event.READ, OUTER, LIMIT, WRITE_INNER),
        (Event.WROTE, INNER, 2, ()),
        (Event.AWAY, INNER, 0, SPOOL_OUTER),
        (Event.SPOOLED, OUTER, LIMIT, SPOOL_OUTER),
        (Event.BACK, INNER, 0, ()),
        (Event.SPOOLED, OUTER, LIMIT, ()),
    )


def test_a_full_spool_closes_the_window_until_there_is_room() -> None:
    relay = spooling()
    says(
        relay,
        (Event.SPOOL_FULL, OUTER, 0, ()),
        (Event.READABLE, OUTER, 0, ()),
        (Event.SPOOL_ROOM, OUTER, 0, SPOOL_OUTER),
    )


def test_where_memory_is_short_bytes_go_to_the_spool_at_once() -> None:
    says(
        stinted(),
        (Event.AWAY, INNER, 0, SPOOL_OUTER),
        (Event.SPOOLED, OUTER, LIMIT, SPOOL_OUTER),
        (Event.SPOOLED, OUTER, 1, ()),
        (Event.BACK, INNER, 0, ()),
        (Event.ROOM, OUTER, 0, UNSPOOL_OUTER),
        (Event.NO_ROOM, OUTER, 0, ()),
    )


def test_a_fin_behind_the_spool_is_passed_on_behind_its_bytes() -> None:
    says(
        spooled(),
        (Event.HANGUP, OUTER, 0, SPOOL_OUTER),
        (Event.BEHIND, OUTER, 0, ()),
        (Event.WRITABLE, INNER, 0, WRITE_INNER),
        (Event.WROTE, INNER, 5, UNSPOOL_OUTER),
        (Event.UNSPOOLED, OUTER, 4, WRITE_INNER),
        (Event.WROTE, INNER, 4, READ_OUTER),
        (Event.END, OUTER, 0, (step(Act.SHUTDOWN, INNER),)),
    )


def test_a_reset_behind_the_spool_waits_behind_its_bytes() -> None:
    says(
        spooled(),
        (Event.FAULT, OUTER, 0, SPOOL_OUTER),
        (Event.BEHIND, OUTER, 0, ()),
        (Event.WRITABLE, INNER, 0, WRITE_INNER),
        (Event.WROTE, INNER, 5, UNSPOOL_OUTER),
        (Event.UNSPOOLED, OUTER, 4, WRITE_INNER),
        (Event.WROTE, INNER, 4, READ_OUTER),
        (Event.END, OUTER, 0, (step(Act.WATCH, INNER),)),
        (Event.DRAINED, INNER, 0, (step(Act.RESET, INNER), step(Act.CLOSE, OUTER))),
    )


def test_nothing_is_spooled_for_a_leg_that_is_not_patient() -> None:
    with pytest.raises(IllegalEvent, match="not patient"):
        opened(patient=[INNER]).handle(Event.AWAY, OUTER)


def test_both_are_told_when_the_disk_does_not_give_back_what_it_was_given() -> None:
    relay = loading()
    answer = (step(Act.RESET, INNER), step(Act.RESET, OUTER))
    says(relay, (Event.SPOOL_LOST, OUTER, 0, answer))
    assert relay.outcome is Outcome.SPOOL_LOST
