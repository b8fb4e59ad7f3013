"""Carries packets between a TUN, a hold queue and the way out.

What falls into the TUN could not be sent; it waits in a queue and is re-sent from a raw socket,
where the policies apply to it as to any other packet. Should a released packet come back (a
policy is missing, whatever the reason), it waits again: there is no loop.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from orchestrator.adapters.inject import Injector
from orchestrator.adapters.tun import TunDevice
from orchestrator.core.errors import KernelError, PeerError
from orchestrator.core.hold import HoldLimits, HoldQueue
from orchestrator.core.quantities import Instant, IPAddress
from orchestrator.services.journal import Journal
from orchestrator.wire.packets import IPHeader, parse_ip, tcp_part

READS_PER_WAKEUP: Final = 64
"""Packets taken from the TUN before other work has its turn."""
STRAGGLER_DELAY: Final = 0.002
"""Seconds until a packet that met the TUN while its owner is attached is sent again: it was
routed an instant before the flip."""


class Holder:
    """A queue for each virtual address, which is in one scope; one holder reads one TUN."""

    def __init__(
        self,
        owner: Callable[[IPHeader], IPAddress],
        attached: Callable[[IPAddress], bool],
        limits: HoldLimits,
        clock: Callable[[], Instant],
        journal: Journal,
    ) -> None:
        self._owner = owner
        self._attached = attached
        self._limits = limits
        self._clock = clock
        self._journal = journal
        self._tun: TunDevice | None = None
        self._injector: Injector | None = None
        self._scopes: dict[str, frozenset[IPAddress]] = {}
        self._queues: dict[IPAddress, HoldQueue] = {}
        self._stragglers: dict[IPAddress, asyncio.TimerHandle] = {}
        self._crowded: dict[int, set[IPAddress]] = {}
        """Whose packets wait for room in the socket of an address family."""

    def start(self, tun: TunDevice) -> None:
        """Takes what falls into the TUN from now on. Raises KernelError."""
        self._tun, self._injector = tun, Injector()
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
        if self._injector is None:
            return
        self.pause()
        loop = asyncio.get_running_loop()
        for handle in self._stragglers.values():
            handle.cancel()
        for version in self._crowded:
            loop.remove_writer(self._injector.fileno(version))
        self._injector.close()

    def hold(self, scope: str, vips: Iterable[IPAddress]) -> None:
        """Replaces the addresses that this scope holds for; what waited for one that it gives
        up is gone, and reaches nobody who is given that address next."""
        before = self._scopes.get(scope, frozenset())
        after = self._scopes[scope] = frozenset(vips)
        for vip in before - after:
            self._queues.pop(vip, None)
        for vip in after - before:
            self._queues[vip] = HoldQueue(self._limits)

    def tally(self, vips: Iterable[IPAddress]) -> dict[str, int]:
        """What is held for these addresses, of how much, and what was lost to the limits."""
        queues = [self._queues[vip] for vip in vips if vip in self._queues]
        return {
            "packets": sum(len(queue) for queue in queues),
            "bytes": sum(queue.held_bytes for queue in queues),
            "limit_bytes": self._limits.max_bytes * len(queues),
            "dropped": sum(queue.dropped for queue in queues),
        }

    def release(self, vips: Iterable[IPAddress]) -> int:
        """Re-sends what is held for these addresses, in order; returns how many packets went.

        What the socket has no room for stays in the queue until it has.
        """
        return sum(self._release(vip) for vip in vips)

    def _release(self, vip: IPAddress) -> int:
        queue, injector = self._queues.get(vip), self._injector
        if queue is None or injector is None:
            return 0
        packets = queue.release(self._clock())
        for number, packet in enumerate(packets):
            # A packet the kernel will not take (no route, too long) is lost, like any packet
            # on a network; its sender repeats it.
            with contextlib.suppress(KernelError):
                if not injector.send(packet):
                    queue.put_back(packets[number:], self._clock())
                    self._wait_for_room(injector, vip)
                    return number
        return len(packets)

    def _wait_for_room(self, injector: Injector, vip: IPAddress) -> None:
        self._crowded.setdefault(vip.version, set()).add(vip)
        loop = asyncio.get_running_loop()
        descriptor = injector.fileno(vip.version)
        loop.add_writer(descriptor, self._has_room, descriptor, vip.version)

    def _has_room(self, descriptor: int, version: int) -> None:
        asyncio.get_running_loop().remove_writer(descriptor)
        waiting = self._crowded.pop(version, set())
        self.release(vip for vip in waiting if self._attached(vip))

    def _read(self, tun: TunDevice) -> None:
        for _ in range(READS_PER_WAKEUP):
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
            vip = self._owner(header)
            queue = self._queues.get(vip)
            if queue is None:
                self._journal.count("foreign-packet")
                continue
            queue.push(packet, self._clock(), tcp_part(packet, header))
            if self._attached(vip) and vip not in self._stragglers:
                self._stragglers[vip] = asyncio.get_running_loop().call_later(
                    STRAGGLER_DELAY, self._release_stragglers, vip
                )

    def _release_stragglers(self, vip: IPAddress) -> None:
        self._stragglers.pop(vip, None)
        if self._attached(vip):
            self.release((vip,))
