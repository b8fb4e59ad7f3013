"""What nl80211 tells of a station; no radio was at hand, so its messages are written here."""

import asyncio

from pyroute2.netlink.nl80211 import nl80211cmd

from orchestrator.adapters.nl80211 import Radios, is_radio, strongest
from orchestrator.core.quantities import LinkIndex

GET_STATION = 17
"""NL80211_CMD_GET_STATION (include/uapi/linux/nl80211.h)."""


def station(**info: int) -> nl80211cmd:
    """A message as the kernel writes it, encoded and decoded."""
    attributes = [(f"NL80211_STA_INFO_{name}", value) for name, value in info.items()]
    said = nl80211cmd()
    said["cmd"] = GET_STATION
    said["attrs"] = [["NL80211_ATTR_STA_INFO", {"attrs": attributes}]]
    said.encode()
    heard = nl80211cmd(said.data)
    heard.decode()
    return heard


def test_the_average_counts_before_the_latest_frame() -> None:
    assert strongest([station(SIGNAL=-40, SIGNAL_AVG=-67)]) == -67
    assert strongest([station(SIGNAL=-55)]) == -55


def test_nobody_heard_is_no_signal() -> None:
    assert strongest([]) is None
    assert strongest([station(RX_PACKETS=7)]) is None


def test_loopback_is_no_radio_and_has_no_signal() -> None:
    async def story() -> None:
        radios = Radios()
        assert not is_radio("lo")
        assert await radios.signal(LinkIndex(1)) is None
        await radios.close()

    asyncio.run(story())
