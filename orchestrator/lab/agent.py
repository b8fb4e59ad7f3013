"""Holds a lab inside its kernel, and does in it what is asked through a line to the outside.

Run as a module with the line (a serial device, or a descriptor's number) and a folder for logs.
"""

import fcntl
import os
import select
import signal
import struct
import sys
import termios
import threading
import tty
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from math import nan
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

from orchestrator.core.errors import OrchestratorError
from orchestrator.lab.frames import TAKEN, WINDOW, Frame, Kind, json_frame, read_frame
from orchestrator.lab.host import Host
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.link import Link
from orchestrator.lab.netns import Lab
from orchestrator.lab.product import Product

_CHUNK: Final = 1 << 14
_HANGUP_SECONDS: Final = 1.0
"""For the rest of what a terminal shows, which the kernel passes on after its command ended."""
_NOT_FOUND: Final = 127
_NOT_STARTED: Final = 126
"""Exit codes, as shells have them."""
_FIRST_LINK: Final = "wifi"
"""Where the endpoint is when the lab comes up."""


class _Quality(NamedTuple):
    key: str
    unit: str
    most: float


_QUALITIES: Final = {
    "delay": _Quality("delay_ms", "ms", 60_000),
    "loss": _Quality("loss_percent", "percent", 100),
    "rate": _Quality("rate_mbit", "Mbit/s", 100_000),
}
"""What a link can be given as numbers, from 0 on; the most is beyond what any network has."""
_LINK_ACTS: Final[dict[str, Callable[[Link], object]]] = {
    "up": Link.up,
    "down": Link.down,
    "attach": Link.attach,
    "detach": Link.detach,
    "cut": Link.cut,
    "mend": Link.mend,
}

Request = dict[str, Any]
Inbox = SimpleQueue[Frame]
Send = Callable[[Kind, bytes], None]


class Agent:
    """Answers one request a channel, each in a thread of its own."""

    def __init__(self, lab: Lab, line: int) -> None:
        self._lab = lab
        self._line = line
        self._buffer = bytearray()
        self._sending = threading.Lock()
        self._inboxes: dict[int, Inbox] = {}
        """Of the channels on which a command runs."""
        self._product: Product | None = None

    def serve(self) -> None:
        """Until somebody asks for the end, or the line is closed."""
        self._send(Frame(Kind.READY, 0))
        while True:
            try:
                frame = read_frame(self._read_exactly)
            except EOFError:
                return
            if frame.kind is not Kind.REQUEST:
                if inbox := self._inboxes.get(frame.channel):
                    inbox.put(frame)
            elif not self._accept(frame.channel, frame.json()):
                return

    def _read_exactly(self, wanted: int) -> bytes:
        while len(self._buffer) < wanted:
            taken = os.read(self._line, WINDOW)
            if not taken:
                break
            self._buffer += taken
            self._send(Frame(Kind.TAKEN, 0, TAKEN.pack(len(taken))))
        answer = bytes(self._buffer[:wanted])
        del self._buffer[:wanted]
        return answer

    def _accept(self, channel: int, request: Request) -> bool:
        """False when the request was to end."""
        match request["do"]:
            case "down":
                self._answer(channel, {"result": None})
                return False
            case "exec":
                self._inboxes[channel] = SimpleQueue()
                threading.Thread(
                    target=self._execute, args=(channel, request), daemon=True
                ).start()
            case _:
                self._answer(channel, self._change(request))
        return True

    def _change(self, request: Request) -> dict[str, object]:
        try:
            match request["do"]:
                case "roam":
                    self._lab.roam(request["link"], *request["addresses"])
                case "product":
                    self._run_product()
                case "link":
                    acts = [link_act(change) for change in request["changes"]]
                    for act in acts:
                        act(self._lab.link(request["link"]))
            return {"result": status(self._lab, self._product)}
        except (OrchestratorError, LookupError, ValueError, TimeoutError) as error:
            return {"error": _sentence(error)}

    def _run_product(self) -> None:
        if self._product is None:
            product = Product(self._lab)
            product.start()
            self._product = product
        else:
            self._product.start_again()

    def _execute(self, channel: int, request: Request) -> None:
        try:
            command = _Command(
                self._lab.host(request["host"]),
                request,
                self._inboxes[channel],
                lambda kind, payload: self._send(Frame(kind, channel, payload)),
            )
            code = command.wait()
            self._answer(channel, {"exit": code if code >= 0 else 128 - code})
        except _NotStarted as error:
            self._send(Frame(Kind.ERRORS, channel, f"{error}\n".encode()))
            self._answer(channel, {"exit": error.code})
        except (OSError, LookupError) as error:
            self._answer(channel, {"error": _sentence(error)})
        finally:
            del self._inboxes[channel]

    def _answer(self, channel: int, content: dict[str, object]) -> None:
        self._send(json_frame(Kind.ANSWER, channel, content))

    def _send(self, frame: Frame) -> None:
        left = memoryview(frame.encode())
        with self._sending:
            while left:
                left = left[os.write(self._line, left) :]


class _NotStarted(Exception):
    """There is no such command, or it is none."""

    def __init__(self, host: str, command: str, error: OSError) -> None:
        super().__init__(f"lab: {host} cannot run {command}: {error.strerror}")
        self.code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_STARTED


class _Command:
    """A command on a host, its input and output carried in frames."""

    def __init__(self, host: Host, request: Request, inbox: "Inbox", send: Send) -> None:
        self._send = send
        self._inbox = inbox
        command: list[str] = request["command"]
        if terminal := request["terminal"]:
            ours, theirs = os.openpty()
            _resize(ours, terminal)
            self._process = host.popen(
                # Its session gets the terminal, so that ^C and job control work.
                ["setsid", "--ctty", "--wait", *command],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={"TERM": request["term"]},
            )
            os.close(theirs)
            self._terminal: int | None = ours
            self._input = ours
            outputs = [(ours, Kind.OUTPUT)]
        else:
            self._terminal = None
            reading, self._input = os.pipe()
            pipes = [(os.pipe(), kind) for kind in (Kind.OUTPUT, Kind.ERRORS)]
            (_, writing), (_, errors) = (pipe for pipe, _ in pipes)
            outputs = [(pipe[0], kind) for pipe, kind in pipes]
            try:
                self._process = host.popen(
                    command, stdin=reading, stdout=writing, stderr=errors
                )
            except OSError as error:
                for ours in (self._input, *(output for output, _ in outputs)):
                    os.close(ours)
                raise _NotStarted(host.name, command[0], error) from error
            finally:
                for theirs in (reading, writing, errors):
                    os.close(theirs)
        self._ended = os.pidfd_open(self._process.pid)
        self._readers = [
            threading.Thread(target=self._read, args=output, daemon=True) for output in outputs
        ]
        self._writer = threading.Thread(target=self._write, daemon=True)
        for thread in (*self._readers, self._writer):
            thread.start()

    def wait(self) -> int:
        """Its exit code, when all it printed is sent; what it left behind is not waited for."""
        for reader in self._readers:
            reader.join()
        code = self._process.wait()
        os.close(self._ended)
        self._inbox.put(Frame(Kind.GONE, 0))
        return code

    def _read(self, output: int, kind: Kind) -> None:
        # A terminal reports the end of its last process as EIO.
        with suppress(OSError):
            while self._is_readable(output) and (received := os.read(output, _CHUNK)):
                self._send(kind, received)
            self._read_rest(output, kind)
        if output != self._terminal:
            os.close(output)

    def _is_readable(self, output: int) -> bool:
        """Waits for output or the end of the command; False at its end."""
        waiting = select.poll()
        for descriptor in (output, self._ended):
            waiting.register(descriptor, select.POLLIN)
        return self._ended not in dict(waiting.poll())

    def _read_rest(self, output: int, kind: Kind) -> None:
        """What the command wrote before its end, though a child of it may go on writing."""
        if output == self._terminal:
            waiting = select.poll()
            waiting.register(output, select.POLLIN)
            while waiting.poll(1000 * _HANGUP_SECONDS):
                self._send(kind, os.read(output, _CHUNK))
            return
        left = array("i", [0])
        fcntl.ioctl(output, termios.FIONREAD, left)
        while left[0] and (received := os.read(output, min(left[0], _CHUNK))):
            left[0] -= len(received)
            self._send(kind, received)

    def _write(self) -> None:
        open_input = True
        while (frame := self._inbox.get()).kind is not Kind.GONE:
            match frame.kind:
                case Kind.INPUT if frame.payload and open_input:
                    open_input = self._feed(frame.payload)
                case Kind.INPUT if open_input and self._terminal is None:
                    os.close(self._input)
                    open_input = False
                case Kind.RESIZE if self._terminal is not None:
                    _resize(self._terminal, frame.json())
                case Kind.SIGNAL:
                    self._signal(int(frame.json()))
        if self._process.poll() is None:
            self._signal(signal.SIGHUP)
        if open_input:
            os.close(self._input)

    def _feed(self, payload: bytes) -> bool:
        left = memoryview(payload)
        try:
            while left:
                left = left[os.write(self._input, left) :]
        except OSError:  # it reads no more
            os.close(self._input)
            return False
        return True

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def status(lab: Lab, product: Product | None) -> dict[str, object]:
    """What stands where, as JSON can say it."""
    daemons = () if product is None else product.daemons
    return {
        "daemons": {daemon.role: {"state": daemon.state} for daemon in daemons},
        "hosts": [host.name for host in lab.internet.hosts],
        "links": {
            link.name: {
                "attached": link.attached,
                "access": link in lab.access_links,
                "changed": link.is_changed,
                "device": link.device,
                "addresses": [str(interface) for interface in link.addresses],
                "carrier": link.carrier,
                "cut": link.is_cut,
                **asdict(link.quality),
            }
            for link in lab.links
        },
    }


def _resize(terminal: int, size: list[int]) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


def link_act(change: str) -> Callable[[Link], object]:
    """What a word has a link do, such as "cut" or "loss=5". Raises ValueError."""
    name, _, value = change.partition("=")
    if name in _LINK_ACTS and not value:
        return _LINK_ACTS[name]
    if name in _QUALITIES:
        settings = {_QUALITIES[name].key: _number(change, value, _QUALITIES[name])}
        return lambda link: link.set(**settings)
    known = ", ".join((*_LINK_ACTS, *(f"{each}=NUMBER" for each in _QUALITIES)))
    raise ValueError(f"{change!r} is nothing a link can do; it can {known}")


def _number(change: str, value: str, quality: _Quality) -> float:
    try:
        number = float(value)
    except ValueError:
        number = nan
    if not 0 <= number <= quality.most:
        raise ValueError(
            f"{change}: a number is needed, of {quality.unit}, from 0 to {quality.most:g}"
        )
    return number


def _sentence(error: Exception) -> str:
    """A KeyError would quote its own."""
    return str(error.args[0] if isinstance(error, KeyError) else error)


def _open_line(line: str) -> int:
    if line.isdigit():
        return int(line)
    opened = os.open(line, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(opened)
    return opened


def main(line: str, folder: str) -> None:
    opened = _open_line(line)
    with Lab(INTERNET, Path(folder)) as lab:
        lab.start_peers()
        lab.link(_FIRST_LINK).attach()
        Agent(lab, opened).serve()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
