"""Decides what one proxied connection does next; counts and events only, never bytes.

A flow joins two legs: INNER, towards the endpoint, and OUTER, towards the peer. It is two
half-streams, each named by the leg it comes from: what is read from INNER is written to OUTER,
and the other way round. A pump tells what happened (`Event`) and does what it is asked (`Act`);
any pump may: one that copies through a buffer, one that splices through a pipe.

The rules:

1. Bytes are read only into an empty queue, and at most `limit` at once. What does not fit waits
   in the kernel, where the window closes: back-pressure is honest and the queue is bounded.
   Where there is no room in memory (NO_ROOM) nothing is read until there is (ROOM).
2. Before the dialled leg answers, nothing is read from the accepted one.
3. A FIN is passed on after every byte before it. One direction may end long before the other.
4. When both FINs are passed on, the legs stay until their far ends have acknowledged all: a
   socket closed earlier would be an orphan, which the kernel gives up after a few retries.
5. A leg may be patient: its far end may be away, and what was acknowledged for it is owed to
   it. A reset for a patient leg waits behind the bytes before it (and so is still there when
   the far end returns); for any other it is passed on at once, bytes or not.
6. A dial that fails resets the leg that waited for it.
7. Each act is asked once and answered once: READ by READ, DRY, END, READ_FAILED or NO_ROOM;
   WRITE by WROTE or FAULT; WATCH by DRAINED or FAULT; SPOOL by SPOOLED, DRY, BEHIND or
   SPOOL_FULL; UNSPOOL by UNSPOOLED, NO_ROOM or SPOOL_LOST. SHUTDOWN, RESET and CLOSE have none.
   What PASSED before a READ is answered is told, and answers nothing.
8. A refused event changes nothing. Once the flow is over, late events change nothing either.
9. A relay that stands can be carried to another process: `export` says all that counts but the
   bytes. What was asked and not answered is not among it, nor who is away and where there is
   no room: the restored one asks anew.
10. What a patient leg cannot take while its far end is AWAY is spooled. The spool stands behind
   the queue and before the source: nothing is read into the queue while the spool holds bytes.
   A FIN, an error and a reset stay at the source until everything before them has gone.

Each half-stream is a `relay_stream.Stream`, and its state a row of `relay_table`.
"""

from collections.abc import Callable
from typing import ClassVar

from orchestrator.core.errors import IllegalEvent
from orchestrator.core.relay_events import (
    NOTHING,
    STEPS,
    Act,
    Event,
    Leg,
    Outcome,
    Phase,
    Step,
    Steps,
)
from orchestrator.core.relay_state import Half, RelayState
from orchestrator.core.relay_stream import Stream


def _other(leg: Leg) -> Leg:
    return Leg.OUTER if leg is Leg.INNER else Leg.INNER


class Relay:
    """One flow's machine. `handle` is the only way to change it."""

    __slots__ = (
        "_drained",
        "_lost",
        "_streams",
        "_watched",
        "dialled",
        "limit",
        "outcome",
        "patient",
    )

    def __init__(self, dialled: Leg, limit: int, patient: frozenset[Leg] = frozenset()) -> None:
        self.dialled = dialled
        self.limit = limit
        """bytes queued each way, at most; above 0"""
        self.patient = patient
        self.outcome: Outcome | None = None
        """None until the flow is over"""
        self._streams = (Stream(Leg.INNER), Stream(Leg.OUTER))
        self._lost: Leg | None = None
        self._watched = [False, False]
        self._drained = [False, False]

    @classmethod
    def restored(cls, state: RelayState) -> "Relay":
        """As the one that `state` was taken from; what it had asked for, `demands` asks."""
        relay = cls(state.dialled, state.limit, state.patient)
        relay._lost = state.lost
        relay._watched = [leg in state.watched for leg in Leg]
        relay._drained = [leg in state.drained for leg in Leg]
        inner, outer = state.streams
        relay._streams = (
            Stream.restored(Leg.INNER, inner),
            Stream.restored(Leg.OUTER, outer),
        )
        return relay

    def demands(self) -> Steps:
        """What is to be done now, if nothing that was asked before is."""
        return self._streams[0].demand() + self._streams[1].demand()

    def export(self) -> RelayState:
        """Of a flow that stands."""
        inner, outer = self._streams
        return RelayState(
            self.dialled,
            self.limit,
            self.patient,
            self._lost,
            frozenset(leg for leg in Leg if self._watched[leg]),
            frozenset(leg for leg in Leg if self._drained[leg]),
            (inner.export(), outer.export()),
        )

    def queued(self, source: Leg) -> int:
        """Bytes read from `source` and not written to the other leg yet."""
        return self._streams[source].queued

    def spooled(self, source: Leg) -> int:
        """Bytes from `source` that wait in its spool, behind the queue."""
        return self._streams[source].spooled

    def hung_up(self, source: Leg) -> bool:
        """Whether something other than bytes waits behind them."""
        return self._streams[source].hangup

    def stuck(self, source: Leg) -> bool:
        """Whether bytes from `source` wait for the other leg, or for room."""
        return self._streams[source].stuck

    def moved(self, source: Leg) -> int:
        """Bytes from `source` that were written to the other leg, ever."""
        return self._streams[source].moved

    def state(self, source: Leg) -> Half:
        return self._streams[source].state

    @property
    def phase(self) -> Phase:
        if self.outcome is not None:
            return Phase.OVER
        if self._lost is not None:
            return Phase.RESETTING
        states = {stream.state for stream in self._streams}
        if Half.WAITING in states:
            return Phase.DIALING
        if states == {Half.ENDED}:
            return Phase.CLOSING
        return Phase.HALF_CLOSED if Half.ENDED in states else Phase.OPEN

    def handle(self, event: Event, leg: Leg, count: int = 0) -> Steps:
        """What to do now that `event` happened at `leg`, in this order.

        Raises IllegalEvent, with nothing changed, for an answer to what was not asked.
        """
        if self.outcome is not None:
            return NOTHING
        return self._HANDLERS[event](self, leg, count)

    # ---- the dial

    def _connected(self, leg: Leg, _count: int) -> Steps:
        self._only_the_dialled(Event.CONNECTED, leg)
        for stream in self._streams:
            stream.go(Event.CONNECTED)
            stream.writable = True
        return self.demands()

    def _dial_failed(self, leg: Leg, _count: int) -> Steps:
        self._only_the_dialled(Event.DIAL_FAILED, leg)
        return self._over(Outcome.DIAL_FAILED, reset=(_other(leg),), close=(leg,))

    def _only_the_dialled(self, event: Event, leg: Leg) -> None:
        if leg is not self.dialled or self._streams[leg].state is not Half.WAITING:
            raise IllegalEvent(f"{event.name} at {leg.name} while {self.phase}")

    # ---- readiness

    def _readable(self, leg: Leg, _count: int) -> Steps:
        stream = self._streams[leg]
        stream.readable = True
        return stream.demand()

    def _hangup(self, leg: Leg, _count: int) -> Steps:
        stream = self._streams[leg]
        stream.readable = stream.hangup = True
        return stream.demand()

    def _writable(self, leg: Leg, _count: int) -> Steps:
        stream = self._streams[1 - leg]
        stream.writable = True
        return stream.demand()

    # ---- who is away, and where there is room

    def _away(self, leg: Leg, _count: int) -> Steps:
        if leg not in self.patient:
            raise IllegalEvent(f"AWAY at {leg.name}, which is not patient")
        stream = self._streams[1 - leg]
        stream.away = True
        return stream.demand()

    def _back(self, leg: Leg, _count: int) -> Steps:
        self._streams[1 - leg].away = False
        return NOTHING

    def _room(self, leg: Leg, _count: int) -> Steps:
        stream = self._streams[leg]
        stream.stinted = False
        return stream.demand()

    def _spool_room(self, leg: Leg, _count: int) -> Steps:
        stream = self._streams[leg]
        stream.full = False
        return stream.demand()

    def _no_room(self, leg: Leg, _count: int) -> Steps:
        stream = self._streams[leg]
        stream.answer(Event.NO_ROOM)
        stream.stinted = True
        return stream.demand()

    # ---- answers to READ

    def _read(self, leg: Leg, count: int) -> Steps:
        stream = self._streams[leg]
        if not 0 < count <= self.limit:
            raise IllegalEvent(f"READ of {count} bytes, {self.limit} at most were asked")
        stream.answer(Event.READ)
        if stream.state is Half.DROPPED:
            return NOTHING
        stream.queued = count
        self._note_short(stream, count)
        return stream.demand()

    def _note_short(self, stream: Stream, count: int) -> None:
        if count < self.limit and not stream.hangup:
            stream.readable = False

    def _dry(self, leg: Leg, _count: int) -> Steps:
        stream = self._streams[leg]
        stream.answer(Event.DRY)
        stream.readable = False
        return stream.demand()

    def _end(self, leg: Leg, _count: int) -> Steps:
        # The error was met by a write, which consumed it; the end behind it only looks orderly.
        if self._lost is leg:
            return self._read_failed(leg, 0)
        stream = self._streams[leg]
        stream.answer(Event.END)
        if stream.state is Half.DROPPED:
            return NOTHING
        steps = STEPS[Act.SHUTDOWN][1 - leg]
        if self._streams[1 - leg].state is Half.ENDED:
            return steps + self._watch(Leg.INNER) + self._watch(Leg.OUTER)
        return steps

    def _passed(self, leg: Leg, count: int) -> Steps:
        stream = self._streams[leg]
        if stream.asked is not Act.READ or count <= 0:
            raise IllegalEvent(f"{count} bytes PASSED at {leg.name}, READ was not asked for")
        stream.go(Event.PASSED)
        if stream.state is not Half.DROPPED:
            stream.moved += count
        return NOTHING

    def _read_failed(self, leg: Leg, _count: int) -> Steps:
        stream = self._streams[leg]
        stream.answer(Event.READ_FAILED)
        return self._fault(leg, 0)

    # ---- answers to SPOOL and UNSPOOL

    def _spool(self, leg: Leg, count: int) -> Steps:
        stream = self._streams[leg]
        if not 0 < count <= self.limit:
            raise IllegalEvent(f"SPOOLED {count} bytes, {self.limit} at most were asked")
        stream.answer(Event.SPOOLED)
        if stream.state is Half.DROPPED:
            return NOTHING
        stream.spooled += count
        self._note_short(stream, count)
        return stream.demand()

    def _spool_full(self, leg: Leg, _count: int) -> Steps:
        stream = self._streams[leg]
        stream.answer(Event.SPOOL_FULL)
        stream.full = True
        return stream.demand()

    def _behind(self, leg: Leg, _count: int) -> Steps:
        stream = self._streams[leg]
        stream.answer(Event.BEHIND)
        stream.whole = True
        return stream.demand()

    def _unspool(self, leg: Leg, count: int) -> Steps:
        stream = self._streams[leg]
        if not 0 < count <= min(self.limit, stream.spooled) and stream.state is Half.LOADING:
            raise IllegalEvent(f"UNSPOOLED {count} bytes, {stream.spooled} were spooled")
        stream.answer(Event.UNSPOOLED)
        if stream.state is Half.DROPPED:
            return NOTHING
        stream.queued = count
        stream.spooled -= count
        return stream.demand()

    def _spool_lost(self, leg: Leg, _count: int) -> Steps:
        if self._streams[leg].asked is not Act.UNSPOOL:
            raise IllegalEvent(f"SPOOL_LOST at {leg.name} was not asked for")
        return self._over(Outcome.SPOOL_LOST, reset=(Leg.INNER, Leg.OUTER))

    # ---- answers to WRITE

    def _wrote(self, leg: Leg, count: int) -> Steps:
        stream = self._streams[1 - leg]
        if not 0 <= count <= stream.queued:
            raise IllegalEvent(f"WROTE {count} bytes, {stream.queued} were queued")
        stream.answer(Event.WROTE, goes=count == stream.queued)
        if stream.state is Half.DROPPED:
            return NOTHING
        stream.queued -= count
        stream.moved += count
        if stream.queued:
            stream.writable = False
        elif stream.spooled:
            stream.state = Half.LOADING
        return stream.demand()

    # ---- the end

    def _fault(self, leg: Leg, _count: int) -> Steps:
        far = _other(leg)
        onward, back = self._streams[leg], self._streams[far]
        dialing = onward.state is Half.WAITING
        back.go(Event.FAULT)
        back.queued = back.spooled = 0
        first = self._lost is None
        lost = leg if self._lost is None else self._lost
        self._lost = lost
        outcome = (Outcome.RESET_BY_ENDPOINT, Outcome.RESET_BY_PEER)[lost]
        if lost is not leg:  # both are gone
            return self._over(outcome, close=(leg, far))
        if dialing or far not in self.patient:
            return self._over(outcome, reset=(far,), close=(leg,))
        if onward.state is Half.ENDED:
            onward.state = Half.BROKEN
        if onward.state is Half.BROKEN:
            if self._drained[far]:
                return self._over(outcome, reset=(far,), close=(leg,))
            return self._watch(far)
        if first:
            onward.readable = onward.hangup = True
        return onward.demand()

    def _watch(self, leg: Leg) -> Steps:
        if self._watched[leg]:
            return NOTHING
        self._watched[leg] = True
        return STEPS[Act.WATCH][leg]

    def _drain(self, leg: Leg, _count: int) -> Steps:
        if not self._watched[leg]:
            raise IllegalEvent(f"DRAINED at {leg.name}, which is not watched")
        self._drained[leg] = True
        if self._streams[1 - leg].state is Half.BROKEN:
            return self._fault(_other(leg), 0)
        if self._lost is None and all(self._drained):
            return self._over(Outcome.FINISHED, close=(Leg.INNER, Leg.OUTER))
        return NOTHING

    def _abort(self, _leg: Leg, _count: int) -> Steps:
        return self._over(Outcome.ABORTED, reset=(Leg.INNER, Leg.OUTER))

    def _over(
        self, outcome: Outcome, reset: tuple[Leg, ...] = (), close: tuple[Leg, ...] = ()
    ) -> Steps:
        self.outcome = outcome
        return (
            *(Step(Act.RESET, leg) for leg in reset),
            *(Step(Act.CLOSE, leg) for leg in close),
        )

    _HANDLERS: ClassVar[tuple[Callable[["Relay", Leg, int], Steps], ...]] = (
        _connected,
        _dial_failed,
        _readable,
        _hangup,
        _writable,
        _read,
        _dry,
        _end,
        _read_failed,
        _wrote,
        _fault,
        _drain,
        _abort,
        _no_room,
        _room,
        _away,
        _back,
        _spool,
        _spool_full,
        _spool_room,
        _behind,
        _unspool,
        _spool_lost,
        _passed,
    )
    """In the order of Event."""
