"""The structs and numbers that XFRM messages share (include/uapi/linux/xfrm.h).

Layouts are those of 64-bit kernels with natural alignment (x86-64, arm64): integers in the
host's byte order, addresses, ports and SPIs in network order, padding written out. Pure;
malformed input raises PeerError.
"""

from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from struct import Struct
from typing import Any, Final, NamedTuple

from orchestrator.core.errors import PeerError
from orchestrator.core.quantities import IPAddress, IPNetwork

AF_INET: Final = 2
AF_INET6: Final = 10
_FAMILY: Final = {4: AF_INET, 6: AF_INET6}

IPPROTO_ESP: Final = 50
MODE_TUNNEL: Final = 1
UNLIMITED: Final = 0xFFFF_FFFF_FFFF_FFFF
"""XFRM_INF, for the limits in octets and packets; for those in seconds it is 0."""

ADDRESS: Final = Struct("=16s")
SELECTOR: Final = Struct("=16s16s8sHBBB3xiI")
LIMITS: Final = Struct("=8Q")
USAGE: Final = Struct("=4Q")
MARK: Final = Struct("=II")
NUMBER: Final = Struct("=I")
ALGORITHM: Final = Struct("=64sI")
"""What struct xfrm_algo, _auth and _aead begin with: name, bits of key. The key ends them."""


class Message(IntEnum):
    """XFRM_MSG_*: requests, answers and notifications share their numbers."""

    NEWSA = 0x10
    DELSA = 0x11
    GETSA = 0x12
    NEWPOLICY = 0x13
    DELPOLICY = 0x14
    GETPOLICY = 0x15
    EXPIRE = 0x18
    UPDPOLICY = 0x19
    UPDSA = 0x1A
    POLEXPIRE = 0x1B
    FLUSHSA = 0x1C
    FLUSHPOLICY = 0x1D
    NEWAE = 0x1E
    MAPPING = 0x26


class Group(IntEnum):
    """XFRMNLGRP_*: numbers of multicast groups, not bits."""

    EXPIRE = 2
    SA = 3
    POLICY = 4
    AEVENTS = 5
    """Whenever an SA has counted packets; who listens makes the kernel work for each second
    packet of every SA."""
    MAPPING = 8


class Attr(IntEnum):
    """XFRMA_*, those that are looked into."""

    ALG_AUTH = 1
    ALG_CRYPT = 2
    ALG_COMP = 3
    ENCAP = 4
    TMPL = 5
    SA = 6
    POLICY = 7
    LTIME_VAL = 9
    REPLAY_VAL = 10
    POLICY_TYPE = 16
    ALG_AEAD = 18
    ALG_AUTH_TRUNC = 20
    MARK = 21
    REPLAY_ESN_VAL = 23
    SA_EXTRA_FLAGS = 24
    PROTO = 25
    PAD = 27
    OFFLOAD_DEV = 28
    SET_MARK = 29
    SET_MARK_MASK = 30
    IF_ID = 31


class RawSelector(NamedTuple):
    """struct xfrm_selector, field by field but for the ports, which we never use."""

    destination: bytes
    source: bytes
    ports: bytes
    """dport, dport_mask, sport, sport_mask"""
    family: int
    destination_length: int
    source_length: int
    protocol: int
    interface: int
    user: int


def pack_address(address: IPAddress | None) -> bytes:
    """xfrm_address_t: 16 octets, the first 4 used for IPv4; None is the any-address."""
    return (b"" if address is None else address.packed).ljust(ADDRESS.size, b"\0")


def unpack_address(packed: bytes, family: int) -> IPAddress:
    if family == AF_INET:
        return IPv4Address(packed[:4])
    if family == AF_INET6:
        return IPv6Address(packed[:16])
    raise PeerError(f"xfrm: address family {family}")


def family_of(value: IPAddress | IPNetwork) -> int:
    return _FAMILY[value.version]


def pack_selector(source: IPNetwork, destination: IPNetwork) -> bytes:
    """Any protocol and port from `source` to `destination`, which are of one family."""
    if source.version != destination.version:
        raise ValueError(f"a selector of two families: {source} -> {destination}")
    return SELECTOR.pack(
        pack_address(destination.network_address),
        pack_address(source.network_address),
        bytes(8),
        family_of(source),
        destination.prefixlen,
        source.prefixlen,
        0,
        0,
        0,
    )


def unpack_selector(body: bytes, offset: int = 0) -> RawSelector:
    return RawSelector(*unpack(SELECTOR, body, offset))


def network(packed: bytes, length: int, family: int) -> IPNetwork:
    """Raises PeerError for a family or a prefix length that there is not."""
    address = unpack_address(packed, family)
    if length > address.max_prefixlen:
        raise PeerError(f"xfrm: a prefix of {length} bits for {address}")
    if isinstance(address, IPv4Address):
        return IPv4Network((address, length), strict=False)
    return IPv6Network((address, length), strict=False)


def unpack(layout: Struct, body: bytes, offset: int = 0) -> tuple[Any, ...]:
    """`layout` at `offset` of `body`; more may follow. Raises PeerError where it is cut off."""
    if len(body) - offset < layout.size:
        raise PeerError(f"xfrm: {len(body) - offset} octets where {layout.size} belong")
    return layout.unpack_from(body, offset)
