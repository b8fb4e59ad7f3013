"""Sends what waited for endpoints that are back; those that return together, together.

The worker's senders come first: of what they send anew no old copy shall leave. They are asked
once for everybody who has returned by then, because a question costs more than an endpoint.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Final

from orchestrator.core.quantities import IPAddress
from orchestrator.services.hold import Holder
from orchestrator.services.journal import Journal
from orchestrator.wire.labels import Flow

AT_ONCE: Final = 64
"""Sessions; those behind them wait for the worker no longer than it is busy with as many."""


class Releaser:
    """What the server's holder has leaves here, and nowhere else."""

    def __init__(
        self,
        holder: Holder,
        resume: Callable[[Sequence[IPAddress]], Awaitable[frozenset[Flow]]],
        attached: Callable[[IPAddress], bool],
        journal: Journal,
    ) -> None:
        """`resume` has the worker's senders send anew, and names their flows."""
        self._holder = holder
        self._resume = resume
        self._attached = attached
        self._journal = journal
        self._returned: dict[tuple[IPAddress, ...], None] = {}
        """Virtual addresses, of one session each; in the order of their return."""
        self._wake = asyncio.Event()

    def returned(self, vips: tuple[IPAddress, ...]) -> None:
        """What waits for this session may leave, if it is attached still when it does."""
        self._returned[vips] = None
        self._wake.set()

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            await self._wake.wait()
            together = tuple(islice(self._returned, AT_ONCE))
            for vips in together:
                del self._returned[vips]
            if not self._returned:
                self._wake.clear()
            await self._release(together)

    async def _release(self, together: Sequence[tuple[IPAddress, ...]]) -> None:
        everybody = [vip for vips in together for vip in vips]
        resumed = await self._resume(everybody)
        self._holder.take_stalled(everybody, resumed)
        flows = Counter(flow.destination for flow in resumed)
        for vips in together:
            packets = self._holder.release(vip for vip in vips if self._attached(vip))
            anew = sum(flows[vip.packed] for vip in vips)
            if packets or anew:
                fields = {"packets": packets, "resumed": anew, "vip": str(vips[0])}
                self._journal.tell("released", fields=fields)
