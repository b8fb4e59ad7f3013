"""How a network that has IPv6 alone writes IPv4 addresses, and how one finds that out (NAT64).

Such a network has a translator; whatever is sent to an address that holds an IPv4 address under
the network's prefix goes on as IPv4. The rules:

1. A prefix has 32, 40, 48, 56, 64 or 96 bits. The 32 bits of the IPv4 address follow it, but
   octet 8 of the whole is left out, and zero (RFC 6052, 2.2) (`synthesize`, `extract`).
2. The well-known prefix does not stand for addresses that are not the whole world's (RFC 6052,
   3.1): no translator would take them.
3. The prefix is asked for: the name `ipv4only.arpa` has two IPv4 addresses, and nothing else.
   An IPv6 address of it was made by the network, and holds one of the two behind the prefix.
   One that holds it at two places says nothing (RFC 7050, 3) (`prefixes`).
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

LENGTHS: Final = (32, 40, 48, 56, 64, 96)
WELL_KNOWN_PREFIX: Final = IPv6Network("64:ff9b::/96")
ASKED_NAME: Final = "ipv4only.arpa"
ASKED_ADDRESSES: Final = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
_LEFT_OUT: Final = 8
"""The octet that holds no part of the IPv4 address."""
_OCTETS: Final = 16


def synthesize(prefix: IPv6Network, address: IPv4Address) -> IPv6Address | None:
    """Where the network with this prefix has the address; None: nowhere (rule 2)."""
    if prefix == WELL_KNOWN_PREFIX and not address.is_global:
        return None
    octets = bytearray(prefix.network_address.packed)
    for place, octet in zip(_places(prefix), address.packed, strict=True):
        octets[place] = octet
    return IPv6Address(bytes(octets))


def extract(prefix: IPv6Network, address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this one stands for; None: it is not under the prefix."""
    if address not in prefix or (prefix.prefixlen < 96 and address.packed[_LEFT_OUT]):
        return None
    return IPv4Address(bytes(address.packed[place] for place in _places(prefix)))


def prefixes(answers: Iterable[IPv6Address]) -> tuple[IPv6Network, ...]:
    """The prefixes under which a network answered for `ipv4only.arpa`, in its order."""
    found: dict[IPv6Network, None] = {}
    for answer in answers:
        under = (IPv6Network((answer, length), strict=False) for length in LENGTHS)
        holding = [prefix for prefix in under if extract(prefix, answer) in ASKED_ADDRESSES]
        if len(holding) == 1:
            found[holding[0]] = None
    return tuple(found)


def _places(prefix: IPv6Network) -> tuple[int, ...]:
    """The four octets of the whole that hold the IPv4 address."""
    first = prefix.prefixlen // 8
    usable = (n for n in range(first, _OCTETS) if first > _LEFT_OUT or n != _LEFT_OUT)
    return tuple(usable)[:4]
