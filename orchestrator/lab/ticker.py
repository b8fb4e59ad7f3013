"""Sends a small UDP packet both ways at a steady pace, and knows when each one arrived.

One thread holds both ends, on sockets that live in two hosts of the lab, so that sending and
arrival are read from one clock (CLOCK_MONOTONIC, which all namespaces share).
"""

import select
import socket
import struct
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.background import Background
from orchestrator.lab.host import Host
from orchestrator.lab.silence import longest_silence

INTERVAL: Final = 0.005
"""Seconds between two packets of one direction: a voice codec at its most hurried."""
_POLL: Final = 0.05
"""Seconds between two looks for a packet that is waited for; its own time is exact."""
PORT: Final = 5005
_NUMBER: Final = struct.Struct("!Q")
_DATAGRAM: Final = 64
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class Way(Enum):
    UP = "uplink"
    """from the endpoint to the peer"""
    DOWN = "downlink"


@dataclass(slots=True)
class Log:
    """One direction: the index is the packet's number."""

    sent: list[float] = field(default_factory=list)
    arrived: dict[int, float] = field(default_factory=dict)
    """In the order of their arrival."""
    doubled: int = 0
    """Arrivals of what had arrived before."""

    def first_after(self, instant: float, sent_since: float) -> float | None:
        """When the first packet arrived at or after `instant`; None: none has.

        Only those sent since `sent_since` count: others were on their way over the old path.
        """
        numbers = range(bisect_left(self.sent, sent_since), len(self.sent))
        arrived = (self.arrived[number] for number in numbers if number in self.arrived)
        return min((at for at in arrived if at >= instant), default=None)

    def lost_between(self, begin: float, end: float) -> int:
        """How many of the packets sent in this time never arrived."""
        return sum(
            begin <= sent < end and number not in self.arrived
            for number, sent in enumerate(self.sent)
        )

    def longest_gap(self, begin: float, end: float) -> float:
        """Seconds: the largest time between two arrivals of those that touch this time.

        It may have begun before: what arrived last before `begin` begins the first one. What
        had not arrived by `end` is not waited for.
        """
        arrivals = list(self.arrived.values())  # the ticker goes on meanwhile
        before = bisect_right(arrivals, begin)
        since = arrivals[before - 1] if before else begin
        silent, heard = longest_silence(arrivals, since, end)
        return heard - silent


class Ticker(Background):
    """Runs from `with` to its end."""

    def __init__(
        self,
        endpoint: Host,
        vip: IPAddress,
        peer: Host,
        address: IPAddress,
        interval: float = INTERVAL,
    ) -> None:
        super().__init__("ticker")
        self._interval = interval
        self.logs: Final = {way: Log() for way in Way}
        self._sender = {
            Way.UP: _open(endpoint, vip),
            Way.DOWN: _open(peer, address),
        }
        self._target = {Way.UP: str(address), Way.DOWN: str(vip)}

    def _close(self) -> None:
        for opened in self._sender.values():
            opened.close()

    def wait_for(
        self, way: Way, instant: float, sent_since: float, limit: float
    ) -> float | None:
        """`Log.first_after`, waiting for it; None after `limit` seconds."""
        end = time.monotonic() + limit
        log = self.logs[way]
        while (found := log.first_after(instant, sent_since)) is None:
            if time.monotonic() >= end:
                return None
            self._stop.wait(_POLL)
        return found

    def _work(self) -> None:
        poll = select.epoll()
        receiver = {
            self._sender[Way.UP].fileno(): Way.DOWN,
            self._sender[Way.DOWN].fileno(): Way.UP,
        }
        for descriptor in receiver:
            poll.register(descriptor, select.EPOLLIN)
        due = time.monotonic()
        while not self._stop.is_set():
            for descriptor, _ in poll.poll(max(due - time.monotonic(), 0)):
                way = receiver[descriptor]
                self._receive(way)
            if time.monotonic() >= due:
                for way in Way:
                    self._send(way)
                due += self._interval
        poll.close()

    def _send(self, way: Way) -> None:
        log = self.logs[way]
        packet = _NUMBER.pack(len(log.sent)).ljust(_DATAGRAM, b"\0")
        log.sent.append(time.monotonic())
        try:
            self._sender[way].sendto(packet, (self._target[way], PORT))
        except OSError:
            return  # lost at its sender: it never arrives, and counts as that

    def _receive(self, way: Way) -> None:
        other = Way.UP if way is Way.DOWN else Way.DOWN
        while True:
            try:
                packet = self._sender[other].recv(_DATAGRAM)
            except OSError:
                return
            now = time.monotonic()
            (number,) = _NUMBER.unpack_from(packet)
            log = self.logs[way]
            log.doubled += number in log.arrived
            log.arrived.setdefault(number, now)


def _open(host: Host, address: IPAddress) -> socket.socket:
    opened: socket.socket = host.inside(
        socket.socket, _FAMILY[address.version], socket.SOCK_DGRAM
    )
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((str(address), PORT))
    opened.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return opened
