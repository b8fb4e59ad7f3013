"""A logind that sleeps when it is told to, on a real system bus of its own.

`python -m tests.logind SOCKET`, then a line for each wish: "sleep" announces a sleep and waits
for everybody who delays it ("asleep", or "too late" after five seconds, logind's own default);
"wake" announces the end ("awake"); "pose" makes somebody else announce both ("posed"). It says
"ready" when it can be found.
"""

import asyncio
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, Self

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusBool, DBusStr, DBusUnixFd
from dbus_fast.service import ServiceInterface, dbus_method, dbus_signal

PATIENCE: Final = 5.0
STARTS_WITHIN: Final = 30.0
BUS_CONFIG: Final = """\
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
"""


class FakeLogind:
    """The process, for a test that tells it what to do."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process: Final = process
        self._in: Final[IO[bytes]] = process.stdin
        self._out: Final[IO[bytes]] = process.stdout
        self._expect("ready")

    @classmethod
    def started(
        cls, socket: Path, start: "Callable[..., subprocess.Popen[bytes]]" = subprocess.Popen
    ) -> Self:
        """`start` as Popen; a host of the lab has its own."""
        command = [sys.executable, "-u", "-m", "tests.logind", str(socket)]
        return cls(start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def sleep(self) -> None:
        """Returns when everybody has let go. Raises AssertionError if that takes too long."""
        self._do("sleep", "asleep")

    def wake(self) -> None:
        self._do("wake", "awake")

    def pose(self) -> None:
        self._do("pose", "posed")

    def end(self) -> None:
        self._in.close()
        self.process.wait()
        self._out.close()

    def _do(self, wish: str, outcome: str) -> None:
        self._in.write(f"{wish}\n".encode())
        self._in.flush()
        self._expect(outcome)

    def _expect(self, outcome: str) -> None:
        said, _, _ = select.select([self._out], [], [], STARTS_WITHIN)
        line = self._out.readline().decode().strip() if said else "nothing"
        assert line == outcome, f"logind says {line}, not {outcome}"


class Manager(ServiceInterface):
    def __init__(self) -> None:
        super().__init__("org.freedesktop.login1.Manager")
        self.locks: list[tuple[int, int]] = []
        """A pipe for each: its other end was given away, and is the lock."""

    @dbus_method()
    def Inhibit(  # noqa: N802 - D-Bus's name
        self, what: DBusStr, who: DBusStr, why: DBusStr, mode: DBusStr
    ) -> DBusUnixFd:
        assert (what, who, mode) == ("sleep", "orchestrator", "delay"), why
        ours, theirs = os.pipe()
        self.locks.append((ours, theirs))
        return theirs

    @dbus_signal()
    def PrepareForSleep(self, begins: bool) -> DBusBool:  # noqa: N802 - D-Bus's
        return begins

    async def everybody_lets_go(self) -> bool:
        """Whether they do in time."""
        locks, self.locks = self.locks, []
        try:
            async with asyncio.timeout(PATIENCE):
                for ours, theirs in locks:
                    os.close(theirs)  # our copy, which was sent long ago
                    await asyncio.to_thread(os.read, ours, 1)
                    os.close(ours)
        except TimeoutError:
            return False
        return True


async def serve(socket: Path) -> None:
    bus = await MessageBus(bus_address=f"unix:path={socket}", negotiate_unix_fd=True).connect()
    manager = Manager()
    bus.export("/org/freedesktop/login1", manager)
    await bus.request_name("org.freedesktop.login1")
    print("ready", flush=True)  # noqa: T201 - what the test waits for
    while wish := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if wish == "pose":
            await pose(socket)
            said = "posed"
        else:
            begins = wish == "sleep"
            manager.PrepareForSleep(begins)
            said = "awake"
            if begins:
                said = "asleep" if await manager.everybody_lets_go() else "too late"
        print(said, flush=True)  # noqa: T201
    bus.disconnect()


async def pose(socket: Path) -> None:
    bus = await MessageBus(bus_address=f"unix:path={socket}").connect()
    for begins in (True, False):
        signal = Message(
            message_type=MessageType.SIGNAL,
            path="/org/freedesktop/login1",
            interface="org.freedesktop.login1.Manager",
            member="PrepareForSleep",
            signature="b",
            body=[begins],
        )
        await bus.send(signal)
    bus.disconnect()


def main() -> None:
    socket = Path(sys.argv[1])
    socket.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write(BUS_CONFIG.format(socket=socket))
        config.flush()
        command = ["dbus-daemon", f"--config-file={config.name}", "--nofork", "--print-address"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
            assert daemon.stdout is not None
            daemon.stdout.readline()  # it listens
            try:
                asyncio.run(serve(socket))
            finally:
                daemon.kill()


if __name__ == "__main__":
    main()
