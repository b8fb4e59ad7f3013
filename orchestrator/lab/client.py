"""Talks to the lab that is up: asks it for changes, runs commands on its hosts."""

import os
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from orchestrator.core.errors import OrchestratorError
from orchestrator.lab import keeper
from orchestrator.lab.frames import Frame, Kind, json_frame, read_frame
from orchestrator.lab.kernel import Progress

_CHUNK: Final = 1 << 14
_LAST_LINES: Final = 10
_DOWN_SECONDS: Final = 30.0
"""What a lab that was asked to end may take until it has."""
_CREDENTIALS: Final = struct.Struct("3i")
"""Process, user and group at the other end of a socket; see socket(7), SO_PEERCRED."""


class NotUp(OrchestratorError):
    """No lab is up."""


class LabError(OrchestratorError):
    """The lab is up and refused."""


def bring_up(folder: Path, backend: str, say: Progress) -> bool:
    """Starts a lab in the background and waits for it; False if one was up, or came up.

    Interrupted, it ends what it started. Raises LabError.
    """
    if keeper.is_up(folder):
        return False
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    keeping = subprocess.Popen(
        [sys.executable, "-m", keeper.__name__, str(folder), backend],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    if keeping.stdout is None:
        raise RuntimeError("popen gave no pipe")
    try:
        with keeping.stdout as lines:
            # The keeper is the last that holds the pipe's other end.
            for line in lines:
                match line.rstrip():
                    case keeper.READY:
                        return True
                    case keeper.THERE:
                        return False
                    case told:
                        say(told)
        keeping.wait()
    except BaseException:
        keeping.terminate()
        keeping.wait()
        raise
    raise LabError(_what_the_log_says(keeper.log_of(folder)))


def _what_the_log_says(log: Path) -> str:
    try:
        last = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    except OSError:
        last = []
    return "\n".join(
        ["the lab did not come up" + (f"; {log} ends with" if last else ""), *last]
    )


def ask(folder: Path, request: Mapping[str, object]) -> Any:
    """The result of one request. Raises NotUp and LabError."""
    with _connect(folder) as line:
        line.sendall(json_frame(Kind.REQUEST, 0, request).encode())
        return _result(_receive(line).json())


def take_down(folder: Path) -> None:
    """Ends the lab; it is gone then, and another can come up. Raises NotUp and LabError."""
    with _connect(folder) as line:
        told = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        keeping = os.pidfd_open(_CREDENTIALS.unpack(told)[0])
        try:
            line.sendall(json_frame(Kind.REQUEST, 0, {"do": "down"}).encode())
            _result(_receive(line).json())
            # The answer comes before the lab is taken apart; its keeper's end frees the lock.
            ended = select.poll()
            ended.register(keeping, select.POLLIN)
            if not ended.poll(1000 * _DOWN_SECONDS):
                raise LabError(f"the lab has not ended within {_DOWN_SECONDS:g} s")
        finally:
            os.close(keeping)


def execute(
    folder: Path, host: str, command: Sequence[str], *, output: int | None = None
) -> int:
    """Runs a command on a host with our terminal, or our stdin, stdout and stderr.

    `output` is a descriptor for what it writes to stdout. Returns its exit code. Raises NotUp
    and LabError.
    """
    terminal = output is None and sys.stdin.isatty() and sys.stdout.isatty()
    request = {
        "do": "exec",
        "host": host,
        "command": list(command),
        "terminal": _size() if terminal else None,
        "term": os.environ.get("TERM", "dumb"),
    }
    with _connect(folder) as line, _noticed_signals() as noticed:
        line.sendall(json_frame(Kind.REQUEST, 0, request).encode())
        with _raw(sys.stdin.fileno() if terminal else None):
            answer = _carry(line, noticed, sys.stdout.fileno() if output is None else output)
    result = _result(answer)
    return int(answer["exit"]) if result is None else 0


def _carry(line: socket.socket, noticed: socket.socket, output: int) -> dict[str, Any]:
    """Passes frames, octets and signals to and fro until the answer is there."""
    sinks = {Kind.OUTPUT: output, Kind.ERRORS: sys.stderr.fileno()}
    keyboard = sys.stdin.fileno()
    with selectors.DefaultSelector() as selector:
        for source in (line, noticed):
            selector.register(source, selectors.EVENT_READ)
        try:
            selector.register(keyboard, selectors.EVENT_READ)
        except PermissionError:  # a plain file cannot be waited for, and need not be
            while _send_input(line, keyboard):
                pass
        while True:
            for key, _ in selector.select():
                if key.fileobj is noticed:
                    for number in noticed.recv(_CHUNK):
                        _send_signal(line, number)
                elif key.fileobj == keyboard:
                    if not _send_input(line, keyboard):
                        selector.unregister(keyboard)
                else:
                    frame = _receive(line)
                    if frame.kind is Kind.ANSWER:
                        answer: dict[str, Any] = frame.json()
                        return answer
                    _write(sinks[frame.kind], frame.payload)


def _send_input(line: socket.socket, source: int) -> bool:
    """False at the end of it, which is sent too."""
    received = os.read(source, _CHUNK)
    line.sendall(Frame(Kind.INPUT, 0, received).encode())
    return bool(received)


def _send_signal(line: socket.socket, number: int) -> None:
    if number == signal.SIGWINCH:
        line.sendall(json_frame(Kind.RESIZE, 0, _size()).encode())
    else:
        line.sendall(json_frame(Kind.SIGNAL, 0, number).encode())


def _receive(line: socket.socket) -> Frame:
    def read_exactly(wanted: int) -> bytes:
        received = b""
        while len(received) < wanted and (more := line.recv(wanted - len(received))):
            received += more
        return received

    try:
        return read_frame(read_exactly)
    except (EOFError, ConnectionError):
        raise LabError("the lab went away") from None


def _write(descriptor: int, payload: bytes) -> None:
    left = memoryview(payload)
    while left:
        left = left[os.write(descriptor, left) :]


def _connect(folder: Path) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(str(keeper.socket_of(folder)))
    except OSError as error:
        line.close()
        raise NotUp("no lab is up; `vagrant/lab up` starts one") from error
    return line


def _result(answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise LabError(answer["error"])
    return answer.get("result")


def _size() -> list[int]:
    size = os.get_terminal_size()
    return [size.lines, size.columns]


@contextmanager
def _noticed_signals() -> Iterator[socket.socket]:
    """A socket from which the numbers of signals for the command can be read."""

    def leave_to_the_socket(number: int, frame: FrameType | None) -> None:
        del number, frame

    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.stdout.isatty():
        numbers.append(signal.SIGWINCH)
    reading, writing = socket.socketpair()
    with reading, writing:
        writing.setblocking(False)  # noqa: FBT003  a positional-only parameter
        descriptor = signal.set_wakeup_fd(writing.fileno())
        before = {number: signal.signal(number, leave_to_the_socket) for number in numbers}
        try:
            yield reading
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)


@contextmanager
def _raw(terminal: int | None) -> Iterator[None]:
    if terminal is None:
        yield
        return
    before = termios.tcgetattr(terminal)
    # What was typed meanwhile is for the command; the default would flush it.
    tty.setraw(terminal, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
