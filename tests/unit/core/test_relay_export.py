"""A relay that is carried to another process goes on there as if nothing had been."""

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import strategies
from hypothesis.stateful import precondition, rule

from orchestrator.core.relay import Relay
from orchestrator.core.relay_events import Act, Event, Leg
from orchestrator.core.relay_state import Half, RelayState
from tests.unit.core.relay_dialogues import READ_INNER, WRITE_OUTER, opened
from tests.unit.core.test_relay_machine import RelayBetweenSockets

INNER, OUTER = Leg.INNER, Leg.OUTER
MOVING = (Act.READ, Act.WRITE, Act.SPOOL, Act.UNSPOOL)


class RelayCarriedAbout(RelayBetweenSockets):
    """The same world, and at any moment another process takes the flow over."""

    @precondition(lambda self: self.running)
    @rule(times=strategies.integers(1, 2))
    def is_carried_over(self, times: int) -> None:
        asked = {step for step in self.todo if step.act in MOVING}
        for _ in range(times):
            state = self.relay.export()
            self.relay = Relay.restored(state)
            assert self.relay.export() == state
        again = self.relay.demands()
        for act, leg in asked - set(again):
            # Nobody waits for it any more; who is away is not told.
            source = Leg(1 - leg) if act is Act.WRITE else leg
            assert self.relay.state(source) is Half.DROPPED or act is Act.SPOOL
        self.todo = deque([step for step in self.todo if step not in asked])
        self.todo.extend(again)
        # What the new process is told of readiness that the old one knew of does no harm.
        for leg in Leg:
            if self.sockets[leg].arrived and self.may_talk(leg):
                self.tell(Event.READABLE, leg)


TestRelayCarriedAbout = RelayCarriedAbout.TestCase


def state() -> RelayState:
    relay = opened()
    relay.handle(Event.READABLE, INNER)
    relay.handle(Event.READ, INNER, 5)
    return relay.export()


def test_what_was_asked_and_not_answered_is_asked_anew() -> None:
    relay = opened()
    assert relay.handle(Event.READABLE, INNER) == READ_INNER
    assert Relay.restored(relay.export()).demands() == READ_INNER
    relay.handle(Event.READ, INNER, 5)
    carried = Relay.restored(relay.export())
    assert carried.demands() == WRITE_OUTER
    assert carried.queued(INNER) == 5


def test_a_dial_goes_on() -> None:
    relay = Relay(dialled=OUTER, limit=8)
    relay.handle(Event.READABLE, INNER)
    assert relay.export().dialing
    carried = Relay.restored(relay.export())
    assert carried.demands() == ()
    assert carried.handle(Event.CONNECTED, OUTER) == READ_INNER


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"limit": 0}, "queue nothing"),
        ({"limit": 4}, "5 bytes queued"),
        ({"lost": OUTER}, "OUTER is lost"),
        ({"drained": frozenset({INNER})}, "not watched"),
    ],
)
def test_what_no_relay_can_be_in_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(state(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("half", "complaint"),
    [
        (Half.READING, "5 bytes queued in READING"),
        (Half.WAITING, "5 bytes queued in WAITING"),
        (Half.BROKEN, "bytes queued in BROKEN"),
    ],
)
def test_half_streams_that_contradict_themselves_are_refused(
    half: Half, complaint: str
) -> None:
    was = state()
    with pytest.raises(ValueError, match=complaint):
        replace(was, streams=(replace(was.streams[0], half=half), was.streams[1]))


@pytest.mark.parametrize(
    ("half", "complaint"),
    [
        (Half.WAITING, "waits for the dial"),
        (Half.DROPPED, "and no leg"),
        (Half.BROKEN, "and no leg"),
    ],
)
def test_half_streams_that_contradict_each_other_are_refused(
    half: Half, complaint: str
) -> None:
    was = state()
    with pytest.raises(ValueError, match=complaint):
        replace(was, streams=(was.streams[0], replace(was.streams[1], half=half)))
