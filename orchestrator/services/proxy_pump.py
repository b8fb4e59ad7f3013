"""Moves the bytes of flows: one edge-triggered epoll for all. What is small is copied through
one buffer; a half-stream that is bulk goes through a pipe, without a copy.

It decides nothing. It tells each flow's relay what happened and does what that asks; what it
owns are the descriptors and the bytes between a read and its write. Whoever runs it watches
`fileno()` and calls `turn()`; nothing here blocks, but for the disk.

A busy flow gets a share of each turn and then waits for the others. The disk has a share, too:
a write to a file goes to memory and takes as long as a copy, until the kernel has too much to
write back and makes who writes wait, for 0.2 s at most each time (MAX_PAUSE of
mm/page-writeback.c). So an act on the disk is one chunk, and there are few in a turn.
"""

import logging
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from orchestrator.adapters import clock
from orchestrator.adapters.pipe import Pipe, Pipes
from orchestrator.adapters.transparent import far_end_is_silent, reset, unacknowledged
from orchestrator.core.flows import KIB
from orchestrator.core.relay_events import LEGS, Act, Event, Leg, Step, Steps
from orchestrator.core.relay_state import Half
from orchestrator.services.proxy_flow import Flow, Stream
from orchestrator.services.proxy_keeping import Keeping

EVENTS_PER_POLL: Final = 256
"""Enough that a poll is cheap, few enough that a turn stays below some milliseconds."""
TURN_SECONDS: Final = 0.004
"""Then whoever runs us gets a word in."""
LINGER_SECONDS: Final = 0.001
"""So long a turn waits for more: the answer to a small message often comes before whoever runs
us could ask again; that takes asyncio as long as the message takes us. epoll counts in ms."""
READS_PER_SHARE: Final = 8
"""Of one half-stream before the next has its share: 0.5 MiB of 64 KiB."""
BULK: Final = 64 * KIB
"""Octets of one share, from where a half-stream is bulk: a pipe is worth its two calls more."""
BULK_PER_TICK: Final = 1024 * KIB
"""Of a half-stream that keeps its pipe."""
DISK_ACTS_PER_TURN: Final = 4
"""Chunks: 256 KiB to or from the disk, some 0.2 ms where it does not make us wait."""
_UNTIL_DRY: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLPRI
"""What ends a read early although more can be read: a FIN, a fault, the mark of urgent data."""
_INTEREST: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET | _UNTIL_DRY

_AGAIN: Final = tuple((Step(Act.READ, leg),) for leg in LEGS)
"""A READ that is not answered yet: its share is over."""

_log = logging.getLogger("orchestrator.proxy")


class Pump:
    """Calls `on_connected` when a dial succeeds and `on_over` when both sockets are closed."""

    def __init__(
        self,
        queue: int,
        keeping: Keeping,
        on_connected: Callable[[Flow], None],
        on_over: Callable[[Flow], None],
    ) -> None:
        self._epoll = select.epoll()
        self._ends: dict[int, tuple[Flow, Leg]] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self._keeping = keeping
        self._memory = keeping.memory
        self._ready: deque[tuple[Flow, Step]] = deque()
        self._disk: deque[tuple[Flow, Step]] = deque()
        self._stuck: set[Flow] = set()
        """those that may have something to spool"""
        self._watching: set[Flow] = set()
        self._pipes = Pipes()
        self._piped: dict[Stream, int] = {}
        """those that have a pipe, and what they had moved when that was looked at"""
        self._buffer = memoryview(bytearray(queue))
        self._on_connected = on_connected
        self._on_over = on_over

    def fileno(self) -> int:
        """Readable while any flow has news."""
        return self._epoll.fileno()

    def close(self) -> None:
        """The flows must be over."""
        self._pipes.close()
        self._epoll.close()

    def watch(self, sock: socket.socket, call: Callable[[], None]) -> None:
        """`call` is called while the socket is readable. Raises OSError as `add` does."""
        self._epoll.register(sock, select.EPOLLIN)
        self._watched[sock.fileno()] = call

    def unwatch(self, sock: socket.socket) -> None:
        if self._watched.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock)

    def add(self, flow: Flow) -> None:
        """`flow` runs from now on; its dialled leg is connecting or connected.

        The relay's limit is at most the `queue` of this pump. Raises OSError when the kernel
        has no room to watch it (fs.epoll.max_user_watches); `abort` it then.
        """
        for leg, sock in zip(LEGS, flow.sockets, strict=True):
            self._ends[sock.fileno()] = (flow, leg)
            self._epoll.register(sock, _INTEREST)

    def adopt(self, flow: Flow) -> None:
        """As `add`, for a flow that another pump has moved so far. Nothing moves before `turn`.

        What the relay asked of the other pump it asks anew, and a new epoll tells anew what
        its sockets are ready for: it does not matter where the other was in its work.
        """
        self.add(flow)
        self._stuck.add(flow)
        if flow.watched:
            self._watching.add(flow)
        self._do(flow, flow.relay.demands())

    def abort(self, flow: Flow) -> None:
        """Resets both legs; `on_over` follows at once."""
        self._do(flow, flow.relay.handle(Event.ABORT, flow.relay.dialled))

    def fail_dial(self, flow: Flow, code: int) -> None:
        """The dial takes too long."""
        if flow.connecting:
            flow.connecting = False
            flow.dial_errno = code
            self._do(flow, flow.relay.handle(Event.DIAL_FAILED, flow.relay.dialled))

    def look_after_watched(self) -> None:
        """The kernel tells nobody when the last byte is acknowledged: ask now and then."""
        for flow in list(self._watching):
            self._check_drained(flow)

    def look_after_stuck(self) -> None:
        """What waits for an endpoint is spooled if it is away; the kernel tells nobody."""
        spools = self._keeping.spools
        for flow in list(self._stuck):
            stuck = [leg for leg in flow.relay.patient if flow.relay.stuck(Leg(1 - leg))]
            away = {leg for leg in stuck if spools and far_end_is_silent(flow.sockets[leg])}
            if not stuck:
                self._stuck.discard(flow)
            before, flow.away = flow.away, away
            self._tell_all(Event.AWAY, [(flow, leg) for leg in away - before])
            self._tell_all(Event.BACK, [(flow, leg) for leg in before - away])

    def look_after_pipes(self) -> None:
        """A half-stream that is bulk no more gives its pipe back."""
        for (flow, leg), before in list(self._piped.items()):
            moved = flow.relay.moved(leg)
            self._piped[flow, leg] = moved
            if moved - before < BULK_PER_TICK and not flow.relay.queued(leg):
                self._put_pipe(flow, leg)

    def make_room(self) -> None:
        """Those that waited for memory go on, as far as there is some."""
        self._tell_all(Event.ROOM, self._keeping.memory_turn())

    def make_room_on_disk(self) -> None:
        self._tell_all(Event.SPOOL_ROOM, self._keeping.disk_turn())

    def _tell_all(self, event: Event, streams: Sequence[tuple[Flow, Leg]]) -> None:
        for flow, leg in streams:
            try:
                self._do(flow, flow.relay.handle(event, leg))
            except Exception:  # noqa: BLE001 - see _give_up
                self._give_up(flow)

    def turn(self) -> bool:
        """Handles what is there, and what comes meanwhile; True if there may be more."""
        ends = clock.now() + TURN_SECONDS
        lingering = 0.0
        while True:
            events = self._epoll.poll(lingering, EVENTS_PER_POLL)
            for descriptor, mask in events:
                end = self._ends.get(descriptor)
                if end is not None:
                    self._try_to_tell(*end, mask)
                elif (call := self._watched.get(descriptor)) is not None:
                    call()
            for _ in range(len(self._ready)):
                self._try(*self._ready.popleft())
            for _ in range(min(DISK_ACTS_PER_TURN, len(self._disk))):
                self._try(*self._disk.popleft())
            busy = bool(self._ready or self._disk)
            if not busy and not events:
                return False
            if clock.now() >= ends:
                return True
            lingering = 0.0 if busy else LINGER_SECONDS

    def _try_to_tell(self, flow: Flow, leg: Leg, mask: int) -> None:
        try:
            self._tell(flow, leg, mask)
        except Exception:  # noqa: BLE001 - see _give_up
            self._give_up(flow)

    def _try(self, flow: Flow, step: Step) -> None:
        try:
            self._run(flow, step)
        except Exception:  # noqa: BLE001 - see _give_up
            self._give_up(flow)

    def _give_up(self, flow: Flow) -> None:
        """A defect of ours met one flow: it alone ends, the others' news are not lost."""
        _log.exception("a flow is reset: the relay and its pump disagree")
        self.abort(flow)

    # ---- news

    def _tell(self, flow: Flow, leg: Leg, mask: int) -> None:
        handle = flow.relay.handle
        if flow.connecting and leg is flow.relay.dialled:
            code = flow.sockets[leg].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.fail_dial(flow, code)
                return
            if not mask & select.EPOLLOUT:
                return
            flow.connecting = False
            self._on_connected(flow)
            self._do(flow, handle(Event.CONNECTED, leg))
        if mask & select.EPOLLERR:
            self._do(flow, self._fault(flow, leg))
        if mask & select.EPOLLPRI:
            self._copy_from_now_on(flow, leg)
        if mask & _UNTIL_DRY:
            self._do(flow, handle(Event.HANGUP, leg))
        elif mask & select.EPOLLIN:
            for step in handle(Event.READABLE, leg):
                self._run(flow, step)
        if mask & select.EPOLLOUT and flow.pending[1 - leg]:
            self._do(flow, handle(Event.WRITABLE, leg))
        if flow.watched:
            self._check_drained(flow)

    def _copy_from_now_on(self, flow: Flow, leg: Leg) -> None:
        """splice(2) stops at urgent data."""
        flow.urgent.add(leg)
        if not flow.relay.queued(leg):
            self._put_pipe(flow, leg)

    def _check_drained(self, flow: Flow) -> None:
        for leg in tuple(flow.watched):
            if not unacknowledged(flow.sockets[leg]):
                flow.watched.discard(leg)
                self._do(flow, flow.relay.handle(Event.DRAINED, leg))
        if not flow.watched:
            self._watching.discard(flow)

    # ---- acts

    def _do(self, flow: Flow, steps: Steps) -> None:
        """Reads and writes wait for their share, the rest is done now."""
        if not steps:
            return
        todo = list(steps)
        for act, leg in todo:  # grows while it is worked off
            match act:
                case Act.READ | Act.WRITE:
                    self._ready.append((flow, Step(act, leg)))
                case Act.SPOOL | Act.UNSPOOL:
                    self._disk.append((flow, Step(act, leg)))
                case Act.SHUTDOWN:
                    todo += self._shut_down(flow, leg)
                case Act.WATCH:
                    flow.watched.add(leg)
                    self._watching.add(flow)
                case Act.RESET | Act.CLOSE:
                    self._release(flow.sockets[leg], act)
        if flow.over:
            flow.watched.clear()
            self._watching.discard(flow)
            self._stuck.discard(flow)
            for leg in LEGS:
                self._put_pipe(flow, leg)
            self._on_over(flow)

    def _run(self, flow: Flow, step: Step) -> None:
        """One half-stream's share."""
        act, leg = step
        if flow.over:
            return
        if act is Act.READ:
            steps = self._read(flow, leg)
        elif act is Act.WRITE:
            steps = self._write(flow, leg)
        elif act is Act.SPOOL:
            steps = self._spool(flow, leg)
        else:
            steps = self._unspool(flow, leg)
        self._do(flow, steps)
        if flow.watched:
            self._check_drained(flow)

    def _read(self, flow: Flow, leg: Leg) -> Steps:
        """Passes on what the leg has while the other one takes it, and says what ended that."""
        relay, limit = flow.relay, flow.relay.limit
        if relay.state(leg) is Half.DROPPED:
            return relay.handle(Event.DRY, leg)
        answer: Event | None = None
        passed = rest = 0
        for _ in range(READS_PER_SHARE):
            count = self._fetch(flow, leg)
            if isinstance(count, Event):
                answer = count
                break
            try:
                sent = self._hand_on(flow, leg, count)
            except OSError:
                relay.handle(Event.READ, leg, count)
                return self._fault(flow, Leg(1 - leg))
            passed += sent
            if sent < count:
                rest = count - sent
                break
            if count < limit and flow.pipes[leg] is None and not relay.hung_up(leg):
                answer = Event.DRY
                break
        if passed:
            relay.handle(Event.PASSED, leg, passed)
            if passed >= BULK and flow.pipes[leg] is None:
                self._get_pipe(flow, leg)
        if rest:
            self._stuck.add(flow)
            return relay.handle(Event.READ, leg, rest) + relay.handle(Event.READABLE, leg)
        return _AGAIN[leg] if answer is None else relay.handle(answer, leg)

    def _fetch(self, flow: Flow, leg: Leg) -> int | Event:
        """How much came, or why nothing did."""
        share, pipe = flow.shares[leg], flow.pipes[leg]
        if self._memory.shortage(share) is not None and not self._has_room(flow, leg):
            return Event.NO_ROOM
        try:
            if pipe is None:
                count = flow.sockets[leg].recv_into(self._buffer, flow.relay.limit)
            else:
                count = pipe.fill(flow.sockets[leg], flow.relay.limit)
        except BlockingIOError:
            return Event.DRY
        except OSError:
            return Event.READ_FAILED
        if not count:
            return Event.END
        self._memory.take(share, count)
        return count

    def _hand_on(self, flow: Flow, leg: Leg, count: int) -> int:
        """How much of it the other leg took; the rest is pending. Raises OSError."""
        pipe, destination = flow.pipes[leg], flow.sockets[1 - leg]
        try:
            if pipe is not None:
                flow.pending[leg] = pipe
                return pipe.drain(destination)
            sent = destination.send(self._buffer[:count])
        except BlockingIOError:
            sent = 0
        if sent < count and pipe is None:
            flow.pending[leg] = memoryview(bytes(self._buffer[sent:count]))
        return sent

    def _get_pipe(self, flow: Flow, leg: Leg) -> None:
        if leg not in flow.urgent:
            flow.pipes[leg] = pipe = self._pipes.get()
            if pipe is not None:
                self._piped[flow, leg] = flow.relay.moved(leg)

    def _put_pipe(self, flow: Flow, leg: Leg) -> None:
        pipe = flow.pipes[leg]
        if pipe is not None:
            flow.pipes[leg], flow.pending[leg] = None, memoryview(b"")
            self._pipes.put(pipe)
            del self._piped[flow, leg]

    def _has_room(self, flow: Flow, leg: Leg) -> bool:
        room = self._keeping.has_room(flow, leg)
        if not room:
            self._stuck.add(flow)
        return room

    def _spool(self, flow: Flow, leg: Leg) -> Steps:
        """A copy goes to the disk first: what that does not take is where it was."""
        handle, sock = flow.relay.handle, flow.sockets[leg]
        if not self._keeping.may_spool(flow, leg):
            return handle(Event.SPOOL_FULL, leg)
        try:
            count = sock.recv_into(self._buffer, flow.relay.limit, socket.MSG_PEEK)
        except BlockingIOError:
            return handle(Event.DRY, leg)
        except OSError:  # it is met here, and by nobody else any more
            return handle(Event.BEHIND, leg) + self._fault(flow, leg)
        if not count:
            return handle(Event.BEHIND, leg)
        if not self._keeping.spool(flow, leg, self._buffer[:count]):
            return handle(Event.SPOOL_FULL, leg)
        left = count
        while left:
            # tcp(7): with MSG_TRUNC the octets are taken, and not copied.
            left -= sock.recv_into(self._buffer, left, socket.MSG_TRUNC)
        steps = handle(Event.SPOOLED, leg, count)
        self._drop_unwanted(flow)
        return steps

    def _unspool(self, flow: Flow, leg: Leg) -> Steps:
        handle = flow.relay.handle
        if not self._has_room(flow, leg):
            return handle(Event.NO_ROOM, leg)
        octets = self._keeping.unspool(flow, leg)
        if octets is None:
            return handle(Event.SPOOL_LOST, leg)
        self._memory.take(flow.shares[leg], len(octets))
        flow.pending[leg] = memoryview(octets)
        return handle(Event.UNSPOOLED, leg, len(octets))

    def _write(self, flow: Flow, leg: Leg) -> Steps:
        """Writes what the leg takes of the other's queue."""
        pending = flow.pending[1 - leg]
        try:
            if isinstance(pending, Pipe):
                count = pending.drain(flow.sockets[leg])
            else:
                count = flow.sockets[leg].send(pending)
                flow.pending[1 - leg] = pending[count:]
        except BlockingIOError:
            count = 0
        except OSError:
            return self._fault(flow, leg)
        if flow.pending[1 - leg]:
            self._stuck.add(flow)
        return flow.relay.handle(Event.WROTE, leg, count)

    def _fault(self, flow: Flow, leg: Leg) -> Steps:
        steps = flow.relay.handle(Event.FAULT, leg)
        self._drop_unwanted(flow)
        return steps

    def _drop_unwanted(self, flow: Flow) -> None:
        """Nobody is there any more who could be given what is on disk."""
        for leg in LEGS:
            if flow.relay.state(leg) is Half.DROPPED:
                self._keeping.drop(flow, leg)

    def _shut_down(self, flow: Flow, leg: Leg) -> Steps:
        try:
            flow.sockets[leg].shutdown(socket.SHUT_WR)
        except OSError:
            return self._fault(flow, leg)
        return ()

    def _release(self, sock: socket.socket, act: Act) -> None:
        self._ends.pop(sock.fileno(), None)  # closing takes it out of the epoll
        if act is Act.RESET:
            reset(sock)
        else:
            sock.close()
