"""Tells people what happens: one record to the log, the same one to everybody who watches.

The values stand in fields: `watch --json` prints them as they are, and the journal has them as
ORCH_* (`adapters.journald`). Elsewhere the log is a line with all of them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final

from orchestrator.adapters import clock
from orchestrator.core.metric import Histogram
from orchestrator.core.quantities import Seconds

WATCHER_LIMIT: Final = 256
"""Records that wait for a slow watcher; one that lags further behind is told and dropped."""
MOST_WORDS: Final = 1024
"""Events, and pairs of an event and a reason, that are counted; they are words of ours, some
hundred. Should a defect make words of a peer's text, the rest counts as OTHER."""
OTHER: Final = "other"
Record = dict[str, object]

_LOG: Final = logging.getLogger("orchestrator")


class Journal:
    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[Record | None]] = set()
        self.counters: dict[str, int] = {}
        self.reasons: dict[tuple[str, str], int] = {}
        """By event and reason."""
        self.durations: dict[str, Histogram] = {}
        """Of events that tell an `elapsed_ms`."""

    def tell(
        self,
        event: str,
        reasons: Iterable[str] = (),
        fields: Mapping[str, object] | None = None,
        *,
        warning: bool = False,
    ) -> None:
        """`event` and reasons are words of the machines; a field that is None is left away."""
        values = {key: value for key, value in (fields or {}).items() if value is not None}
        words = sorted(reasons)
        record: Record = {
            "at": clock.wall(),
            "boottime": round(clock.now(), 6),
            "event": event,
            "reasons": words,
            **values,
        }
        self._take_count(event, words, values)
        shown = " ".join(f"{key}={value}" for key, value in values.items())
        extra: dict[str, object] = {"ORCH_EVENT": event, "ORCH_REASON": words}
        extra |= {f"ORCH_{key.upper()}": value for key, value in values.items()}
        level = logging.WARNING if warning else logging.INFO
        _LOG.log(level, "%s (%s) %s", event, ", ".join(words), shown, extra=extra)
        for queue in tuple(self._watchers):
            self._hand_over(queue, record)

    def count(self, event: str) -> None:
        """For what happens too often to be told."""
        key = event if event in self.counters or len(self.counters) < MOST_WORDS else OTHER
        self.counters[key] = self.counters.get(key, 0) + 1

    def _take_count(self, event: str, words: list[str], values: Mapping[str, object]) -> None:
        self.count(event)
        for word in words:
            pair = (event, word)
            if pair not in self.reasons and len(self.reasons) >= MOST_WORDS:
                pair = (OTHER, OTHER)
            self.reasons[pair] = self.reasons.get(pair, 0) + 1
        elapsed = values.get("elapsed_ms")
        if isinstance(elapsed, float):
            self.durations.setdefault(event, Histogram()).observe(Seconds(elapsed / 1000))

    def _hand_over(self, queue: "asyncio.Queue[Record | None]", record: Record) -> None:
        if queue.qsize() < WATCHER_LIMIT:
            queue.put_nowait(record)
            return
        self._watchers.discard(queue)
        queue.put_nowait(None)

    async def watch(self) -> AsyncIterator[Mapping[str, object]]:
        """Every record from now on; ends when the watcher is too slow to follow."""
        queue: asyncio.Queue[Record | None] = asyncio.Queue(WATCHER_LIMIT + 1)
        self._watchers.add(queue)
        try:
            while (record := await queue.get()) is not None:
                yield record
        finally:
            self._watchers.discard(queue)
