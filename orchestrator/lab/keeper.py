"""Keeps a lab up in the background: owns its kernel, and lets terminals talk to its agent.

Run as a module by `vagrant/lab up`. It says on stdout what happens until the lab is ready, then
nothing more; the lab ends with it, however it ends.
"""

import asyncio
import fcntl
import os
import signal
import socket
import sys
import threading
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from orchestrator.core.errors import OrchestratorError
from orchestrator.lab import agent, backends
from orchestrator.lab.backends import Backend, Running
from orchestrator.lab.cache import cache_folder
from orchestrator.lab.frames import HEADER, TAKEN, WINDOW, Frame, Kind

READY: Final = "ready"
"""The last line on stdout, when the lab can be used."""
THERE: Final = "there"
"""Instead, when a lab is up already, or has come up meanwhile."""
_POLL: Final = 0.2
_MOST_BUFFERED: Final = 64 << 20
"""Octets that a client may leave unread: a stopped terminal must not stop the lab."""


def lab_folder() -> Path:
    """Where a user's lab has its socket and its logs."""
    return cache_folder() / "lab"


def socket_of(folder: Path) -> Path:
    return folder / "socket"


def log_of(folder: Path) -> Path:
    """Of the keeper that has, or was the last to have, the lock."""
    return folder / "keeper.log"


class _Switchboard:
    """Joins the clients' connections to the one line of the agent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._line = writer
        self._clients: dict[int, asyncio.StreamWriter] = {}
        self._numbers = count(1)
        self._sending = asyncio.Lock()
        self._untaken = 0
        self._room = asyncio.Condition()

    async def wait_until_ready(self) -> bool:
        frame = await _read(self._reader)
        return frame is not None and frame.kind is Kind.READY

    async def serve(self, path: Path) -> None:
        """Until the agent hangs up."""
        server = await asyncio.start_unix_server(self._connected, path)
        _say(READY)
        # From now on nobody reads stdout.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        async with server:
            while (frame := await _read(self._reader)) is not None:
                if frame.kind is Kind.TAKEN:
                    await self._taken(TAKEN.unpack(frame.payload)[0])
                client = self._clients.get(frame.channel)
                if client is None:
                    continue
                client.write(Frame(frame.kind, 0, frame.payload).encode())
                stuck = client.transport.get_write_buffer_size() > _MOST_BUFFERED
                if stuck or frame.kind is Kind.ANSWER:
                    client.close()
                    del self._clients[frame.channel]
            server.close()
            for left in self._clients.values():
                left.close()

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        channel = next(self._numbers)
        self._clients[channel] = writer
        while (frame := await _read(reader)) is not None:
            await self._send(Frame(frame.kind, channel, frame.payload))
        if self._clients.pop(channel, None) is not None:
            await self._send(Frame(Kind.GONE, channel))
            writer.close()

    async def _send(self, frame: Frame) -> None:
        left = memoryview(frame.encode())
        async with self._sending:
            while left:
                async with self._room:
                    await self._room.wait_for(lambda: self._untaken < WINDOW)
                    part, left = left[: WINDOW - self._untaken], left[WINDOW - self._untaken :]
                    self._untaken += len(part)
                    self._line.write(part)

    async def _taken(self, octets: int) -> None:
        async with self._room:
            self._untaken -= octets
            self._room.notify()


async def _read(reader: asyncio.StreamReader) -> Frame | None:
    try:
        kind, channel, length = HEADER.unpack(await reader.readexactly(HEADER.size))
        return Frame(Kind(kind), channel, await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def _keep(running: Running, line: socket.socket, folder: Path) -> int:
    relayed = asyncio.create_task(asyncio.to_thread(running.relay))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, running.kill)
    board = _Switchboard(*await asyncio.open_unix_connection(sock=line))
    if await board.wait_until_ready():
        serving = asyncio.create_task(board.serve(socket_of(folder)))
        await asyncio.wait((relayed, serving), return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
    return await relayed


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def is_up(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as tried:
        return tried.connect_ex(str(socket_of(folder))) == 0


def take_place(folder: Path, lock: int) -> bool:
    """Waits until nobody else brings a lab up, or takes one down; False if one is up then."""
    pause = threading.Event()
    waits = False
    while not is_up(folder):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waits:
                _say("a lab is coming up already, or going down; waiting for it")
            waits = True
            pause.wait(_POLL)
        else:
            return True
    return False


def main(folder: Path, backend: str | None) -> int:
    signal.signal(signal.SIGTERM, _ended)  # until the loop has its own
    with (folder / "lock").open("w") as lock:
        if not take_place(folder, lock.fileno()):
            _say(THERE)
            return 0
        with log_of(folder).open("wb") as log:
            os.dup2(log.fileno(), sys.stderr.fileno())
        # Ours now, whatever a killed keeper left.
        socket_of(folder).unlink(missing_ok=True)
        try:
            return _bring_up(folder, backends.choose(backend))
        except OrchestratorError as error:
            _say(str(error))
            return 1
        finally:
            # Before the lock is free: the next keeper's socket is at the same place.
            socket_of(folder).unlink(missing_ok=True)


def _ended(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise SystemExit(128 + number)


def _bring_up(folder: Path, chosen: Backend) -> int:
    _say(f"{chosen.name}: {chosen.reason}")
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    ours, theirs = socket.socketpair()
    with chosen.start(agent.__name__, logs, theirs, _say) as running:
        theirs.close()
        return asyncio.run(_keep(running, ours, folder))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2] or None))
