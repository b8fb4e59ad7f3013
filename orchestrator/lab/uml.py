"""Boots the lab's kernel as a program on the host's file system, and runs a command in it.

No root, no hardware virtualisation. The guest's root is the host's, under an overlay in memory
(`guest-init`): the command sees every program and file of the host and cannot change one, but
for the results folder. Consoles of the guest are pipes of ours: 0 is the kernel's own, 1 the
command's output and input, 2 its errors.
"""

import contextlib
import os
import re
import selectors
import shlex
import shutil
import signal
import sys
import tempfile
import termios
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

from orchestrator.core.errors import OrchestratorError
from orchestrator.lab.lifeline import Tied

_INIT: Final = Path(__file__).with_name("guest-init")
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  where user-mode Linux is quickest
_MEMORY_MIB: Final = range(512, 2049)
"""What a guest gets: a third of what is free, within these bounds."""
SERIAL_LINE: Final = "/dev/ttyS0"
_INTERRUPT: Final = b"\x03"
_BEGUN: Final = b"lab kernel: the command begins"
"""What the kernel's console says before: nobody takes ^C in there until then."""
_POWERING_OFF: Final = re.compile(rb"^(sysrq: Power Off|reboot: Power down)?\r?\n?$")
_LEFT_BEHIND: Final = ("TMPDIR", "XDG_RUNTIME_DIR", "LD_PRELOAD")
"""Of the host's environment: what makes no sense inside."""


class GuestDied(OrchestratorError):
    """The lab's kernel ended without saying how the command ended."""


def run(kernel: Path, command: Sequence[str], *, results: Path | None = None) -> int:
    """Runs a command to its end, its output passed on as it comes; returns its exit code.

    With a terminal on stdin it has that terminal. Otherwise its stdin is empty, and SIGINT
    here is SIGINT there; a second one ends the guest. Ctrl-C before the command has begun ends
    the guest at once. Raises GuestDied.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    with Guest(kernel, command, results=results, terminal=terminal) as guest, _signals(guest):
        if terminal:
            with _raw_terminal(sys.stdin.fileno()):
                return guest.relay()
        return guest.relay()


class Guest:
    """A kernel that runs one command from the moment it is made; killed at the end."""

    def __init__(
        self,
        kernel: Path,
        command: Sequence[str],
        *,
        results: Path | None = None,
        terminal: bool = False,
        serial: int | None = None,
    ) -> None:
        """`results` is the folder it may write to; `serial` becomes SERIAL_LINE in there."""
        self._forwards_input = terminal
        self._interrupted = False
        self._console = _KernelConsole()
        self._scratch = tempfile.TemporaryDirectory(prefix="orchestrator-lab-")
        scratch = Path(self._scratch.name)
        script = scratch / "command"
        script.write_text(_script(command, os.environ, terminal=terminal))
        inputs, self._input = os.pipe()
        pipes = [os.pipe() for _ in range(3)]
        self._outputs = [reading for reading, _ in pipes]
        theirs = [inputs, *(writing for _, writing in pipes)]
        serial_line = "ssl=null"
        if serial is not None:
            # Two descriptors: with one for both ways its output stops when the line is full.
            theirs += [os.dup(serial), os.dup(serial)]
            serial_line = f"ssl0=fd:{theirs[-2]},fd:{theirs[-1]}"
        memory = _memory_mib()
        words = [
            f"mem={memory}M",
            "rootfstype=hostfs",
            "ro",
            "root=/dev/root",
            "rootflags=/",
            f"init={_INIT}",
            "con=null",
            f"con0=null,fd:{theirs[1]}",
            f"con1=fd:{inputs},fd:{theirs[2]}",
            f"con2=null,fd:{theirs[3]}",
            serial_line,
            "quiet",
            # The host's random generator is as good as a processor's: no wait for entropy.
            "random.trust_cpu=on",
            f"uml_dir={scratch}/",
            f"lab_script={script}",
            f"lab_results={results.resolve() if results else ''}",
            f"lab_terminal={'yes' if terminal else 'no'}",
        ]
        # The kernel is several processes of the host; one that outlived it would be the host's.
        self._tied = Tied(
            [str(kernel), *words],
            env={"PATH": os.defpath, "TMPDIR": str(_memory_folder(memory))},
            pass_fds=theirs,
        )
        for descriptor in theirs:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tied.cut()
        for descriptor in (self._input, *self._outputs):
            os.close(descriptor)
        self._scratch.cleanup()

    def relay(self) -> int:
        """Passes output on until the guest is gone. Raises GuestDied."""
        command_ended = os.pidfd_open(self._tied.process.pid)
        sinks: dict[int, Callable[[bytes], object]] = {
            self._outputs[0]: self._console.write,
            self._outputs[1]: _writer(sys.stdout.fileno()),
            self._outputs[2]: _writer(sys.stderr.fileno()),
        }
        if self._forwards_input:
            sinks[sys.stdin.fileno()] = self._typed
        with selectors.DefaultSelector() as selector:
            for source in (*sinks, command_ended):
                selector.register(source, selectors.EVENT_READ)
            ended = False
            while not ended:
                ready = [key.fd for key, _ in selector.select()]
                # Its end is looked at last: what it wrote before is read before.
                ended = ready == [command_ended]
                for source in ready:
                    if source == command_ended:
                        continue
                    if received := os.read(source, 1 << 16):
                        sinks[source](received)
                    else:
                        selector.unregister(source)
        os.close(command_ended)
        code = self._tied.process.wait()
        if code < 0:
            raise GuestDied(
                f"the lab's kernel was ended by {signal.Signals(-code).name}"
                f"{self._console.tail()}"
            )
        if not self._console.command_begun:
            raise GuestDied(
                f"the lab's kernel ended with {code} before the command began"
                f"{self._console.tail()}"
            )
        return code

    def _typed(self, received: bytes) -> None:
        if _INTERRUPT in received and not self._console.command_begun:
            raise KeyboardInterrupt
        _writer(self._input)(received)

    def interrupt(self) -> None:
        if self._interrupted or not self._console.command_begun:
            raise KeyboardInterrupt
        self._interrupted = True
        os.write(self._input, _INTERRUPT)

    def kill(self) -> None:
        """At once; what it wrote to its results stays."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._tied.process.pid, signal.SIGKILL)


class _KernelConsole:
    """What the kernel has to say, but for its goodbye."""

    _SHOWN_LINES: Final = 15

    def __init__(self) -> None:
        self.command_begun = False
        self._lines: list[bytes] = []
        self._started = b""

    def write(self, received: bytes) -> None:
        *lines, self._started = (self._started + received).split(b"\n")
        for line in lines:
            if line.rstrip() == _BEGUN:
                self.command_begun = True
            elif not _POWERING_OFF.match(line):
                self._lines.append(line.rstrip())
                sys.stderr.write(f"[lab kernel] {line.decode(errors='replace').rstrip()}\n")
                sys.stderr.flush()

    def tail(self) -> str:
        shown = [line.decode(errors="replace") for line in self._lines[-self._SHOWN_LINES :]]
        return "".join(f"\n  {line}" for line in shown)


def _script(command: Sequence[str], environment: Mapping[str, str], *, terminal: bool) -> str:
    kept = {name: value for name, value in environment.items() if name not in _LEFT_BEHIND}
    # The project's own programs, and those that a user's PATH may lack.
    path = [str(Path(sys.executable).parent), kept.get("PATH", os.defpath), "/usr/sbin:/sbin"]
    kept |= {"PATH": ":".join(path), "PYTHONUNBUFFERED": "1"}
    lines = [f"echo {shlex.quote(_BEGUN.decode())} >/dev/tty0"]
    lines += [
        f"export {name}={shlex.quote(value)}"
        for name, value in kept.items()
        if re.fullmatch(r"[A-Za-z_]\w*", name)
    ]
    if terminal:
        size = os.get_terminal_size()
        lines.append(f"stty rows {size.lines} columns {size.columns}")
    elif not sys.stdout.isatty():
        # A terminal for the guest and none for the reader: no colours.
        lines.append("export NO_COLOR=1 TERM=dumb")
    lines.append(f"cd {shlex.quote(str(Path.cwd()))} || exit 125")
    # ^C is for the command; this shell waits for what it makes of it.
    lines.append("trap : INT")
    # A terminal, and yet nothing to read: as for a command started by a script.
    lines.append(shlex.join(command) + ("" if terminal else " </dev/null"))
    lines.append("exit $?")
    return "\n".join(lines) + "\n"


def _memory_mib() -> int:
    free = re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())
    third = int(free[1]) // 1024 // 3 if free else 0
    return min(max(third, _MEMORY_MIB[0]), _MEMORY_MIB[-1])


def _memory_folder(mib: int) -> Path:
    """Where the guest's memory lives; small /dev/shm are common in containers."""
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free >> 20 >= mib:
        return _SHARED_MEMORY
    return Path(tempfile.gettempdir())


@contextlib.contextmanager
def _signals(guest: Guest) -> Iterator[None]:
    def interrupted(number: int, frame: FrameType | None) -> None:
        del number, frame
        guest.interrupt()

    def ended(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    before = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGINT, interrupted),
            (signal.SIGTERM, ended),
            (signal.SIGHUP, ended),
        )
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _raw_terminal(descriptor: int) -> Iterator[None]:
    before = termios.tcgetattr(descriptor)
    # What was typed meanwhile is for the command; the default would flush it.
    tty.setraw(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _writer(descriptor: int) -> Callable[[bytes], None]:
    def write(received: bytes) -> None:
        left = memoryview(received)
        while left:
            left = left[os.write(descriptor, left) :]

    return write
