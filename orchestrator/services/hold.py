"""Carries packets between a TUN, a hold queue and the way out.

What falls into the TUN could not be sent; it waits in a queue and is re-sent from a raw socket,
where the policies apply to it as to any other packet. Should a released packet come back (a
policy is missing, whatever the reason), it waits again: there is no loop.

Senders of TCP wait along: their probes are answered meanwhile (`core.freeze`), and on the
return those that have backed off send anew (`services.senders`).

However much there is to hold or to send, other work has its turn after a few packets: it is
what ends the outage. What is not read yet waits in the TUN's own queue of 500 packets
(TUN_READQ_SIZE, drivers/net/tun.c), half a second of 10 Mbit/s. When that is full the kernel
drops the newest, whatever they are, and counts them (`ip -s link`, dropped). Its length is left
as it is: a longer one would lose as much of a lasting flood, and what is read would be older.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from orchestrator.adapters.inject import Injector
from orchestrator.adapters.tun import TunDevice
from orchestrator.core.errors import KernelError, PeerError
from orchestrator.core.freeze import Freeze, Signature
from orchestrator.core.hold import Drop, HoldPolicy, HoldQueue, Label
from orchestrator.core.hold_total import UNLIMITED, Account, HoldTotal
from orchestrator.core.pacing import Pacer
from orchestrator.core.quantities import Instant, IPAddress, Seconds
from orchestrator.services.journal import Journal
from orchestrator.wire.labels import label
from orchestrator.wire.packets import IPHeader, parse_ip
from orchestrator.wire.segments import ACK, parse_segment, probe_answer, without_echo

READS_PER_TURN: Final = 8
"""Packets read before other work has its turn. It is behind 0.2 ms of reading then, 1 ms on a
machine five times as slow, and whoever awaits twenty answers twenty times that. One packet a
turn would cost a third more for each; 64 no less."""
SENDS_PER_TURN: Final = 32
"""Packets sent, of all addresses together, before other work has its turn: some 1 ms. What
waits after a roam is less, and leaves at once: then other work has most to do."""
STRAGGLER_DELAY: Final = 0.002
"""Seconds until a packet that met the TUN while its owner is attached is sent again: it was
routed an instant before the flip."""
PACE: Final = 0.005
"""Seconds between two looks at what may leave."""


@dataclass(slots=True, eq=False)
class _Line:
    """One virtual address."""

    vip: IPAddress
    scope: str
    policy: HoldPolicy
    queue: HoldQueue
    freeze: Freeze = field(default_factory=Freeze)
    pacer: Pacer | None = None
    """While something leaves."""
    timer: asyncio.TimerHandle | None = None
    """Until its next turn."""


@dataclass(frozen=True, slots=True)
class Held:
    """What is held for some addresses, and what was lost."""

    packets: int
    octets: int
    flows: int
    """With something held."""
    since: Seconds | None
    """For how long there has been something; None: there is nothing."""
    oldest: Seconds | None
    """The age of the oldest packet."""
    limit: int
    """Octets, of all these addresses."""
    fullness: float
    """Of the fullest one, by whichever limit is nearest: 0 is empty, 1 full."""
    dropped: Counter[Drop]


class Holder:
    """A queue for each virtual address, which is in one scope; one holder reads one TUN."""

    def __init__(
        self,
        owner: Callable[[IPHeader], bytes],
        attached: Callable[[IPAddress], bool],
        policy: Callable[[str], HoldPolicy],
        clock: Callable[[], Instant],
        journal: Journal,
        mark: int = 0,
        asleep: Callable[[IPAddress], bool] = lambda _: False,
        total: int = UNLIMITED,
        divert: Callable[[IPAddress, IPHeader, bytes], bool] = lambda *_: False,
    ) -> None:
        """`owner` is the virtual address that a packet is held for, as the header has it.
        `policy` is that of a scope. `mark` routes what is sent to local senders to them; 0:
        their addresses do. Of what is for an address whose owner is `asleep` only TCP is kept.
        `total` limits what all scopes hold together, in octets of `core.hold_total`. What falls
        into the TUN of somebody attached is for `divert` first, which may take it."""
        self._owner = owner
        self._attached = attached
        self._policy = policy
        self._clock = clock
        self._journal = journal
        self._mark = mark
        self._asleep = asleep
        self._divert = divert
        self._tun: TunDevice | None = None
        self._injector: Injector | None = None
        self._to_senders: Injector | None = None
        self._total = HoldTotal(total)
        self._accounts: dict[str, Account] = {}
        """Of each scope that has addresses."""
        self._scopes: dict[str, frozenset[IPAddress]] = {}
        self._lines: dict[bytes, _Line] = {}
        """By virtual address: 4 or 16 octets, network order, as packets have it."""
        self._leaving: dict[_Line, None] = {}
        """Whose packets may leave by now, in the order of their turns."""
        self._bears = SENDS_PER_TURN
        """Packets that may be sent in this turn of the loop. While it is less than that, or
        something is leaving, `_turn` is scheduled."""
        self._turn_comes = False
        self._crowded: dict[int, dict[_Line, None]] = {}
        """Whose packets wait for room in the socket of an address family."""
        self._dropped: Counter[Drop] = Counter()
        """Of addresses that are held for no more."""

    def start(self, tun: TunDevice) -> None:
        """Takes what falls into the TUN from now on. Raises KernelError."""
        self._tun, self._injector = tun, Injector()
        self._to_senders = Injector(self._mark)
        self.resume()

    def pause(self) -> None:
        """Reads no more; what is held stays."""
        if self._tun is not None:
            asyncio.get_running_loop().remove_reader(self._tun.fileno())

    def resume(self) -> None:
        """Reads the TUN again, which may have another descriptor by now."""
        if self._tun is not None:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._tun.fileno(), self._read, self._tun)

    def stop(self) -> None:
        """What is held is gone; the TUN stays open."""
        if self._injector is None or self._to_senders is None:
            return
        self.pause()
        loop = asyncio.get_running_loop()
        for line in self._lines.values():
            _stop_timer(line)
        self._leaving.clear()
        for version in self._crowded:
            loop.remove_writer(self._injector.fileno(version))
        self._injector.close()
        self._to_senders.close()

    def hold(self, scope: str, vips: Iterable[IPAddress]) -> None:
        """Replaces the addresses that this scope holds for; what waited for one that it gives
        up is gone, and reaches nobody who is given that address next."""
        before = self._scopes.pop(scope, frozenset())
        after = frozenset(vips)
        for vip in before - after:
            line = self._lines.get(vip.packed)
            if line is not None and line.scope == scope:
                self._give_up(line)
        if not after:
            self._accounts.pop(scope, None)
            return
        self._scopes[scope] = after
        account = self._accounts.setdefault(scope, Account(self._total))
        policy = self._policy(scope)
        for vip in after - before:
            for line in self._of((vip,)):
                self._give_up(line)
            queue = HoldQueue(policy.limits, account)
            self._lines[vip.packed] = _Line(vip, scope, policy, queue)

    def change_policy(self, total: int) -> None:
        """The `policy` of some scopes is another one now. What is held stays, as far as it may
        by the new limits."""
        now = self._clock()
        policies = {scope: self._policy(scope) for scope in self._scopes}
        for line in self._lines.values():
            line.policy = policies[line.scope]
            line.queue.change_limits(line.policy.limits, now)
        self._total.change_limit(total)

    def _of(self, vips: Iterable[IPAddress]) -> Iterator[_Line]:
        """Those of these addresses that are held for."""
        for vip in vips:
            line = self._lines.get(vip.packed)
            if line is not None:
                yield line

    def _give_up(self, line: _Line) -> None:
        _stop_timer(line)
        del self._lines[line.vip.packed]
        line.queue.end()
        self._dropped += line.queue.dropped

    def held(self, vips: Iterable[IPAddress] | None = None) -> Held:
        """What is held for these addresses; None: for all, with what was lost of those that
        are held for no more."""
        lines = self._lines.values() if vips is None else self._of(vips)
        queues = [line.queue for line in lines]
        now = self._clock()
        oldest = [queue.oldest for queue in queues if queue.oldest is not None]
        since = [queue.since for queue in queues if queue.since is not None]
        before = Counter(self._dropped if vips is None else ())
        return Held(
            packets=sum(len(queue) for queue in queues),
            octets=sum(queue.held_bytes for queue in queues),
            flows=sum(queue.flows for queue in queues),
            since=Seconds(now - min(since)) if since else None,
            oldest=Seconds(now - min(oldest)) if oldest else None,
            limit=sum(queue.limits.max_bytes for queue in queues),
            fullness=max((queue.fullness for queue in queues), default=0.0),
            dropped=sum((queue.dropped for queue in queues), before),
        )

    @property
    def total(self) -> HoldTotal:
        """Of all scopes together; for reading."""
        return self._total

    def take_stalled(
        self, vips: Iterable[IPAddress], backed_off: Container[Hashable]
    ) -> tuple[Label, ...]:
        """What is held of these TCP flows is taken out: their senders send it anew. The first
        unacknowledged segment of each."""
        now = self._clock()
        return tuple(
            label
            for line in self._of(vips)
            for label in line.queue.take_stalled(backed_off, now)
        )

    def release(self, vips: Iterable[IPAddress], rtt: Seconds | None = None) -> int:
        """Lets what is held for these addresses leave, in order, as fast as a path with this
        round trip may bear (`core.pacing`); returns how many packets there are.

        What the socket has no room for stays in the queue until it has.
        """
        packets = 0
        for line in self._of(vips):
            line.freeze.forget()
            packets += len(line.queue)
            self._begin(line, rtt)
        return packets

    def shed(self, vips: Iterable[IPAddress]) -> None:
        """Of what is held for these addresses only TCP stays."""
        for line in self._of(vips):
            line.queue.shed()

    def slept(self, seconds: Seconds) -> None:
        """The device slept, and `clock` did not go on; see `HoldQueue.slept`."""
        for line in self._lines.values():
            line.queue.slept(seconds)

    def to_sender(self, packet: bytes) -> None:
        """Sends a packet to whoever sends from this host, or through it, what is held."""
        if self._to_senders is not None:
            with contextlib.suppress(KernelError):
                self._to_senders.send(packet)

    def _begin(self, line: _Line, rtt: Seconds | None) -> None:
        _stop_timer(line)
        line.pacer = Pacer(self._clock(), rtt)
        self._go_on(line)

    def _go_on(self, line: _Line) -> None:
        """What may leave by now does, as soon as all before it have had their turn."""
        _stop_timer(line)
        self._leaving[line] = None
        self._send()

    def _turn(self) -> None:
        """Of the loop: it bears as much as any other."""
        self._turn_comes, self._bears = False, SENDS_PER_TURN
        self._send()

    def _send(self) -> None:
        """What may leave by now of whoever has waited longest, as much as this turn bears."""
        while self._leaving and self._bears > 0:
            line = next(iter(self._leaving))
            del self._leaving[line]
            self._bears -= max(1, self._drain(line, self._bears))  # a look costs, too
        if not self._turn_comes and (self._leaving or self._bears < SENDS_PER_TURN):
            self._turn_comes = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _drain(self, line: _Line, most: int) -> int:
        """What may leave by now, `most` packets of it; returns how many did."""
        injector = self._injector
        if line.pacer is None or injector is None:
            return 0
        now = self._clock()
        left, allowed = 0, line.pacer.allowance(now)
        while left < min(most, allowed) and self._attached(line.vip):
            packet = line.queue.first(now)
            if packet is None:
                break
            # A packet the kernel will not take (no route, too long) is lost, like any packet
            # on a network; its sender repeats it.
            with contextlib.suppress(KernelError):
                if not injector.send(packet):
                    line.pacer.left(left)
                    self._wait_for_room(injector, line)
                    return left
            line.queue.sent()
            left += 1
        line.pacer.left(left)
        if not len(line.queue) or not self._attached(line.vip):
            line.pacer = None
        elif left < allowed:
            self._leaving[line] = None
        else:
            line.timer = asyncio.get_running_loop().call_later(PACE, self._go_on, line)
        return left

    def _wait_for_room(self, injector: Injector, line: _Line) -> None:
        version = line.vip.version
        self._crowded.setdefault(version, {})[line] = None
        loop = asyncio.get_running_loop()
        descriptor = injector.fileno(version)
        loop.add_writer(descriptor, self._has_room, descriptor, version)

    def _has_room(self, descriptor: int, version: int) -> None:
        asyncio.get_running_loop().remove_writer(descriptor)
        for line in self._crowded.pop(version, {}):
            self._go_on(line)

    def _read(self, tun: TunDevice) -> None:
        for _ in range(READS_PER_TURN):
            try:
                packet = tun.read()
            except KernelError:
                # Somebody deleted the device, and it would be readable for ever. Whoever hears
                # of that opens it anew, and has us resume.
                self.pause()
                return
            if packet is None:
                return
            try:
                header = parse_ip(packet)
            except PeerError:
                self._journal.count("foreign-packet")
                continue
            line = self._lines.get(self._owner(header))
            if line is None:
                self._journal.count("foreign-packet")
                continue
            vip = line.vip
            attached = self._attached(vip)
            if not (attached and self._divert(vip, header, packet)):
                self._keep(line, packet, header)
            if attached and len(line.queue) and line.pacer is None and line.timer is None:
                line.timer = asyncio.get_running_loop().call_later(
                    STRAGGLER_DELAY, self._begin, line, None
                )

    def _keep(self, line: _Line, packet: bytes, header: IPHeader) -> None:
        now = self._clock()
        segment = parse_segment(packet, header)
        kept = label(packet, header, segment, line.policy.query_ports)
        if not kept.kind.is_tcp and self._asleep(line.vip):
            line.queue.dropped[Drop.ASLEEP] += 1
            return
        if segment is not None:
            packet = without_echo(packet, header, segment)
            if segment.occupies:
                line.freeze.waits(kept.flow, now)
            elif line.policy.freeze and segment.flags == ACK:
                probe = Signature(segment.sequence, segment.acknowledgment, segment.window)
                if line.freeze.is_probe(kept.flow, probe, now):
                    self.to_sender(probe_answer(header, segment))
                    self._journal.count("probe-answered")
        line.queue.push(packet, now, kept)


def _stop_timer(line: _Line) -> None:
    if line.timer is not None:
        line.timer.cancel()
        line.timer = None
