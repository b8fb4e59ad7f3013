"""Moves the bytes of flows: one edge-triggered epoll for all, small copies through one buffer.

It decides nothing. It tells each flow's relay what happened and does what that asks; what it
owns are the descriptors and the bytes between a read and its write. Whoever runs it watches
`fileno()` and calls `turn()`; nothing here blocks.

A busy flow gets a share of each turn and then waits for the others.
"""

import logging
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from orchestrator.adapters.transparent import reset, unacknowledged
from orchestrator.core.relay import Relay
from orchestrator.core.relay_events import Act, Event, Leg, Step, Steps

EVENTS_PER_POLL: Final = 256
"""Enough that a poll is cheap, few enough that a turn stays below some milliseconds."""
ROUNDS_PER_TURN: Final = 8
"""Polls in one turn before whoever runs us gets a word in."""
ACTS_PER_SHARE: Final = 16
"""Reads and writes of one half-stream before the next has its share: 0.5 MiB of 64 KiB."""
_UNTIL_DRY: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLPRI
"""What ends a read early although more can be read: a FIN, a fault, the mark of urgent data."""
_INTEREST: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET | _UNTIL_DRY

_log = logging.getLogger("orchestrator.proxy")


class Flow:
    """Two sockets and the relay between them."""

    __slots__ = ("connecting", "dial_errno", "pending", "relay", "sockets", "watched")

    def __init__(self, relay: Relay, inner: socket.socket, outer: socket.socket) -> None:
        self.relay = relay
        self.sockets = (inner, outer)
        self.pending = [memoryview(b""), memoryview(b"")]
        """by source leg: read, and not written yet"""
        self.connecting = True
        self.dial_errno = 0
        """why the dial failed, if it did"""
        self.watched: set[Leg] = set()

    @property
    def over(self) -> bool:
        return self.relay.outcome is not None


class Pump:
    """Calls `on_connected` when a dial succeeds and `on_over` when both sockets are closed."""

    def __init__(
        self,
        queue: int,
        on_connected: Callable[[Flow], None],
        on_over: Callable[[Flow], None],
    ) -> None:
        self._epoll = select.epoll()
        self._ends: dict[int, tuple[Flow, Leg]] = {}
        self._ready: deque[tuple[Flow, Step]] = deque()
        self._watching: set[Flow] = set()
        self._buffer = memoryview(bytearray(queue))
        self._on_connected = on_connected
        self._on_over = on_over

    def fileno(self) -> int:
        """Readable while any flow has news."""
        return self._epoll.fileno()

    def close(self) -> None:
        """The flows must be over."""
        self._epoll.close()

    def add(self, flow: Flow) -> None:
        """`flow` runs from now on; its dialled leg is connecting or connected.

        The relay's limit is at most the `queue` of this pump. Raises OSError when the kernel
        has no room to watch it (fs.epoll.max_user_watches); `abort` it then.
        """
        for leg, sock in zip(Leg, flow.sockets, strict=True):
            self._ends[sock.fileno()] = (flow, leg)
            self._epoll.register(sock, _INTEREST)

    def adopt(self, flow: Flow) -> None:
        """As `add`, for a flow that another pump has moved so far. Nothing moves before `turn`.

        What the relay asked of the other pump it asks anew, and a new epoll tells anew what
        its sockets are ready for: it does not matter where the other was in its work.
        """
        self.add(flow)
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

    def turn(self) -> bool:
        """Handles what is there; True if there is more to do at once."""
        for _ in range(ROUNDS_PER_TURN):
            events = self._epoll.poll(0, EVENTS_PER_POLL)
            for descriptor, mask in events:
                end = self._ends.get(descriptor)
                if end is None:
                    continue  # closed by an earlier event of the same poll
                try:
                    self._tell(*end, mask)
                except Exception:  # noqa: BLE001 - see _give_up
                    self._give_up(end[0])
            for _ in range(len(self._ready)):
                flow, step = self._ready.popleft()
                try:
                    self._run(flow, step)
                except Exception:  # noqa: BLE001 - see _give_up
                    self._give_up(flow)
            if not events and not self._ready:
                return False
        return True

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
            self._do(flow, handle(Event.FAULT, leg))
        if mask & _UNTIL_DRY:
            self._do(flow, handle(Event.HANGUP, leg))
        elif mask & select.EPOLLIN:
            self._do(flow, handle(Event.READABLE, leg))
        if mask & select.EPOLLOUT and flow.pending[1 - leg]:
            self._do(flow, handle(Event.WRITABLE, leg))
        if flow.watched:
            self._check_drained(flow)

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
            self._on_over(flow)

    def _run(self, flow: Flow, step: Step) -> None:
        """One half-stream's share."""
        act, leg = step
        for _ in range(ACTS_PER_SHARE):
            if flow.over:
                return
            steps = self._read(flow, leg) if act is Act.READ else self._write(flow, leg)
            if len(steps) == 1:
                act, leg = steps[0]
                if act is Act.READ or act is Act.WRITE:
                    continue
            self._do(flow, steps)
            if flow.watched:
                self._check_drained(flow)
            return
        self._ready.append((flow, Step(act, leg)))

    def _read(self, flow: Flow, leg: Leg) -> Steps:
        handle = flow.relay.handle
        try:
            count = flow.sockets[leg].recv_into(self._buffer, flow.relay.limit)
        except BlockingIOError:
            return handle(Event.DRY, leg)
        except OSError:
            return handle(Event.READ_FAILED, leg)
        if not count:
            return handle(Event.END, leg)
        steps = handle(Event.READ, leg, count)
        if len(steps) == 1:
            act, far = steps[0]
            if act is Act.WRITE:
                return self._send(flow, far, self._buffer[:count])
        flow.pending[leg] = memoryview(bytes(self._buffer[:count]))
        return steps

    def _write(self, flow: Flow, leg: Leg) -> Steps:
        return self._send(flow, leg, flow.pending[1 - leg])

    def _send(self, flow: Flow, leg: Leg, octets: memoryview) -> Steps:
        """Writes what the leg takes, and keeps a copy of the rest."""
        try:
            count = flow.sockets[leg].send(octets)
        except BlockingIOError:
            count = 0
        except OSError:
            return flow.relay.handle(Event.FAULT, leg)
        rest = octets[count:]
        if rest and rest.obj is self._buffer.obj:
            rest = memoryview(bytes(rest))
        flow.pending[1 - leg] = rest
        return flow.relay.handle(Event.WROTE, leg, count)

    def _shut_down(self, flow: Flow, leg: Leg) -> Steps:
        try:
            flow.sockets[leg].shutdown(socket.SHUT_WR)
        except OSError:
            return flow.relay.handle(Event.FAULT, leg)
        return ()

    def _release(self, sock: socket.socket, act: Act) -> None:
        self._ends.pop(sock.fileno(), None)  # closing takes it out of the epoll
        if act is Act.RESET:
            reset(sock)
        else:
            sock.close()
