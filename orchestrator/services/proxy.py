"""The proxy worker: a process of its own, so that no connection depends on the daemon's life.

    python -m orchestrator.services.proxy --socket /run/orchestrator/proxy.sock

It is told what to do through that socket (`wire.proxy_control`), by whoever connects; daemons
come and go. One worker serves one socket: a lock beside it, held for life, makes a second one
end with exit code 3. With --take-over a new one takes everything from the one that is there
(`proxy_handover`), which ends then. It ends when it is asked to, or by SIGTERM, which resets
every flow.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchestrator.adapters.pipe import MOST_PIPES
from orchestrator.adapters.transparent import allow_descriptors
from orchestrator.core.flows import FlowEvent
from orchestrator.services.proxy_control import ControlSocket
from orchestrator.services.proxy_engine import Engine
from orchestrator.services.proxy_handover import Abandoned, Successor, give
from orchestrator.services.proxy_seat import Seat
from orchestrator.wire.proxy_control import READY

EXIT_FAILED: Final = 1
EXIT_ALREADY_THERE: Final = 3
LOG_RECORDS: Final = 500
"""In a worker's life: the log stands in memory (/run), and counters tell the rest."""
DESCRIPTORS_WANTED: Final = 1 << 17
"""65,000 flows; the settings say how many are allowed."""
DESCRIPTORS_RESERVED: Final = 64 + 2 * MOST_PIPES
"""Listeners, control clients, epoll, log, what libraries open; and the pipes of bulk."""
_log = logging.getLogger("orchestrator.proxy")


class Worker:
    """One engine, its control socket, and the order in which they end."""

    def __init__(self) -> None:
        descriptors = allow_descriptors(DESCRIPTORS_WANTED)
        self._engine = Engine((descriptors - DESCRIPTORS_RESERVED) // 2, self._tell)
        self._control = ControlSocket(self._engine, self.stop, self._hand_over)
        self._asked_to_stop = asyncio.Event()
        self._seat: Seat | None = None
        """None: we have none yet"""
        self._handed_over = False
        self._ending = False
        """Watchers hear of the end itself then, not of each flow: who counts what stands knows
        what the end cost."""

    def stop(self) -> None:
        """Flows that stand are reset, and `run` returns."""
        self._asked_to_stop.set()

    def take_over(self, path: Path) -> Seat:
        """Everything that the worker of `path` has is ours. Raises Abandoned."""
        with Successor(path) as successor:
            estate = successor.receive()
            counters = estate.opening.counters
            try:
                self._engine.adopt(
                    estate.opening.settings, counters, estate.listeners, estate.flows
                )
                inheritance = successor.take(estate)
            except (OSError, Abandoned) as error:
                self._engine.let_go()
                raise Abandoned(str(error)) from error
        self._control.events_lost = counters.events_lost
        self._control.inheritance = inheritance
        _log.info(
            "proxy worker %d took %d flows over from %d in %.0f ms; lost so far: %d",
            os.getpid(),
            inheritance.flows,
            inheritance.predecessor,
            inheritance.standstill * 1000,
            inheritance.lost,
        )
        return estate.seat

    async def run(self, seat: Seat, ready: int | None) -> None:
        self._seat = seat
        async with self._control.serving(seat.listener):
            _log.info("proxy worker %d serves %s", os.getpid(), seat.path)
            if ready is not None:
                with contextlib.suppress(BrokenPipeError):  # whoever started us has died
                    os.write(ready, READY)
                os.close(ready)
            await self._asked_to_stop.wait()
            if not self._handed_over:
                self._ending = True
                lost = self._engine.close()
                self._control.accept_no_more()
                seat.leave()
                _log.info("proxy worker %d ends, %d flows reset", os.getpid(), lost)

    def _hand_over(self, client: socket.socket) -> None:
        """The client, a new worker, has everything, and we end; or nothing has changed."""
        if self._seat is None or self._asked_to_stop.is_set():
            return
        try:
            give(self._engine, self._seat, self._control.events_lost, client)
        except Abandoned as error:
            _log.warning("proxy worker %d goes on: %s", os.getpid(), error)
            return
        self._handed_over = True
        self._control.accept_no_more()
        self._engine.let_go()
        self._seat.let_go()
        self.stop()
        _log.info("proxy worker %d ends, another has its flows", os.getpid())

    def _tell(self, event: FlowEvent) -> None:
        if not self._ending:
            self._control.tell(event)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="orchestrator.services.proxy", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="where to be controlled")
    parser.add_argument("--ready-fd", type=int, help="where to say that the socket answers")
    parser.add_argument(
        "--detach", action="store_true", help="go on in a session and process of its own"
    )
    parser.add_argument(
        "--take-over", action="store_true", help="take everything from the worker that is there"
    )
    options = parser.parse_args(arguments)
    _log_sparingly()
    if options.detach:
        _detach()
    try:
        return asyncio.run(_work(options.socket, options.ready_fd, take_over=options.take_over))
    except (OSError, Abandoned) as error:
        _log.error("cannot serve %s: %s", options.socket, error)
        return EXIT_FAILED


async def _work(path: Path, ready: int | None, *, take_over: bool) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    worker = Worker()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    loop.add_signal_handler(signal.SIGINT, worker.stop)
    seat = worker.take_over(path) if take_over else Seat.take(path)
    if seat is None:
        _log.error("another worker serves %s", path)
        return EXIT_ALREADY_THERE
    await worker.run(seat, ready)
    return 0


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
