"""Two fake sockets joined by the relay: whatever happens, every byte once and in order."""

from collections import deque

from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.core.relay import Relay
from orchestrator.core.relay_events import Act, Event, Leg, Step
from orchestrator.core.relay_state import Half
from tests.unit.core.relay_dialogues import LIMIT

SPOOL_CHUNKS = 3
"""In a spool, at most."""


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
