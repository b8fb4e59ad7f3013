"""Names for numbers, so that a mark cannot pass for a table."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, NewType

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

Instant = NewType("Instant", float)
"""Seconds of CLOCK_BOOTTIME: suspend counts, the wall clock does not."""
Seconds = NewType("Seconds", float)
LinkIndex = NewType("LinkIndex", int)
"""ifindex, above 0."""
TableId = NewType("TableId", int)
"""Routing table number, 32 bits."""
Reqid = NewType("Reqid", int)
"""Joins XFRM states to policy templates, 32 bits, 0 is "any"."""
Spi = NewType("Spi", int)
"""Security parameter index, 32 bits, host order; 0 is none."""
UniqueId = NewType("UniqueId", int)
"""charon's number for an IKE_SA or a CHILD_SA, unique while charon runs."""


@lru_cache(maxsize=1024)
def host_network(address: IPAddress) -> IPNetwork:
    """The network that holds `address` alone (/32 or /128)."""
    if isinstance(address, IPv4Address):
        return IPv4Network((address, 32))
    return IPv6Network((address, 128))


SERIALS: Final = 2**32
"""Serial numbers (RFC 1982) have 32 bits here: what is counted may wrap."""


def follows(number: int, former: int) -> bool:
    """Whether this serial number is a later one."""
    return 0 < (number - former) % SERIALS < SERIALS // 2


def successor(number: int) -> int:
    """The next serial number."""
    return (number + 1) % SERIALS
