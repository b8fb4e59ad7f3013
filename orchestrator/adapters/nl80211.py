"""Asks nl80211 how strong the signal of a radio link is (include/uapi/linux/nl80211.h).

Evidence, and no more: a kernel without radios, a link that is none, a driver that does not tell
and one that hangs all answer None.
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from pyroute2.iwutil import AsyncIW
from pyroute2.netlink.exceptions import NetlinkError

from orchestrator.core.quantities import LinkIndex

PATIENCE: Final = 1.0
"""Seconds for an answer of the kernel; some drivers ask the hardware."""
_CLASS: Final = Path("/sys/class/net")
_AVERAGE, _LATEST = "NL80211_STA_INFO_SIGNAL_AVG", "NL80211_STA_INFO_SIGNAL"


def is_radio(name: str) -> bool:
    """Whether the interface has a wireless PHY."""
    return (_CLASS / name / "phy80211").exists()


class Radios:
    """One socket, opened when a radio link is asked about for the first time."""

    def __init__(self) -> None:
        self._socket: Any = None
        """An AsyncIW, which has no types."""
        self._stack = AsyncExitStack()

    async def close(self) -> None:
        await self._stack.aclose()

    async def signal(self, link: LinkIndex) -> int | None:
        """dBm, of the access point that this link is associated with."""
        try:
            async with asyncio.timeout(PATIENCE):
                if self._socket is None:
                    self._socket = await self._stack.enter_async_context(AsyncIW())
                stations = [each async for each in await self._socket.get_stations(link)]
        except (NetlinkError, OSError, RuntimeError, TimeoutError):
            return None
        return strongest(stations)


def strongest(stations: list[Any]) -> int | None:
    """Of those that the link hears; a client of a network hears one. `stations` are messages of
    pyroute2, which have no types."""
    heard = [each.get_attr("NL80211_ATTR_STA_INFO") for each in stations]
    signals = [info.get_attr(_AVERAGE) or info.get_attr(_LATEST) for info in heard if info]
    return max((int(signal) for signal in signals if signal), default=None)
