"""The relay, alone: dialogues with it, its table, and two fake sockets joined by it."""

from collections import deque
from collections.abc import Iterable

import pytest
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.core.errors import IllegalEvent
from orchestrator.core.relay import Relay
from orchestrator.core.relay_events import Act, Event, Leg, Outcome, Phase, Step, Steps
from orchestrator.core.relay_state import Half
from orchestrator.core.relay_table import COLUMNS, TABLE, Verdict

INNER, OUTER = Leg.INNER, Leg.OUTER
LIMIT = 8
SPOOL_CHUNKS = 3
"""In a spool, at most."""


def opened(patient: Iterable[Leg] = ()) -> Relay:
    relay = Relay(dialled=OUTER, limit=LIMIT, patient=frozenset(patient))
    assert relay.handle(Event.CONNECTED, OUTER) == ()
    return relay


def says(relay: Relay, *lines: tuple[Event, Leg, int, Steps]) -> None:
    """A dialogue: each line is what happened and what the relay must answer."""
    for event, leg, count, answer in lines:
        assert relay.handle(event, leg, count) == answer, f"{event.name} at {leg.name}"


def step(act: Act, leg: Leg) -> Step:
    return Step(act, leg)


READ_INNER = (step(Act.READ, INNER),)
READ_OUTER = (step(Act.READ, OUTER),)
WRITE_INNER = (step(Act.WRITE, INNER),)
WRITE_OUTER = (step(Act.WRITE, OUTER),)
SPOOL_OUTER = (step(Act.SPOOL, OUTER),)
UNSPOOL_OUTER = (step(Act.UNSPOOL, OUTER),)


class TestDialogues:
    def test_reads_nothing_before_the_dialled_leg_answers(self) -> None:
        relay = Relay(dialled=OUTER, limit=LIMIT)
        says(
            relay,
            (Event.READABLE, INNER, 0, ()),
            (Event.WRITABLE, INNER, 0, ()),
            (Event.CONNECTED, OUTER, 0, READ_INNER),
        )

    def test_carries_a_small_message_with_one_read_and_one_write(self) -> None:
        relay = opened()
        says(
            relay,
            (Event.READABLE, INNER, 0, READ_INNER),
            (Event.READ, INNER, 5, WRITE_OUTER),
            (Event.WROTE, OUTER, 5, ()),
        )
        assert relay.moved(INNER) == 5

    def test_counts_what_a_pump_passes_on_at_once(self) -> None:
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

    def test_nothing_is_passed_past_the_queue(self) -> None:
        with pytest.raises(IllegalEvent, match="not asked for"):
            _writing().handle(Event.PASSED, OUTER, 1)

    def test_goes_on_reading_while_reads_are_full(self) -> None:
        says(
            opened(),
            (Event.READABLE, INNER, 0, READ_INNER),
            (Event.READ, INNER, LIMIT, WRITE_OUTER),
            (Event.WROTE, OUTER, LIMIT, READ_INNER),
            (Event.DRY, INNER, 0, ()),
            (Event.READABLE, INNER, 0, READ_INNER),
        )

    def test_reads_no_more_while_the_other_leg_is_full(self) -> None:
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

    def test_does_not_ask_twice_for_what_is_not_answered(self) -> None:
        says(
            opened(),
            (Event.READABLE, INNER, 0, READ_INNER),
            (Event.READABLE, INNER, 0, ()),
            (Event.HANGUP, INNER, 0, ()),
        )

    def test_a_short_read_is_not_the_last_when_the_leg_hung_up(self) -> None:
        says(
            opened(),
            (Event.HANGUP, INNER, 0, READ_INNER),
            (Event.READ, INNER, 2, WRITE_OUTER),
            (Event.WROTE, OUTER, 2, READ_INNER),
            (Event.END, INNER, 0, (step(Act.SHUTDOWN, OUTER),)),
        )

    def test_one_direction_goes_on_after_the_other_has_ended(self) -> None:
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

    def test_closes_only_when_both_far_ends_have_acknowledged_everything(self) -> None:
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

    def test_resets_the_waiting_leg_when_the_dial_fails(self) -> None:
        relay = Relay(dialled=OUTER, limit=LIMIT, patient=frozenset({INNER}))
        answer = (step(Act.RESET, INNER), step(Act.CLOSE, OUTER))
        says(relay, (Event.DIAL_FAILED, OUTER, 0, answer))
        assert relay.outcome is Outcome.DIAL_FAILED

    def test_abandons_the_dial_when_the_waiting_leg_is_reset(self) -> None:
        relay = Relay(dialled=OUTER, limit=LIMIT)
        answer = (step(Act.RESET, OUTER), step(Act.CLOSE, INNER))
        says(relay, (Event.FAULT, INNER, 0, answer))
        assert relay.outcome is Outcome.RESET_BY_ENDPOINT

    def test_passes_a_reset_to_an_impatient_leg_at_once(self) -> None:
        relay = opened(patient=[INNER])
        says(
            relay,
            (Event.READABLE, INNER, 0, READ_INNER),
            (Event.READ, INNER, LIMIT, WRITE_OUTER),
            (Event.WROTE, OUTER, 2, ()),
            (Event.FAULT, INNER, 0, (step(Act.RESET, OUTER), step(Act.CLOSE, INNER))),
        )

    def test_a_reset_waits_behind_the_bytes_owed_to_a_patient_leg(self) -> None:
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

    def test_an_end_behind_a_known_fault_is_not_taken_for_a_fin(self) -> None:
        says(
            opened(patient=[INNER]),
            (Event.READABLE, INNER, 0, READ_INNER),
            (Event.READ, INNER, 2, WRITE_OUTER),
            (Event.FAULT, OUTER, 0, READ_OUTER),  # the write met the reset, and consumed it
            (Event.END, OUTER, 0, (step(Act.WATCH, INNER),)),
        )

    def test_a_reset_after_the_fin_waits_for_the_patient_leg_too(self) -> None:
        says(
            opened(patient=[INNER]),
            (Event.HANGUP, OUTER, 0, READ_OUTER),
            (Event.END, OUTER, 0, (step(Act.SHUTDOWN, INNER),)),
            (Event.FAULT, OUTER, 0, (step(Act.WATCH, INNER),)),
            (Event.FAULT, OUTER, 0, ()),
            (Event.DRAINED, INNER, 0, (step(Act.RESET, INNER), step(Act.CLOSE, OUTER))),
        )

    def test_gives_up_when_both_legs_are_lost(self) -> None:
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

    def test_an_abort_resets_both_and_later_events_change_nothing(self) -> None:
        relay = opened()
        answer = (step(Act.RESET, INNER), step(Act.RESET, OUTER))
        says(relay, (Event.ABORT, INNER, 0, answer), (Event.READABLE, INNER, 0, ()))
        assert relay.outcome is Outcome.ABORTED
        assert relay.phase is Phase.OVER

    def test_reads_no_more_where_there_is_no_room_in_memory(self) -> None:
        says(
            opened(),
            (Event.READABLE, INNER, 0, READ_INNER),
            (Event.NO_ROOM, INNER, 0, ()),
            (Event.READABLE, INNER, 0, ()),
            (Event.ROOM, INNER, 0, READ_INNER),
        )

    def test_spools_what_an_absent_far_end_cannot_take_and_writes_it_in_order(self) -> None:
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

    def test_a_far_end_that_is_only_slow_is_not_spooled_for(self) -> None:
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

    def test_a_full_spool_closes_the_window_until_there_is_room(self) -> None:
        relay = _spooling()
        says(
            relay,
            (Event.SPOOL_FULL, OUTER, 0, ()),
            (Event.READABLE, OUTER, 0, ()),
            (Event.SPOOL_ROOM, OUTER, 0, SPOOL_OUTER),
        )

    def test_where_memory_is_short_bytes_go_to_the_spool_at_once(self) -> None:
        says(
            _stinted(),
            (Event.AWAY, INNER, 0, SPOOL_OUTER),
            (Event.SPOOLED, OUTER, LIMIT, SPOOL_OUTER),
            (Event.SPOOLED, OUTER, 1, ()),
            (Event.BACK, INNER, 0, ()),
            (Event.ROOM, OUTER, 0, UNSPOOL_OUTER),
            (Event.NO_ROOM, OUTER, 0, ()),
        )

    def test_a_fin_behind_the_spool_is_passed_on_behind_its_bytes(self) -> None:
        says(
            _spooled(),
            (Event.HANGUP, OUTER, 0, SPOOL_OUTER),
            (Event.BEHIND, OUTER, 0, ()),
            (Event.WRITABLE, INNER, 0, WRITE_INNER),
            (Event.WROTE, INNER, 5, UNSPOOL_OUTER),
            (Event.UNSPOOLED, OUTER, 4, WRITE_INNER),
            (Event.WROTE, INNER, 4, READ_OUTER),
            (Event.END, OUTER, 0, (step(Act.SHUTDOWN, INNER),)),
        )

    def test_a_reset_behind_the_spool_waits_behind_its_bytes(self) -> None:
        says(
            _spooled(),
            (Event.FAULT, OUTER, 0, SPOOL_OUTER),
            (Event.BEHIND, OUTER, 0, ()),
            (Event.WRITABLE, INNER, 0, WRITE_INNER),
            (Event.WROTE, INNER, 5, UNSPOOL_OUTER),
            (Event.UNSPOOLED, OUTER, 4, WRITE_INNER),
            (Event.WROTE, INNER, 4, READ_OUTER),
            (Event.END, OUTER, 0, (step(Act.WATCH, INNER),)),
            (Event.DRAINED, INNER, 0, (step(Act.RESET, INNER), step(Act.CLOSE, OUTER))),
        )

    def test_nothing_is_spooled_for_a_leg_that_is_not_patient(self) -> None:
        with pytest.raises(IllegalEvent, match="not patient"):
            opened(patient=[INNER]).handle(Event.AWAY, OUTER)

    def test_both_are_told_when_the_disk_does_not_give_back_what_it_was_given(self) -> None:
        relay = _loading()
        answer = (step(Act.RESET, INNER), step(Act.RESET, OUTER))
        says(relay, (Event.SPOOL_LOST, OUTER, 0, answer))
        assert relay.outcome is Outcome.SPOOL_LOST


class TestTable:
    def test_every_state_goes_stays_or_refuses_for_every_column(self) -> None:
        assert set(TABLE) == set(Half)
        verdicts = {*Verdict, *Half}
        for row in TABLE.values():
            assert len(row) == len(COLUMNS)
            assert set(row) <= verdicts

    @pytest.mark.parametrize("event", list(Event))
    @pytest.mark.parametrize("story", range(11))
    def test_every_event_in_every_state_is_answered_or_refused_without_change(
        self, story: int, event: Event
    ) -> None:
        for leg in Leg:
            for count in (0, 1, LIMIT, LIMIT + 1):
                relay = STORIES[story]()
                before = snapshot(relay)
                try:
                    relay.handle(event, leg, count)
                except IllegalEvent:
                    assert snapshot(relay) == before


def _writing() -> Relay:
    relay = opened(patient=[INNER])
    relay.handle(Event.READABLE, OUTER)
    relay.handle(Event.READ, OUTER, LIMIT)
    return relay


def _resetting() -> Relay:
    relay = _writing()
    relay.handle(Event.FAULT, OUTER)
    return relay


def _half_closed() -> Relay:
    relay = opened(patient=[INNER])
    relay.handle(Event.HANGUP, INNER)
    relay.handle(Event.END, INNER)
    return relay


def _closing() -> Relay:
    relay = _half_closed()
    relay.handle(Event.HANGUP, OUTER)
    relay.handle(Event.END, OUTER)
    return relay


def _owing_a_reset() -> Relay:
    relay = opened(patient=[INNER])
    relay.handle(Event.HANGUP, OUTER)
    relay.handle(Event.READ_FAILED, OUTER)
    return relay


def _spooling() -> Relay:
    relay = _writing()
    relay.handle(Event.WROTE, INNER, 3)
    relay.handle(Event.AWAY, INNER)
    return relay


def _spooled() -> Relay:
    relay = _spooling()
    relay.handle(Event.SPOOLED, OUTER, 4)
    return relay


def _loading() -> Relay:
    relay = _spooled()
    relay.handle(Event.WRITABLE, INNER)
    relay.handle(Event.WROTE, INNER, 5)
    return relay


def _stinted() -> Relay:
    relay = opened(patient=[INNER])
    relay.handle(Event.READABLE, OUTER)
    relay.handle(Event.NO_ROOM, OUTER)
    return relay


STORIES = (
    lambda: Relay(dialled=OUTER, limit=LIMIT),
    opened,
    _writing,
    _resetting,
    _half_closed,
    _closing,
    _owing_a_reset,
    _spooling,
    _spooled,
    _loading,
    _stinted,
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


class FakeSocket:
    """One leg: what its far end sent that is unread, what we sent that it has not taken."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.arrived = bytearray()
        self.fin_arrived = False
        self.reset_arrived = False
        self.sending = bytearray()
        self.fin_sent = False
        self.delivered = bytearray()
        self.fin_delivered = False
        self.closed_by: Act | None = None


class RelayBetweenSockets(RuleBasedStateMachine):
    """Far ends that send, read, end and reset as they like; a pump that is as slow as it likes.

    The sockets are edge-triggered: readiness is told when it begins, and never again.
    """

    @initialize(
        patient=strategies.sets(strategies.sampled_from(Leg)),
        dialled=strategies.sampled_from(Leg),
    )
    def dial(self, patient: set[Leg], dialled: Leg) -> None:
        self.relay = Relay(dialled=dialled, limit=LIMIT, patient=frozenset(patient))
        self.patient = patient
        self.dialled = dialled
        self.connected = False
        self.sockets = {leg: FakeSocket(capacity=12) for leg in Leg}
        self.queues = {leg: bytearray() for leg in Leg}
        self.sent = {leg: bytearray() for leg in Leg}
        self.spools = {leg: deque[bytes]() for leg in Leg}
        self.todo: deque[Step] = deque()
        self.watched: set[Leg] = set()
        self.serial = 0
        self.crowded = False
        self.passes = False
        self.disk = SPOOL_CHUNKS

    def tell(self, event: Event, leg: Leg, count: int = 0) -> None:
        self.todo.extend(self.relay.handle(event, leg, count))

    @property
    def running(self) -> bool:
        return self.relay.outcome is None

    # ---- far ends

    @precondition(lambda self: not self.connected)
    @rule()
    def the_dialled_leg_answers(self) -> None:
        if self.running:
            self.connected = True
            self.tell(Event.CONNECTED, self.dialled)

    @rule(leg=strategies.sampled_from(Leg), size=strategies.integers(1, 20))
    def far_end_sends(self, leg: Leg, size: int) -> None:
        socket = self.sockets[leg]
        if socket.fin_arrived or socket.reset_arrived or not self.may_talk(leg):
            return
        self.serial += 1
        chunk = bytes((self.serial + offset) % 251 for offset in range(size))
        socket.arrived += chunk
        self.sent[leg] += chunk
        self.tell(Event.READABLE, leg)

    @rule(leg=strategies.sampled_from(Leg))
    def far_end_ends(self, leg: Leg) -> None:
        socket = self.sockets[leg]
        if not socket.reset_arrived and self.may_talk(leg):
            socket.fin_arrived = True
            self.tell(Event.HANGUP, leg)

    @rule(leg=strategies.sampled_from(Leg))
    def far_end_resets(self, leg: Leg) -> None:
        if not self.sockets[leg].reset_arrived and self.may_talk(leg):
            self.sockets[leg].reset_arrived = True
            self.sockets[leg].sending.clear()
            self.tell(Event.FAULT, leg)

    @rule(leg=strategies.sampled_from(Leg), size=strategies.integers(1, 20))
    def far_end_takes(self, leg: Leg, size: int) -> None:
        socket = self.sockets[leg]
        if socket.reset_arrived or socket.closed_by is not None:
            return
        was_full = len(socket.sending) >= socket.capacity
        socket.delivered += socket.sending[:size]
        del socket.sending[:size]
        if was_full:
            self.tell(Event.WRITABLE, leg)
        self.acknowledge(leg)

    def may_talk(self, leg: Leg) -> bool:
        return self.running and (self.connected or leg is not self.dialled)

    def acknowledge(self, leg: Leg) -> None:
        socket = self.sockets[leg]
        if not socket.sending:
            socket.fin_delivered = socket.fin_delivered or socket.fin_sent
            if leg in self.watched:
                self.watched.discard(leg)
                self.tell(Event.DRAINED, leg)

    # ---- who is away, and where there is room

    @rule(leg=strategies.sampled_from(Leg), away=strategies.booleans())
    def far_end_is_away_or_back(self, leg: Leg, away: bool) -> None:
        if leg in self.patient:
            self.tell(Event.AWAY if away else Event.BACK, leg)

    @rule(crowded=strategies.booleans())
    def memory_is_short_or_not(self, crowded: bool) -> None:
        self.crowded = crowded
        if not crowded:
            for leg in Leg:
                self.tell(Event.ROOM, leg)

    @rule(chunks=strategies.integers(0, SPOOL_CHUNKS))
    def disk_has_room(self, chunks: int) -> None:
        self.disk = chunks
        if chunks:
            for leg in Leg:
                self.tell(Event.SPOOL_ROOM, leg)

    # ---- the pump

    @rule(passes=strategies.booleans())
    def pump_passes_on_at_once_or_not(self, passes: bool) -> None:
        self.passes = passes

    @precondition(lambda self: self.todo)
    @rule()
    def pump_does_one_act(self) -> None:
        act, leg = self.todo.popleft()
        socket = self.sockets[leg]
        if not self.running and act not in (Act.RESET, Act.CLOSE):
            return
        match act:
            case Act.READ:
                self.read(leg)
            case Act.SPOOL:
                self.spool(leg)
            case Act.UNSPOOL:
                self.unspool(leg)
            case Act.WRITE:
                self.write(leg)
            case Act.SHUTDOWN:
                assert not socket.fin_sent
                socket.fin_sent = True
                self.acknowledge(leg)
            case Act.WATCH:
                assert leg not in self.watched
                self.watched.add(leg)
                if not socket.reset_arrived:
                    self.acknowledge(leg)
            case Act.RESET | Act.CLOSE:
                assert socket.closed_by is None
                socket.closed_by = act

    def read(self, leg: Leg) -> None:
        socket, queue = self.sockets[leg], self.queues[leg]
        assert not queue, "read into a queue that is not empty"
        assert not self.spools[leg], "read past the spool"
        if self.passes:
            self.pass_on(leg)
        if self.crowded:
            self.tell(Event.NO_ROOM, leg)
        elif socket.arrived:
            queue += socket.arrived[:LIMIT]
            del socket.arrived[:LIMIT]
            self.tell(Event.READ, leg, len(queue))
        elif socket.reset_arrived:
            self.tell(Event.READ_FAILED, leg)
        elif socket.fin_arrived:
            self.tell(Event.END, leg)
        else:
            self.tell(Event.DRY, leg)

    def pass_on(self, leg: Leg) -> None:
        """As much as the other leg takes."""
        socket, far = self.sockets[leg], self.sockets[Leg(1 - leg)]
        part = socket.arrived[: max(0, far.capacity - len(far.sending))]
        if part and not far.reset_arrived and far.closed_by is None:
            assert not far.fin_sent, "bytes after a FIN"
            far.sending += part
            del socket.arrived[: len(part)]
            self.tell(Event.PASSED, leg, len(part))

    def spool(self, leg: Leg) -> None:
        socket, spool = self.sockets[leg], self.spools[leg]
        assert Leg(1 - leg) in self.patient, "spooled for who does not wait"
        if len(spool) >= self.disk:
            self.tell(Event.SPOOL_FULL, leg)
        elif socket.arrived:
            spool.append(bytes(socket.arrived[:LIMIT]))
            del socket.arrived[:LIMIT]
            self.tell(Event.SPOOLED, leg, len(spool[-1]))
        elif socket.reset_arrived:
            self.tell(Event.BEHIND, leg)
            self.tell(Event.FAULT, leg)
        elif socket.fin_arrived:
            self.tell(Event.BEHIND, leg)
        else:
            self.tell(Event.DRY, leg)

    def unspool(self, leg: Leg) -> None:
        queue, spool = self.queues[leg], self.spools[leg]
        assert not queue, "taken into a queue that is not empty"
        if self.crowded:
            self.tell(Event.NO_ROOM, leg)
        else:
            queue += spool.popleft()
            self.tell(Event.UNSPOOLED, leg, len(queue))

    def write(self, leg: Leg) -> None:
        socket = self.sockets[leg]
        queue = self.queues[Leg(1 - leg)]
        assert not socket.fin_sent, "bytes after a FIN"
        if socket.reset_arrived:
            self.tell(Event.FAULT, leg)
            return
        room = max(0, socket.capacity - len(socket.sending))
        count = min(room, len(queue))
        socket.sending += queue[:count]
        del queue[:count]
        self.tell(Event.WROTE, leg, count)

    # ---- what must hold

    @invariant()
    def no_byte_is_lost_doubled_or_reordered(self) -> None:
        for leg in Leg:
            socket = self.sockets[leg]
            out = socket.delivered + socket.sending
            assert self.sent[Leg(1 - leg)].startswith(out)

    @invariant()
    def the_queue_is_bounded_and_counted(self) -> None:
        for leg in Leg:
            if self.relay.state(leg) is not Half.DROPPED and self.running:
                assert len(self.queues[leg]) == self.relay.queued(leg) <= LIMIT
                spooled = sum(len(chunk) for chunk in self.spools[leg])
                assert spooled == self.relay.spooled(leg) <= LIMIT * SPOOL_CHUNKS

    @invariant()
    def a_fin_is_sent_only_after_every_byte(self) -> None:
        for leg in Leg:
            socket, origin = self.sockets[leg], self.sockets[Leg(1 - leg)]
            if socket.fin_sent:
                assert origin.fin_arrived
                if not socket.reset_arrived:
                    assert socket.delivered + socket.sending == self.sent[Leg(1 - leg)]

    @invariant()
    def a_reset_overtakes_no_byte_that_is_owed(self) -> None:
        for leg in self.patient:
            socket, origin = self.sockets[leg], self.sockets[Leg(1 - leg)]
            if socket.closed_by is Act.RESET and self.connected and not socket.reset_arrived:
                assert origin.reset_arrived
                assert socket.delivered == self.sent[Leg(1 - leg)]

    def teardown(self) -> None:
        """With an idle pump and far ends that read, everything owed arrives."""
        if not hasattr(self, "relay"):
            return
        if not self.connected:
            self.the_dialled_leg_answers()
        self.memory_is_short_or_not(crowded=False)
        for leg in self.patient:
            self.tell(Event.BACK, leg)
        for _ in range(1000):
            if not self.todo and not any(socket.sending for socket in self.sockets.values()):
                break
            while self.todo:
                self.pump_does_one_act()
            for leg in Leg:
                self.far_end_takes(leg, 20)
        resets = [leg for leg in Leg if self.sockets[leg].reset_arrived]
        ends = [leg for leg in Leg if self.sockets[leg].fin_arrived]
        if resets:
            assert not self.running
        else:
            for leg in Leg:
                assert self.sockets[leg].delivered == self.sent[Leg(1 - leg)]
                assert self.sockets[leg].fin_delivered == self.sockets[Leg(1 - leg)].fin_arrived
            assert self.running == (len(ends) < 2)
        if not self.running:
            assert all(socket.closed_by is not None for socket in self.sockets.values())


TestRelayBetweenSockets = RelayBetweenSockets.TestCase
