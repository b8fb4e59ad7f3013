"""Sends the packets of redundant flows twice, and delivers the first copy of each.

What takes two links falls into the TUN although the path works, and comes here (`takes`); each
copy goes to the far daemon with the mark of a tunnel. There the first one arrives at the host,
as if it had come alone (`received`), and the second is dropped. UDP alone: TCP repeats what is
lost, and the server's proxy ends it.
"""

import contextlib
import secrets
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from orchestrator.core.errors import KernelError, PeerError
from orchestrator.core.quantities import Instant, IPAddress
from orchestrator.core.redundancy import Meter, Numbering, Window
from orchestrator.services.journal import Journal
from orchestrator.wire.copy import Copy, decode, encode
from orchestrator.wire.packets import IPHeader, parse_ip

Marks = Callable[[IPAddress], Sequence[int]]
Send = Callable[[IPAddress, bytes, int], bool]


@dataclass(slots=True)
class _Peer:
    """The far end of one virtual address."""

    numbering: Numbering
    window: Window = field(default_factory=Window)
    meter: Meter = field(default_factory=Meter)


class Copies:
    """Of one daemon."""

    def __init__(
        self,
        marks: Marks,
        send: Send,
        deliver: Callable[[bytes], None],
        of: Callable[[IPHeader], bytes],
        clock: Callable[[], Instant],
        journal: Journal,
    ) -> None:
        """`marks` are those of the tunnels that copies for this virtual address take beside the
        active one; without any nothing is sent twice. `send` sends to the far daemon with a
        mark, 0 for the active tunnel; False: it is too large. `of` says whose a packet is that
        comes from there, as the header has it."""
        self._marks = marks
        self._send = send
        self._deliver = deliver
        self._of = of
        self._clock = clock
        self._journal = journal
        self._peers: dict[IPAddress, _Peer] = {}

    def keep(self, vips: Collection[IPAddress]) -> None:
        """Forgets all others."""
        self._peers = {vip: peer for vip, peer in self._peers.items() if vip in vips}

    def takes(self, vip: IPAddress, header: IPHeader, packet: bytes) -> bool:
        """Sends it, if it is one that goes twice."""
        marks = self._marks(vip) if header.protocol == socket.IPPROTO_UDP else ()
        if not marks:
            return False
        peer = self._peer(vip)
        octets = encode(Copy(peer.numbering.stream, peer.numbering.next(), packet))
        if not self._send(vip, octets, 0):
            self._journal.count("copies-too-large")
            return True
        if not peer.meter.allows(self._clock()):
            self._journal.count("copies-beyond-rate")
            return True
        for mark in marks:
            self._send(vip, octets, mark)
        self._journal.count("sent-twice")
        return True

    def received(self, vip: IPAddress, octets: bytes) -> None:
        """A copy came out of an SA of this virtual address."""
        try:
            copy = decode(octets)
            header = parse_ip(copy.packet)
        except PeerError:
            self._journal.count("malformed-copy")
            return
        if self._of(header) != vip.packed or header.protocol != socket.IPPROTO_UDP:
            self._journal.count("foreign-copy")
            return
        if self._peer(vip).window.takes(copy.stream, copy.number):
            self._journal.count("copies-taken")
            with contextlib.suppress(KernelError):  # as lost as any packet with no way
                self._deliver(copy.packet)
        else:
            self._journal.count("duplicates-removed")

    def _peer(self, vip: IPAddress) -> _Peer:
        peer = self._peers.get(vip)
        if peer is None:
            peer = self._peers[vip] = _Peer(Numbering(secrets.randbits(32)))
        return peer
