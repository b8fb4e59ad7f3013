"""A daemon's tasks: all belong to one group, and end with it."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Self


class Tasks:
    """A task group to which nothing can be added before and after its time."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._group is None:
            return
        try:
            await self._group.__aexit__(kind, error, trace)
        finally:
            self._group = None

    def begin(self, work: Coroutine[None, None, None], name: str) -> None:
        """Starts the work beside the others; a daemon that does not run does not begin it."""
        if self._group is None:
            work.close()
            return
        self._group.create_task(work, name=name)
