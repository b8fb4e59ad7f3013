"""Joins news and acts: the one caller of a machine's `handle`.

News is posted from anywhere in the process and handled one at a time, in order. The effects of
one piece of news are carried out in their order before the next is looked at; an effect that
takes long is begun, not awaited, and its outcome is posted as news.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from orchestrator.core.quantities import Instant

EventT = TypeVar("EventT", contravariant=True)
EffectT = TypeVar("EffectT", covariant=True)
E = TypeVar("E")
F = TypeVar("F")

QUEUE_LIMIT: Final = 10_000
"""News waiting. A full queue means that we are minutes behind: the oldest duplicates of state
would be worthless, so the poster waits and the sender's own socket buffer fills instead."""


class Machine(Protocol[EventT, EffectT]):
    def handle(self, event: EventT, now: Instant) -> Sequence[EffectT]: ...

    def deadline(self) -> Instant | None: ...


class _Latest:
    """Stands in the queue for the latest news of a type."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind


class Driver(Generic[E, F]):
    """Runs one machine until cancelled."""

    def __init__(
        self,
        machine: Machine[E, F],
        execute: Callable[[F], Awaitable[E | None]],
        tick: E,
        clock: Callable[[], Instant],
    ) -> None:
        self._machine = machine
        self._execute = execute
        self._tick = tick
        self._clock = clock
        self._news: asyncio.Queue[E | _Latest] = asyncio.Queue(QUEUE_LIMIT)
        self._latest: dict[type[E], E] = {}
        self._turn = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """News that was posted and not handled yet."""
        return self._news.qsize()

    def post(self, event: E) -> None:
        """Hands over news without waiting. Raises asyncio.QueueFull when far behind."""
        self._news.put_nowait(event)

    def post_latest(self, event: E) -> None:
        """Hands over news that makes older, waiting news of its type worthless: a snapshot."""
        kind = type(event)
        if kind not in self._latest:
            self._news.put_nowait(_Latest(kind))
        self._latest[kind] = event

    async def handle(self, event: E) -> tuple[F, ...]:
        """Handles one piece of news now, effects included; returns all of them.

        An effect whose outcome is known at once returns it as news, which is handled before
        the remaining effects of the first: what follows a move must see that it happened.
        """
        async with self._turn:
            return tuple(await self._handle(event))

    async def _handle(self, event: E) -> list[F]:
        done: list[F] = []
        for effect in self._machine.handle(event, self._clock()):
            done.append(effect)
            outcome = await self._execute(effect)
            if outcome is not None:
                done += await self._handle(outcome)
        return done

    async def run(self) -> None:
        while True:
            await self.handle(await self._next())

    async def _next(self) -> E:
        news = await self._news_or_tick()
        return self._latest.pop(news.kind) if isinstance(news, _Latest) else news

    async def _news_or_tick(self) -> "E | _Latest":
        if not self._news.empty():
            return self._news.get_nowait()  # a look at the clock costs more than most news
        deadline = self._machine.deadline()
        if deadline is None:
            return await self._news.get()
        delay = deadline - self._clock()
        if delay <= 0:
            return self._tick
        try:
            async with asyncio.timeout(delay):
                return await self._news.get()
        except TimeoutError:
            return self._tick
