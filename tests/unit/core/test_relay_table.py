"""The relay's table is total, and a refused event changes nothing."""

import pytest

from orchestrator.core.errors import IllegalEvent
from orchestrator.core.relay import Relay
from orchestrator.core.relay_events import Event, Leg
from orchestrator.core.relay_state import Half
from orchestrator.core.relay_table import COLUMNS, TABLE, Verdict
from tests.unit.core.relay_dialogues import (
    LIMIT,
    OUTER,
    closing,
    half_closed,
    loading,
    opened,
    owing_a_reset,
    resetting,
    spooled,
    spooling,
    stinted,
    writing,
)

STORIES = (
    lambda: Relay(dialled=OUTER, limit=LIMIT),
    opened,
    writing,
    resetting,
    half_closed,
    closing,
    owing_a_reset,
    spooling,
    spooled,
    loading,
    stinted,
)


def snapshot(relay: Relay) -> tuple[object, ...]:
    return (
        relay.phase,
        relay.outcome,
        *(relay.state(leg) for leg in Leg),
        *(relay.queued(leg) for leg in Leg),
        *(relay.moved(leg) for leg in Leg),
        *(relay.spooled(leg) for leg in Leg),
    )


def test_every_state_goes_stays_or_refuses_for_every_column() -> None:
    assert set(TABLE) == set(Half)
    verdicts = {*Verdict, *Half}
    for row in TABLE.values():
        assert len(row) == len(COLUMNS)
        assert set(row) <= verdicts


@pytest.mark.parametrize("event", list(Event))
@pytest.mark.parametrize("story", range(len(STORIES)))
def test_every_event_in_every_state_is_answered_or_refused_without_change(
    story: int, event: Event
) -> None:
    for leg in Leg:
        for count in (0, 1, LIMIT, LIMIT + 1):
            relay = STORIES[story]()
            before = snapshot(relay)
            try:
                relay.handle(event, leg, count)
            except IllegalEvent:
                assert snapshot(relay) == before
