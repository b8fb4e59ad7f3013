"""Tells the firewall of a server which tunnels carry flows of their own.

There is one map for all sessions. It is filled behind what the machine decides, and with the
latest only: until then flows go back with everything else, as they do without a policy for
their mark.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from orchestrator.core.errors import KernelError
from orchestrator.core.flow_rules import CARRYING, carrying_element
from orchestrator.core.quantities import Spi
from orchestrator.services.journal import Journal

Fill = Callable[[str, Collection[str]], Awaitable[None]]


class Carrying:
    """Of one server."""

    def __init__(self, fill: Fill, journal: Journal) -> None:
        """`fill` gives a map of the firewall its elements. Raises KernelError."""
        self._fill = fill
        self._journal = journal
        self._slots: dict[str, Mapping[Spi, int]] = {}
        self._changed = asyncio.Event()

    def told(self, identity: str, slots: Mapping[Spi, int]) -> None:
        """These inbound SAs of the identity carry flows, and no others of it."""
        self._slots.pop(identity, None)
        if slots:
            self._slots[identity] = slots
        self._changed.set()

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = {
                carrying_element(spi, slot)
                for slots in self._slots.values()
                for spi, slot in slots.items()
            }
            try:
                await self._fill(CARRYING, wanted)
            except KernelError as error:
                # Flows go back with everything else.
                fields = {"detail": str(error)}
                self._journal.tell("flows-together", fields=fields, warning=True)
