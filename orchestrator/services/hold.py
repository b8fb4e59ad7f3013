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
from orchestrator.wire.packets import IPHeader, parse_ip

READS_PER_WAKEUP: Final = 64
"""Packets taken from the TUN before other work has its turn."""
STRAGGLER_DELAY: Final = 0.002
"""Seconds until a packet that met the TUN while its owner is attached is sent again: it was
routed an instant before the flip."""


class Holder:
    """Queues by virtual address; one holder reads one TUN."""

    def __init__(
        self,
        tun: TunDevice,
        owner: Callable[[IPHeader], IPAddress],
        attached: Callable[[IPAddress], bool],
        limits: HoldLimits,
        clock: Callable[[], Instant],
    ) -> None:
        self._tun = tun
        self._owner = owner
        self._attached = attached
        self._limits = limits
        self._clock = clock
        self._injector = Injector()
        self._queues: dict[IPAddress, HoldQueue] = {}
        self._stragglers: dict[IPAddress, asyncio.TimerHandle] = {}
        self._crowded: dict[int, set[IPAddress]] = {}
        """Whose packets wait for room in the socket of an address family."""
        self.foreign = 0
        """Packets in the TUN that belong to no virtual address we hold for; dropped."""
        self.released = 0

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._tun.fileno(), self._read)

    def stop(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._tun.fileno())
        for handle in self._stragglers.values():
            handle.cancel()
        for version in self._crowded:
            loop.remove_writer(self._injector.fileno(version))
        self._injector.close()

    def own(self, vips: Iterable[IPAddress]) -> None:
        """Holds for these addresses too from now on."""
        for vip in vips:
            if vip not in self._queues:
                self._queues[vip] = HoldQueue(self._limits)

    def disown(self, vips: Iterable[IPAddress]) -> None:
        """Holds for these no longer; what is held is gone."""
        for vip in vips:
            self._queues.pop(vip, None)

    def queue(self, vip: IPAddress) -> HoldQueue | None:
        return self._queues.get(vip)

    def release(self, vips: Iterable[IPAddress]) -> int:
        """Re-sends what is held for these addresses, in order; returns how many packets went.

        What the socket has no room for stays in the queue until it has.
        """
        sent = sum(self._release(vip) for vip in vips)
        self.released += sent
        return sent

    def _release(self, vip: IPAddress) -> int:
        queue = self._queues.get(vip)
        packets = queue.release(self._clock()) if queue else ()
        for number, packet in enumerate(packets):
            # A packet the kernel will not take (no route, too long) is lost, like any packet
            # on a network; its sender repeats it.
            with contextlib.suppress(KernelError):
                if not self._injector.send(packet) and queue is not None:
                    queue.put_back(packets[number:], self._clock())
                    self._wait_for_room(vip)
                    return number
        return len(packets)

    def _wait_for_room(self, vip: IPAddress) -> None:
        self._crowded.setdefault(vip.version, set()).add(vip)
        loop = asyncio.get_running_loop()
        loop.add_writer(self._injector.fileno(vip.version), self._has_room, vip.version)

    def _has_room(self, version: int) -> None:
        asyncio.get_running_loop().remove_writer(self._injector.fileno(version))
        waiting = self._crowded.pop(version, set())
        self.release(vip for vip in waiting if self._attached(vip))

    def _read(self) -> None:
        for _ in range(READS_PER_WAKEUP):
            packet = self._tun.read()
            if packet is None:
                return
            try:
                vip = self._owner(parse_ip(packet))
            except PeerError:
                self.foreign += 1
                continue
            queue = self._queues.get(vip)
            if queue is None:
                self.foreign += 1
                continue
            queue.push(packet, self._clock())
            if self._attached(vip) and vip not in self._stragglers:
                self._stragglers[vip] = asyncio.get_running_loop().call_later(
                    STRAGGLER_DELAY, self._release_stragglers, vip
                )

    def _release_stragglers(self, vip: IPAddress) -> None:
        self._stragglers.pop(vip, None)
        if self._attached(vip):
            self.release((vip,))
