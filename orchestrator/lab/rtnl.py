"""Speaks the few sentences of rtnetlink that build and shake the lab, without a process each.

A process start costs 30 ms in the user-mode kernel; a lab has a hundred of these sentences.
They are bytes here; `Rtnetlink` sends them, several in one system call where they belong
together. Layouts: include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,pkt_sched}.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from orchestrator.core.errors import KernelError
from orchestrator.core.quantities import IPAddress, IPNetwork
from orchestrator.lab.internet import IPInterface, Quality

_RTM_NEWLINK: Final = 16
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTM_NEWNEIGH: Final = 28
_RTM_NEWQDISC: Final = 36
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_REPLACE: Final = 0x100
_NLM_F_EXCL: Final = 0x200
_NLM_F_CREATE: Final = 0x400
_RTMGRP_LINK: Final = 1

_HEADER: Final = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence, port."""
_IFINFO: Final = struct.Struct("=BxHiII")
"""ifinfomsg: family, type, index, flags, change."""
_IFADDR: Final = struct.Struct("=BBBBi")
"""ifaddrmsg: family, prefix length, flags, scope, index."""
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
"""rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""
_NDMSG: Final = struct.Struct("=BxxxiHBB")
"""ndmsg: family, index, state, flags, type."""
_TCMSG: Final = struct.Struct("=BxxxiIII")
"""tcmsg: family, index, handle, parent, info."""
_NETEM: Final = struct.Struct("=IIIIII")
"""tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter."""
_NETEM_RATE: Final = struct.Struct("=IiIi")
"""tc_netem_rate: octets a second, packet overhead, cell size, cell overhead."""

_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_OPERSTATE: Final = 16
_IFLA_LINKINFO: Final = 18
_IFLA_NET_NS_FD: Final = 28
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_VETH_INFO_PEER: Final = 1
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_PRIORITY: Final = 6
_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_TCA_KIND: Final = 1
_TCA_OPTIONS: Final = 2
_TCA_NETEM_RATE: Final = 6
_TCA_NETEM_LATENCY64: Final = 10

_AF: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_IFF_UP: Final = 0x1
_IFA_F_NODAD: Final = 0x02
_NUD_PERMANENT: Final = 0x80
_TABLE_MAIN: Final = 254
_RTN_UNICAST: Final = 1
_TC_H_ROOT: Final = 0xFFFF_FFFF
_NETEM_HANDLE: Final = 0x1_0000

PROTOCOL_STATIC: Final = 4
PROTOCOL_RA: Final = 9
PROTOCOL_DHCP: Final = 16

_MTU: Final = 1500
_BUFFERED_MS: Final = 200
"""A bottleneck queues this much beyond its own delay; real access links queue no less."""
_LEAST_LIMIT: Final = 200
_LIMIT_WITHOUT_RATE: Final = 20_000
"""Packets: 100 ms of full-size packets at 2 Gbit/s."""

_OPERSTATE_UP: Final = 6
_RECEIVED_OCTETS: Final = 65536
"""No message is longer: the kernel fills datagrams of 32 KiB at most."""

GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
"""What the kernel says when the thing to delete is not there."""

Sentence = tuple[int, int, bytes]
"""Message type, flags, body."""


def veth(
    name: str, index: int, mac: bytes, peer: str, peer_index: int, peer_mac: bytes, peer_ns: int
) -> Sentence:
    """A pair of devices: one here, its peer in the namespace with descriptor `peer_ns`.

    The indexes are given because the kernel reports a lost carrier at once only where the two
    differ (linkwatch_urgent_event); numbers of their own namespaces may be the same.
    """
    peer_body = (
        _IFINFO.pack(0, 0, peer_index, 0, 0)
        + _text(_IFLA_IFNAME, peer)
        + _attribute(_IFLA_ADDRESS, peer_mac)
        + _attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer_ns))
    )
    kind = _text(_IFLA_INFO_KIND, "veth") + _attribute(
        _IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, peer_body)
    )
    body = (
        _IFINFO.pack(0, 0, index, 0, 0)
        + _text(_IFLA_IFNAME, name)
        + _attribute(_IFLA_ADDRESS, mac)
        + _attribute(_IFLA_LINKINFO, kind)
    )
    return (_RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, body)


def link_up(index: int) -> Sentence:
    return (_RTM_NEWLINK, 0, _IFINFO.pack(0, 0, index, _IFF_UP, _IFF_UP))


def link_down(index: int) -> Sentence:
    return (_RTM_NEWLINK, 0, _IFINFO.pack(0, 0, index, 0, _IFF_UP))


def add_address(index: int, interface: IPInterface) -> Sentence:
    return (_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_REPLACE, _address(index, interface))


def delete_address(index: int, interface: IPInterface) -> Sentence:
    return (_RTM_DELADDR, 0, _address(index, interface))


def add_route(
    destination: IPNetwork,
    gateway: IPAddress,
    index: int | None = None,
    metric: int = 0,
    protocol: int = PROTOCOL_STATIC,
) -> Sentence:
    body = _route(destination, gateway, index, metric, protocol)
    return (_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, body)


def delete_route(
    destination: IPNetwork, gateway: IPAddress, index: int, metric: int = 0
) -> Sentence:
    return (_RTM_DELROUTE, 0, _route(destination, gateway, index, metric, 0))


def neighbour(index: int, address: IPAddress, mac: bytes) -> Sentence:
    """Says for good which device has an address, so that nobody ever asks for it."""
    body = (
        _NDMSG.pack(_AF[address.version], index, _NUD_PERMANENT, 0, 0)
        + _attribute(_NDA_DST, address.packed)
        + _attribute(_NDA_LLADDR, mac)
    )
    return (_RTM_NEWNEIGH, _NLM_F_CREATE | _NLM_F_REPLACE, body)


def netem(index: int, quality: Quality) -> Sentence:
    """What leaves the device from now on is delayed, dropped and paced like this."""
    if quality.rate_mbit is None:
        limit, rate = _LIMIT_WITHOUT_RATE, 0
    else:
        rate = round(quality.rate_mbit * 1e6 / 8)
        queued_seconds = (quality.delay_ms + _BUFFERED_MS) / 1000
        limit = max(_LEAST_LIMIT, round(rate * queued_seconds / _MTU))
    loss = min(round(quality.loss_percent / 100 * 0xFFFF_FFFF), 0xFFFF_FFFF)
    delay_ns = round(quality.delay_ms * 1e6)
    options = (
        _NETEM.pack(0, limit, loss, 0, 0, 0)
        + _attribute(_TCA_NETEM_LATENCY64, struct.pack("=q", delay_ns))
        + _attribute(_TCA_NETEM_RATE, _NETEM_RATE.pack(rate, 0, 0, 0))
    )
    body = (
        _TCMSG.pack(0, index, _NETEM_HANDLE, _TC_H_ROOT, 0)
        + _text(_TCA_KIND, "netem")
        + _attribute(_TCA_OPTIONS, options)
    )
    return (_RTM_NEWQDISC, _NLM_F_CREATE | _NLM_F_REPLACE, body)


class Rtnetlink:
    """One request socket, of the network namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = _open(groups=0)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def say(self, *sentences: Sentence, fine: frozenset[int] = frozenset()) -> None:
        """Sends all in one system call; the kernel carries them out in their order.

        Raises KernelError for the first that failed with an errno not in `fine`; the kernel
        has carried out those after it nevertheless.
        """
        if not sentences:
            return
        buffer = bytearray()
        for kind, flags, body in sentences:
            self._sequence += 1
            length = _HEADER.size + len(body)
            buffer += _HEADER.pack(
                length, kind, flags | _NLM_F_REQUEST | _NLM_F_ACK, self._sequence, 0
            )
            buffer += body + bytes(-length % 4)
        self._socket.send(buffer)
        first = self._sequence - len(sentences) + 1
        failed: KernelError | None = None
        answered = 0
        while answered < len(sentences):
            for kind, sequence, body in _messages(self._socket.recv(_RECEIVED_OCTETS)):
                if kind != _NLMSG_ERROR:
                    continue
                answered += 1
                code = -int.from_bytes(body[:4], "little", signed=True)
                if code and code not in fine and failed is None:
                    subject = sentences[sequence - first]
                    failed = KernelError(
                        code, "do", f"rtnetlink message {subject[0]}", os.strerror(code)
                    )
        if failed is not None:
            raise failed


class LinkNews:
    """Waits for the devices of a namespace to change; listens from the moment it is made."""

    def __init__(self) -> None:
        self._socket = _open(groups=_RTMGRP_LINK)

    def close(self) -> None:
        self._socket.close()

    def wait_until_running(self, index: int, seconds: float) -> None:
        """Returns when the device has carrier and a queue. Raises TimeoutError."""
        self._socket.settimeout(seconds)
        ask = _HEADER.pack(_HEADER.size + _IFINFO.size, _RTM_GETLINK, _NLM_F_REQUEST, 1, 0)
        self._socket.send(ask + _IFINFO.pack(0, 0, index, 0, 0))
        while True:
            for kind, _, body in _messages(self._socket.recv(_RECEIVED_OCTETS)):
                if kind == _RTM_NEWLINK and _IFINFO.unpack_from(body)[2] == index:
                    attributes = dict(_attributes(body[_IFINFO.size :]))
                    if attributes.get(_IFLA_OPERSTATE) == bytes([_OPERSTATE_UP]):
                        return


def _open(groups: int) -> socket.socket:
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    )
    opened.bind((0, groups))
    return opened


def _messages(buffer: bytes) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    while offset < len(buffer):
        length, kind, _, sequence, _ = _HEADER.unpack_from(buffer, offset)
        yield kind, sequence, buffer[offset + _HEADER.size : offset + length]
        offset += length + -length % 4


def _attributes(buffer: bytes) -> Iterable[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(buffer):
        length, kind = struct.unpack_from("=HH", buffer, offset)
        yield kind, buffer[offset + 4 : offset + length]
        offset += length + -length % 4


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _address(index: int, interface: IPInterface) -> bytes:
    # Nobody else is on these links: waiting for duplicates would measure the waiting.
    flags = _IFA_F_NODAD if interface.version == 6 else 0
    return (
        _IFADDR.pack(_AF[interface.version], interface.network.prefixlen, flags, 0, index)
        + _attribute(_IFA_LOCAL, interface.packed)
        + _attribute(_IFA_ADDRESS, interface.packed)
    )


def _route(
    destination: IPNetwork, gateway: IPAddress, index: int | None, metric: int, protocol: int
) -> bytes:
    family = _AF[destination.version]
    body = _RTMSG.pack(
        family, destination.prefixlen, 0, 0, _TABLE_MAIN, protocol, 0, _RTN_UNICAST, 0
    )
    if destination.prefixlen:
        body += _attribute(_RTA_DST, destination.network_address.packed)
    body += _attribute(_RTA_GATEWAY, gateway.packed)
    if index is not None:
        body += _attribute(_RTA_OIF, struct.pack("=I", index))
    if metric:
        body += _attribute(_RTA_PRIORITY, struct.pack("=I", metric))
    return body
