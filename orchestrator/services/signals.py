"""How well the radios of our links hear, asked for when there is work to do anyway."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from orchestrator.core.mobility_events import SignalSeen
from orchestrator.core.quantities import LinkIndex
from orchestrator.services.tasks import Tasks

LINKS: Final = 8
"""Radios that are asked at most; nobody has more."""


class Radio(Protocol):
    """Who knows (`adapters.nl80211`)."""

    async def signal(self, link: LinkIndex) -> int | None:
        """dBm; None: nobody can tell."""

    async def close(self) -> None: ...


class Signals:
    """Of one endpoint. `look` whenever a probe was sent: a radio shall cost no wake-up."""

    def __init__(
        self,
        radio: Radio,
        is_radio: Callable[[str], bool],
        tell: Callable[[SignalSeen], None],
        tasks: Tasks,
    ) -> None:
        self._radio = radio
        self._is_radio = is_radio
        self._tell = tell
        self._tasks = tasks
        self._asking = False

    def look(self, links: Mapping[str, LinkIndex]) -> None:
        """Asks those of these links that are radios, unless they are being asked."""
        radios = [index for name, index in links.items() if self._is_radio(name)][:LINKS]
        if radios and not self._asking:
            self._tasks.begin(self._ask(radios), "signals")

    async def close(self) -> None:
        await self._radio.close()

    async def _ask(self, radios: list[LinkIndex]) -> None:
        self._asking = True
        try:
            for link in radios:
                dbm = await self._radio.signal(link)
                if dbm is not None:
                    self._tell(SignalSeen(link, dbm))
        finally:
            self._asking = False
