"""Stories with sockets, which end: by themselves, or after a while as failures."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any


async def until(condition: Callable[[], object]) -> None:
    for _ in itertools.count():
        if condition():
            return
        await asyncio.sleep(0.001)


def run(story: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await story

    asyncio.run(bounded())
