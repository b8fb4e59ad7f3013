"""One connection as the worker has it: sockets, relay, bytes, and what is told of it."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from orchestrator.adapters.pipe import Pipe
from orchestrator.adapters.spool import Spool
from orchestrator.adapters.transparent import unacknowledged, unread
from orchestrator.core.allowance import Share
from orchestrator.core.flows import FlowDirection, FlowRecord, SocketAddress
from orchestrator.core.quantities import Instant
from orchestrator.core.relay import Relay
from orchestrator.core.relay_events import LEGS, Leg
from orchestrator.core.relay_state import Half
from orchestrator.wire.proxy_handover import HandedFlow, SpoolExtent


@dataclass(frozen=True, slots=True)
class Ends:
    """What a flow has of the kernel's."""

    sockets: tuple[socket.socket, socket.socket]
    """inner, outer"""
    spools: tuple[Spool | None, Spool | None] = (None, None)
    """by source leg"""

    def descriptors(self) -> list[int]:
        """In the order in which a handover passes them."""
        spools = [spool.fileno() for spool in self.spools if spool is not None]
        return [*(sock.fileno() for sock in self.sockets), *spools]

    def close(self) -> None:
        for end in (*self.sockets, *self.spools):
            if end is not None:
                end.close()


class Flow:
    """Two sockets and the relay between them."""

    __slots__ = (
        "away",
        "connecting",
        "dial_errno",
        "on_disk",
        "pending",
        "pipes",
        "relay",
        "shares",
        "sockets",
        "spools",
        "urgent",
        "watched",
    )

    def __init__(self, relay: Relay, inner: socket.socket, outer: socket.socket) -> None:
        self.relay = relay
        self.sockets = (inner, outer)
        self.pending: list[memoryview | Pipe] = [memoryview(b""), memoryview(b"")]
        """by source leg: read, and not written yet"""
        self.pipes: list[Pipe | None] = [None, None]
        """by source leg: what bulk goes through; None: what comes is copied"""
        self.urgent: set[Leg] = set()
        """those that had urgent data: they are always copied"""
        self.spools: list[Spool | None] = [None, None]
        """by source leg: what waits on disk; None: nothing does"""
        self.shares: Sequence[Share[Stream]] = ()
        """by source leg: what is kept of it in memory"""
        self.on_disk: Sequence[Share[Stream]] = ()
        self.connecting = True
        self.dial_errno = 0
        """why the dial failed, if it did"""
        self.watched: set[Leg] = set()
        self.away: set[Leg] = set()
        """those whose far end does not answer, as the relay was told"""

    @property
    def over(self) -> bool:
        return self.relay.outcome is not None

    @property
    def ends(self) -> Ends:
        inner, outer = self.spools
        return Ends(self.sockets, (inner, outer))

    def queue(self, source: Leg) -> bytes:
        """What is pending, in memory from now on."""
        if not self.relay.queued(source):
            return b""
        pending = self.pending[source]
        octets = pending.take() if isinstance(pending, Pipe) else bytes(pending)
        self.pending[source] = memoryview(octets)
        return octets

    def kept(self, source: Leg) -> int:
        """Octets in memory, of those from `source`: read, and not acknowledged behind us."""
        if self.over or self.relay.state(source) is Half.DROPPED:
            return 0
        return self.relay.queued(source) + unacknowledged(self.sockets[1 - source])


Stream = tuple[Flow, Leg]
"""One direction of a flow, by the leg it comes from."""


@dataclass(slots=True, eq=False)
class Entry:
    """What is known of a flow beside its bytes."""

    flow: Flow
    vip: SocketAddress
    peer: SocketAddress
    direction: FlowDirection
    since: Instant
    deadline: Instant
    """of the dial"""

    @classmethod
    def restored(cls, handed: HandedFlow, ends: Ends) -> Self:
        """As another worker had it."""
        flow = Flow(Relay.restored(handed.relay), *ends.sockets)
        flow.pending = [memoryview(queue) for queue in handed.queued]
        flow.spools = list(ends.spools)
        flow.connecting = handed.relay.dialing
        flow.watched = set(handed.relay.awaited)
        return cls(
            flow, handed.vip, handed.peer, handed.direction, handed.since, handed.deadline
        )

    def handed(self) -> HandedFlow:
        """For another worker."""
        flow = self.flow
        queues = [flow.queue(leg) for leg in LEGS]
        extents = [
            None if spool is None else SpoolExtent(spool.head, spool.tail)
            for spool in flow.spools
        ]
        return HandedFlow(
            self.vip,
            self.peer,
            self.direction,
            self.since,
            self.deadline,
            flow.relay.export(),
            (queues[0], queues[1]),
            (extents[0], extents[1]),
        )

    def record(self) -> FlowRecord:
        """With what waits in its sockets, which takes four system calls."""
        inner, outer = self.flow.sockets
        outline = self.outline()
        return replace(
            outline,
            queued_to_peer=outline.queued_to_peer + unread(inner) + unacknowledged(outer),
            queued_to_endpoint=(
                outline.queued_to_endpoint + unread(outer) + unacknowledged(inner)
            ),
        )

    def outline(self) -> FlowRecord:
        """Without that: of a flow that begins, or is over."""
        relay = self.flow.relay
        shares = (*self.flow.shares, *self.flow.on_disk)
        waits = [share.since for share in shares if share.since is not None]
        return FlowRecord(
            vip=self.vip,
            peer=self.peer,
            direction=self.direction,
            since=self.since,
            state=relay.phase,
            to_peer=relay.moved(Leg.INNER),
            to_endpoint=relay.moved(Leg.OUTER),
            queued_to_peer=relay.queued(Leg.INNER),
            queued_to_endpoint=relay.queued(Leg.OUTER),
            spooled=relay.spooled(Leg.INNER) + relay.spooled(Leg.OUTER),
            waits_since=min(waits, default=None),
        )
