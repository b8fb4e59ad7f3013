"""The proxy worker: a process of its own, so that no connection depends on the daemon's life.

    python -m orchestrator.services.proxy --socket /run/orchestrator/proxy.sock

It is told what to do through that socket (`wire.proxy_control`), by whoever connects; daemons
come and go. One worker serves one socket: a lock beside it, held for life, makes a second one
end with exit code 3. It ends when it is asked to, or by SIGTERM, which resets every flow.
"""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from orchestrator.adapters.transparent import allow_descriptors
from orchestrator.core.flows import FlowEvent
from orchestrator.services.proxy_control import ControlSocket
from orchestrator.services.proxy_engine import Engine
from orchestrator.wire.proxy_control import READY

EXIT_FAILED: Final = 1
EXIT_ALREADY_THERE: Final = 3
LOG_RECORDS: Final = 500
"""In a worker's life: the log stands in memory (/run), and counters tell the rest."""
DESCRIPTORS_WANTED: Final = 1 << 17
"""65,000 flows; the settings say how many are allowed."""
DESCRIPTORS_RESERVED: Final = 64
"""Listeners, control clients, epoll, log, what libraries open."""
_log = logging.getLogger("orchestrator.proxy")


class Worker:
    """One engine, its control socket, and the order in which they end."""

    def __init__(self) -> None:
        descriptors = allow_descriptors(DESCRIPTORS_WANTED)
        self._engine = Engine((descriptors - DESCRIPTORS_RESERVED) // 2, self._tell)
        self._control = ControlSocket(self._engine, self.stop)
        self._asked_to_stop = asyncio.Event()

    def stop(self) -> None:
        """Flows that stand are reset, and `run` returns."""
        self._asked_to_stop.set()

    async def run(self, path: Path, ready: int | None) -> None:
        async with self._control.serving(path):
            _log.info("proxy worker %d serves %s", os.getpid(), path)
            if ready is not None:
                with contextlib.suppress(BrokenPipeError):  # whoever started us has died
                    os.write(ready, READY)
                os.close(ready)
            await self._asked_to_stop.wait()
            lost = self._engine.close()
            _log.info("proxy worker %d ends, %d flows reset", os.getpid(), lost)

    def _tell(self, event: FlowEvent) -> None:
        self._control.tell(event)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether this process is the one to serve `path`; if so, until the end of the block."""
    lock = path.with_name(path.name + ".lock")
    descriptor = _lock(lock)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(lock: Path) -> int | None:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # the one before us removed it between our open and our lock


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="orchestrator.services.proxy", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="where to be controlled")
    parser.add_argument("--ready-fd", type=int, help="where to say that the socket answers")
    parser.add_argument(
        "--detach", action="store_true", help="go on in a session and process of its own"
    )
    options = parser.parse_args(arguments)
    _log_sparingly()
    if options.detach:
        _detach()
    try:
        with alone(options.socket) as first:
            if not first:
                _log.error("another worker serves %s", options.socket)
                return EXIT_ALREADY_THERE
            asyncio.run(_work(options.socket, options.ready_fd))
    except OSError as error:
        _log.error("cannot serve %s: %s", options.socket, error)
        return EXIT_FAILED
    return 0


async def _work(path: Path, ready: int | None) -> None:
    worker = Worker()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    loop.add_signal_handler(signal.SIGINT, worker.stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    await worker.run(path, ready)


def _log_sparingly() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    records = iter(range(LOG_RECORDS))
    handler.addFilter(lambda _record: next(records, None) is not None)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _detach() -> None:
    """The caller's child ends here; its child, which belongs to nobody, goes on."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())
