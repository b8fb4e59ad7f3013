"""Our daemon on a device whose clock jumps when the test says so: no lab can be suspended.

`python -m tests.scenarios.sleepy CONFIG`. On SIGUSR1 CLOCK_BOOTTIME is as many seconds ahead of
the kernel's as the file `JUMP` says, and the daemon hears that it woke, as it would from the
kernel. Everything else is `orchestrator run`.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Final

from orchestrator.adapters import clock
from orchestrator.config.toml import load
from orchestrator.core.quantities import Instant, Seconds
from orchestrator.faces import daemon

JUMP: Final = Path("/run/jump")


class FakedClock:
    def __init__(self) -> None:
        self._ahead = 0.0
        self._wakes: asyncio.Queue[Seconds] = asyncio.Queue()

    def now(self) -> Instant:
        return Instant(clock.now() + self._ahead)

    async def wakes(self) -> AsyncGenerator[Seconds, None]:
        while True:
            yield await self._wakes.get()

    def jump(self) -> None:
        slept = float(JUMP.read_text())
        self._ahead += slept
        self._wakes.put_nowait(Seconds(slept))


async def main() -> None:
    faked, loop = FakedClock(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, faked.jump)
    reread = partial(load, Path(sys.argv[1]))
    await daemon.run(reread(), reread, clock.Clock(faked.now, faked.wakes))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(main())
