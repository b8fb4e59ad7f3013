"""Makes the kernel look as wanted, and keeps it so when others meddle.

What is wanted is given per scope ("endpoint", or one session), as a value; only the difference
to what is there is written. `audit` reads an aspect of ours again and repairs it: it runs
whenever the kernel says that somebody else touched an object of ours (`services.repair`).
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import Flag, auto
from functools import reduce
from itertools import groupby
from operator import or_
from pathlib import Path
from typing import Final, Protocol

from orchestrator.adapters.nftables import Nftables
from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.sysctl import Sysctls
from orchestrator.adapters.tun import TunDevice
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.core.errors import KernelError
from orchestrator.core.kernel import (
    TUN_ENDPOINT,
    TUN_SERVER,
    Address,
    KernelObject,
    Key,
    Policy,
    Route,
    Rule,
    Ruleset,
    Sysctl,
    Tun,
)
from orchestrator.core.plan import Drop, Operation, Put, plan
from orchestrator.services.journal import Journal

SYSCTL_RECORD: Final = "sysctls.json"
SWEEP_AFTER: Final = 0.5
"""Seconds; longer than a move takes, shorter than anybody looks."""
TUNS: Final = (TUN_ENDPOINT, TUN_SERVER)
INDISPENSABLE: Final = (Ruleset, Tun)
"""Without the second lock nothing may be opened, without the device nothing is held."""

_Writer = Callable[[Iterable[Operation]], list[KernelError | None]]


def _can_wait(operation: Operation) -> bool:
    """A route or rule of a path that is gone matches nothing that is sent now."""
    return isinstance(operation, Drop) and isinstance(operation.subject, Route | Rule)


class Aspect(Flag):
    """What can be read, and meddled with, on its own."""

    POLICIES = auto()
    ROUTING = auto()
    """devices, addresses, routes and rules"""
    FIREWALL = auto()
    SETTINGS = auto()
    ALL = POLICIES | ROUTING | FIREWALL | SETTINGS


def aspect_of(subject: KernelObject) -> Aspect:
    match subject:
        case Policy():
            return Aspect.POLICIES
        case Tun() | Address() | Route() | Rule():
            return Aspect.ROUTING
        case Ruleset():
            return Aspect.FIREWALL
        case Sysctl():
            return Aspect.SETTINGS


class TunReader(Protocol):
    """Who reads a TUN device."""

    def pause(self) -> None:
        """The descriptor is about to be closed."""

    def resume(self) -> None:
        """The device is back, with another descriptor."""


class Reconciler:
    """The one writer of our kernel objects."""

    def __init__(
        self, rtnetlink: Rtnetlink, xfrm: Xfrm, state_dir: Path, journal: Journal
    ) -> None:
        self._rtnetlink = rtnetlink
        self._xfrm = xfrm
        self._journal = journal
        self._nftables = Nftables()
        self._sysctls = Sysctls(state_dir / SYSCTL_RECORD)
        self._wanted: dict[str, dict[Key, KernelObject]] = {}
        self._present: dict[Key, KernelObject] = {}
        self._doubtful: set[Key] = set()
        """Of these, what the kernel may have dropped by itself, or has refused to change: what
        became of it is not always said."""
        self._tuns: dict[str, TunDevice] = {}
        self.reader: TunReader | None = None
        self.on_refusal: Callable[[], None] = lambda: None
        """Told when the kernel refuses something that it did not refuse before."""
        self._lock = asyncio.Lock()
        self._leftovers = asyncio.Event()
        self._generation = 0
        self.repairs = 0
        """Operations that an audit had to do after others meddled."""
        self._refusals: dict[Key, tuple[KernelObject, KernelError]] = {}
        """What the kernel refused at the last try, and why."""

    def tun(self, name: str) -> TunDevice:
        """The open device; apply its Tun object first."""
        return self._tuns[name]

    def close(self) -> None:
        """Lets go of the devices; everything stays in the kernel."""
        for tun in self._tuns.values():
            tun.close()
        self._tuns.clear()
        self._nftables.close()

    async def apply(self, scope: str, wanted: Iterable[KernelObject]) -> None:
        """Replaces what this scope wants; writes the difference, restraining things first."""
        async with self._lock:
            self._generation += 1
            before = self._wanted.get(scope, {})
            after: dict[Key, KernelObject] = {subject.key: subject for subject in wanted}
            self._wanted[scope] = after
            keys = before.keys() | after.keys()
            doubtful = self._doubtful & after.keys()
            present = {
                key: self._present[key]
                for key in keys
                if key in self._present and key not in doubtful
            }
            operations = plan(after.values(), present)
            await self._carry_out(o for o in operations if not _can_wait(o))
        if any(map(_can_wait, operations)):
            self._leftovers.set()

    def doubt_routes(self) -> None:
        """The kernel drops the routes of a link that goes down, or loses its address, and does
        not always say so: those that are wanted are put again by the next `apply`."""
        for key, subject in self._present.items():
            if isinstance(subject, Route) and subject.link not in (None, *TUNS):
                self._doubtful.add(key)

    async def establish(self, scope: str, wanted: Iterable[KernelObject]) -> None:
        """Applies what a scope cannot do without, and nothing else yet.

        Raises KernelError if the kernel refuses any of it.
        """
        first = [subject for subject in wanted if isinstance(subject, INDISPENSABLE)]
        await self.apply(scope, first)
        for subject in first:
            if subject.key in self._refusals:
                raise self._refusals[subject.key][1]

    def firewall_writer(self) -> int | None:
        """The process that writes the firewall for us, if it runs."""
        return self._nftables.pid

    async def fill(self, name: str, elements: Collection[str]) -> None:
        """What a set or map of the firewall holds that is no part of the ruleset. It waits for
        the firewall alone, and nothing else for it. Raises KernelError."""
        await self._nftables.fill(name, elements)

    async def sweep(self) -> None:
        """Drops what is wanted no longer and does no harm, a moment after it was replaced: the
        old path's routes must not delay the packets of the new one. Runs for ever."""
        while True:
            await self._leftovers.wait()
            await asyncio.sleep(SWEEP_AFTER)
            async with self._lock:
                self._generation += 1
                self._leftovers.clear()
                operations = plan(self._all_wanted(), self._present)
                await self._carry_out(o for o in operations if _can_wait(o))

    async def audit(self, aspects: Aspect) -> tuple[Operation, ...]:
        """Reads these aspects of what is there, repairs; returns what that took.

        Reading takes long and holds nobody up: if something was applied in the meantime, it is
        done again.
        """
        while True:
            async with self._lock:  # what is half written now is not what others left
                generation = self._generation
            found = await self.read(aspects)
            async with self._lock:
                if generation != self._generation:
                    continue
                believed = self._present
                self._present = {
                    key: subject
                    for key, subject in believed.items()
                    if aspect_of(subject) not in aspects
                }
                self._present |= {subject.key: subject for subject in found}
                self._doubtful -= {
                    key for key, subject in believed.items() if aspect_of(subject) in aspects
                }
                # What waits for `sweep` is nobody's meddling.
                waiting = believed.keys() if self._leftovers.is_set() else ()
                operations = [
                    operation
                    for operation in plan(self._all_wanted(), self._present)
                    if not (_can_wait(operation) and operation.subject.key in waiting)
                ]
                self._forgive(aspects, {operation.subject.key for operation in operations})
                done = await self._carry_out(operations)
                self.repairs += len(done)
                return tuple(done)

    def _forgive(self, aspects: Aspect, still: Collection[Key]) -> None:
        """What was refused once and needs no operation now is as it shall be."""
        for key, (subject, _) in tuple(self._refusals.items()):
            if aspect_of(subject) in aspects and key not in still:
                del self._refusals[key]

    def expects(self, policy: Policy) -> bool:
        """Whether the kernel should have this very policy now, as far as we know."""
        return self._present.get(policy.key) == policy

    def expects_one_like(self, policy: Policy) -> bool:
        """Whether the kernel should have a policy for this selector and direction."""
        return policy.key in self._present

    def _all_wanted(self) -> Iterator[KernelObject]:
        for scope in self._wanted.values():
            yield from scope.values()

    @property
    def failures(self) -> tuple[KernelError, ...]:
        """Why objects of ours were refused at the last try."""
        return tuple(error for _, error in self._refusals.values())

    @property
    def refused(self) -> Aspect:
        """Of what the kernel refused at the last try."""
        aspects = (aspect_of(subject) for subject, _ in self._refusals.values())
        return reduce(or_, aspects, Aspect(0))

    def settings_differ(self) -> bool:
        """Whether somebody changed a system setting that we want otherwise."""
        wanted = (subject for subject in self._all_wanted() if isinstance(subject, Sysctl))
        return any(self.setting(subject.path) != subject.value for subject in wanted)

    def setting(self, path: str) -> str | None:
        """A system setting as it is; None: this kernel, or this link, has none."""
        try:
            return self._sysctls.read(path)
        except KernelError:
            return None

    async def adopt(self) -> tuple[KernelObject, ...]:
        """Takes what a predecessor left as present, so that only differences are written."""
        async with self._lock:
            found = await self.read(Aspect.ALL)
            self._present = {subject.key: subject for subject in found}
            return found

    async def read(self, aspects: Aspect) -> tuple[KernelObject, ...]:
        """Every object of ours that the kernel has now, in these aspects."""
        found: list[KernelObject] = []
        if Aspect.POLICIES in aspects:
            found += self._xfrm.policies()
        if Aspect.ROUTING in aspects:
            for name in TUNS:
                mtu = self._rtnetlink.tun_mtu(name)
                if mtu is not None and name in self._tuns:
                    found.append(Tun(name, mtu))
            found += await self._rtnetlink.present(TUNS)
        if Aspect.FIREWALL in aspects and (ruleset := await self._nftables.current()):
            found.append(ruleset)
        if Aspect.SETTINGS in aspects:
            found += [
                Sysctl(subject.path, self._sysctls.read(subject.path))
                for subject in self._all_wanted()
                if isinstance(subject, Sysctl)
            ]
        return tuple(found)

    async def remove_everything(self, *, dry_run: bool) -> list[str]:
        """Drops every object of ours, whoever put it there; returns what was (to be) done."""
        async with self._lock:
            operations = [
                operation
                for operation in plan((), {s.key: s for s in await self.read(Aspect.ALL)})
                if not isinstance(operation.subject, Tun)
            ]
            sentences = []
            for path in self._sysctls.changed():  # first: nothing is forwarded unfiltered
                sentences.append(f"restore the setting {path}")
                if not dry_run:
                    self._sysctls.restore(path)
            sentences += [f"drop {operation.subject}" for operation in operations]
            if not dry_run:
                await self._carry_out(operations)
            for name in TUNS:
                if self._rtnetlink.tun_mtu(name) is not None:
                    sentences.append(f"delete the device {name}")
                    if not dry_run:
                        await self._rtnetlink.delete_link(name)
            return sentences

    async def _carry_out(self, operations: Iterable[Operation]) -> list[Operation]:
        """Returns those that the kernel did not refuse."""
        done: list[Operation] = []
        for write, those in groupby(operations, self._writer):
            if write is None:
                done += [each for each in those if self._note(each, await self._try(each))]
            else:
                together = tuple(those)
                refused = zip(together, write(together), strict=True)
                done += [each for each, error in refused if self._note(each, error)]
        return done

    def _note(self, operation: Operation, error: KernelError | None) -> bool:
        """Whether it was done."""
        key = operation.subject.key
        if error is not None:
            if key not in self._refusals:
                told = {"detail": str(error)}
                self._journal.tell("kernel-refused", (), told, warning=True)
                self.on_refusal()
            self._refusals[key] = operation.subject, error
            if key in self._present:
                self._doubtful.add(key)
            return False
        self._refusals.pop(key, None)
        self._doubtful.discard(key)
        if isinstance(operation, Put):
            self._present[key] = operation.subject
        else:
            self._present.pop(key, None)
        return True

    def _writer(self, operation: Operation) -> _Writer | None:
        """Who carries out this one and its neighbours of the same kind together."""
        match operation.subject:
            case Policy():
                return self._xfrm.write
            case Address() | Route() | Rule():
                return self._rtnetlink.write
        return None

    async def _try(self, operation: Operation) -> KernelError | None:
        try:
            await self._do(operation)
        except KernelError as error:
            return error
        return None

    async def _do(self, operation: Operation) -> None:
        match operation:
            case Put(Tun() as tun):
                self._open(tun.name)
                await self._rtnetlink.configure_tun(tun)
            case Drop(Tun() as tun):
                self._tuns.pop(tun.name).close()
                await self._rtnetlink.delete_link(tun.name)
            case Put(Ruleset() as ruleset):
                await self._nftables.apply(ruleset)
            case Drop(Ruleset()):
                await self._nftables.remove()
            case Put(Sysctl() as sysctl):
                self._sysctls.put(sysctl)
            case Drop(Sysctl() as sysctl):
                self._sysctls.restore(sysctl.path)
            case _:
                raise TypeError(f"nobody carries out {operation}")

    def _open(self, name: str) -> None:
        """Opens the device; one that somebody deleted is made anew."""
        device = self._tuns.get(name)
        if device is None:
            self._tuns[name] = TunDevice.open(name)
        elif device.is_gone():
            if self.reader is not None:
                self.reader.pause()
            try:
                device.reopen()
            finally:
                if self.reader is not None:
                    self.reader.resume()
