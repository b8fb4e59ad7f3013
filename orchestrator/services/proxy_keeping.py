"""What the proxy keeps for those who do not read now: in memory up to a limit, then on disk.

Memory is counted in octets of the streams, from the read to the acknowledgement by the far end.
Nobody tells when a far end acknowledges, so what is counted is the most that it can be, and it
is counted anew before anybody is refused for it (`core.allowance`). The octets that the kernel
has received and we have not read are not in it: they are bounded by each leg's receive buffer.

The disk: a chunk is first copied to the file, and then taken from the socket. So a disk that is
full or broken costs nothing: the octets are where they were, and the sender's window closes.
"""

import errno
import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Final

from orchestrator.adapters import clock
from orchestrator.adapters.spool import HEADER, SpoolFolder, SpoolLost
from orchestrator.core.allowance import Allowance, AllowanceLimits, Share, Shortage
from orchestrator.core.errors import KernelError
from orchestrator.core.flows import (
    LARGEST_QUEUE,
    LEAST_SPOOL,
    UNCONFIGURED,
    Kept,
    ProxyCounters,
    ProxySettings,
    SpoolSettings,
)
from orchestrator.core.quantities import Instant, Seconds
from orchestrator.core.relay_events import LEGS, Leg
from orchestrator.services.proxy_flow import Flow, Stream

CHUNK: Final = LARGEST_QUEUE + HEADER.size
"""The most that one append takes of the disk."""
TELL_SECONDS: Final = Seconds(600.0)
"""Between two lines in the log of a disk that refuses now and then: the log is short."""
NO_SPOOL: Final = SpoolSettings("/", LEAST_SPOOL, LEAST_SPOOL, LEAST_SPOOL)
"""Before there are settings for one: nothing is spooled then."""

GONE: Final = (errno.ENOENT, errno.ENOTDIR)
"""What a folder that was removed, or put in another place, answers."""

_log = logging.getLogger("orchestrator.proxy")


class Keeping:
    """The worker's memory and disk. Nothing here waits for anything but the disk."""

    def __init__(self) -> None:
        self._spool: SpoolSettings | None = None
        self._folder: SpoolFolder | None = None
        self.memory: Final = Allowance[Stream](_in_memory(UNCONFIGURED))
        self.disk: Final = Allowance[Stream](_on_disk(NO_SPOOL))
        self._met: Final = {self.memory: Counter[Shortage](), self.disk: Counter[Shortage]()}
        self.failures = 0
        """How often the disk took nothing."""
        self.lost = 0
        """Octets that the disk did not give back."""
        self.problem: str | None = None
        """Why nothing is spooled now, if it should be."""
        self._told = Instant(-TELL_SECONDS)

    def configure(self, settings: ProxySettings) -> None:
        """Holds for the octets that come from now on."""
        self.memory.limits = _in_memory(settings)
        self._spool = settings.spool
        self._folder, self.problem = None, None
        if settings.spool is not None:
            self.disk.limits = _on_disk(settings.spool)
            self.look_for_folder()

    def look_for_folder(self) -> None:
        """A spool that is wanted and cannot be had may be there by now."""
        if self._spool is not None and self._folder is None:
            try:
                self._folder = SpoolFolder(Path(self._spool.directory))
                self.problem = None
            except KernelError as error:
                self._tell_problem(str(error))

    @property
    def spools(self) -> bool:
        """Whether anything can be kept on disk."""
        return self._folder is not None

    def take_over(self, counters: ProxyCounters) -> None:
        """Goes on with what another worker counted."""
        self._met[self.memory].update(dict(counters.memory.met))
        self._met[self.disk].update(dict(counters.disk.met))
        self.failures, self.lost = counters.disk_failures, counters.disk_lost

    def in_memory(self) -> Kept:
        self.memory.count(_kept)
        return self._report(self.memory, self.memory.limits.in_all)

    def on_disk(self) -> Kept:
        return self._report(self.disk, 0 if self._spool is None else self._spool.in_all)

    def _report(self, allowance: Allowance[Stream], limit: int) -> Kept:
        met = self._met[allowance]
        return Kept(
            allowance.octets,
            limit,
            allowance.waiting,
            allowance.since,
            tuple((shortage, met[shortage]) for shortage in Shortage),
        )

    # ---- flows

    def enter(self, flow: Flow, session: Hashable) -> None:
        """Its octets count from now on."""
        flow.shares = tuple([self.memory.open(session, (flow, leg)) for leg in LEGS])
        flow.on_disk = tuple([self.disk.open(session, (flow, leg)) for leg in LEGS])

    def restore(self, flow: Flow) -> None:
        """What it has already counts as well."""
        for leg in LEGS:
            self.memory.take(flow.shares[leg], flow.kept(leg))
            spool = flow.spools[leg]
            if spool is not None:
                self.disk.take(flow.on_disk[leg], spool.tail)

    def leave(self, flow: Flow) -> None:
        """Nothing is kept for it any more."""
        for leg in LEGS:
            self.drop(flow, leg)
            self.memory.close(flow.shares[leg])
            self.disk.close(flow.on_disk[leg])
        flow.shares = flow.on_disk = ()

    # ---- memory

    def has_room(self, flow: Flow, leg: Leg) -> bool:
        """Whether another queue of octets from `leg` may be kept; if not, it waits for it."""
        share = flow.shares[leg]
        if self.memory.shortage(share) is not None:
            self.memory.look(share, _kept)
        shortage = self.memory.shortage(share)
        if shortage is not None:
            self._wait(self.memory, share, shortage)
        return shortage is None

    def memory_turn(self) -> Sequence[Stream]:
        """Those that waited for memory, and may go on."""
        self.memory.look_around(_kept)
        return self.memory.turn()

    # ---- disk

    def may_spool(self, flow: Flow, leg: Leg) -> bool:
        """Whether another chunk may go to the disk; if not, it waits for it."""
        share = flow.on_disk[leg]
        shortage = self.disk.shortage(share)
        if shortage is not None or self._folder is None:
            self._wait(self.disk, share, shortage)
            return False
        return True

    def spool(self, flow: Flow, leg: Leg, octets: memoryview) -> bool:
        """Appends to what `leg` has on disk; False: the disk refused, and nothing changed."""
        try:
            spool = flow.spools[leg]
            if spool is None and self._folder is not None:
                spool = flow.spools[leg] = self._folder.create()
            appended = spool.append(octets) if spool is not None else 0
        except KernelError as error:
            self.failures += 1
            self._tell_problem(str(error))
            if error.errno in GONE:
                self._folder = None
            appended = 0
        if not appended:
            self._drop_empty(flow, leg)
            self._wait(self.disk, flow.on_disk[leg], None)
            return False
        self.disk.take(flow.on_disk[leg], appended)
        self.problem = None
        return True

    def unspool(self, flow: Flow, leg: Leg) -> bytes | None:
        """The oldest chunk from `leg`; None: it, and what is behind it, is lost."""
        spool = flow.spools[leg]
        try:
            octets = spool.take() if spool is not None else b""
        except SpoolLost as error:
            octets = b""
            _log.error("octets that were acknowledged cannot be read: %s", error)
        if not octets:
            lost = flow.relay.spooled(leg)
            self.lost += lost
            _log.error("%d octets are lost, and their connection is reset", lost)
            return None
        self._drop_empty(flow, leg)
        return octets

    def drop(self, flow: Flow, leg: Leg) -> None:
        """What `leg` has on disk, if anything, is wanted no more."""
        spool = flow.spools[leg]
        if spool is not None:
            spool.close()
            flow.spools[leg] = None
            share = flow.on_disk[leg]
            self.disk.give_back(share, share.octets)

    def _drop_empty(self, flow: Flow, leg: Leg) -> None:
        """A descriptor is there only while there is something behind it."""
        spool = flow.spools[leg]
        if spool is not None and spool.head == spool.tail:
            self.drop(flow, leg)

    def disk_turn(self) -> Sequence[Stream]:
        """Those that waited for the disk, and may try; one of them, while it refuses."""
        if self._folder is None:
            return ()
        return self.disk.turn(1 if self.problem is not None else None)

    # ----

    def _wait(
        self, allowance: Allowance[Stream], share: Share[Stream], shortage: Shortage | None
    ) -> None:
        """`shortage` is the limit that it met; None: the disk refused."""
        if shortage is not None:
            self._met[allowance][shortage] += 1
        allowance.wait(share, clock.now())

    def _tell_problem(self, problem: str) -> None:
        now = clock.now()
        if self.problem is None and now - self._told >= TELL_SECONDS:
            self._told = now
            _log.warning("nothing is spooled, peers of absent endpoints wait: %s", problem)
        self.problem = problem


def _kept(stream: Stream) -> int:
    flow, leg = stream
    return flow.kept(leg)


def _in_memory(settings: ProxySettings) -> AllowanceLimits:
    """A stream's own limit is kept by its relay and the buffers of its sockets."""
    return AllowanceLimits(
        portion=LARGEST_QUEUE,
        per_stream=settings.octets,
        per_session=settings.octets_per_vip,
        in_all=settings.octets,
        floor=True,
    )


def _on_disk(settings: SpoolSettings) -> AllowanceLimits:
    return AllowanceLimits(
        portion=CHUNK,
        per_stream=settings.per_flow,
        per_session=settings.per_vip,
        in_all=settings.in_all,
        floor=False,
    )
