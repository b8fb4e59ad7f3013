"""Makes the kernel look as wanted, and keeps it so when others meddle.

What is wanted is given per scope ("endpoint", or one session), as a value; only the difference
to what is there is written. `audit` reads everything of ours again and repairs: it runs after
start, and whenever rtnetlink says that somebody touched an object of ours.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final, assert_never

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

SYSCTL_RECORD: Final = "sysctls.json"
TUNS: Final = (TUN_ENDPOINT, TUN_SERVER)


class Reconciler:
    """The one writer of our kernel objects."""

    def __init__(self, rtnetlink: Rtnetlink, xfrm: Xfrm, state_dir: Path) -> None:
        self._rtnetlink = rtnetlink
        self._xfrm = xfrm
        self._nftables = Nftables()
        self._sysctls = Sysctls(state_dir / SYSCTL_RECORD)
        self._wanted: dict[str, dict[Key, KernelObject]] = {}
        self._present: dict[Key, KernelObject] = {}
        self._tuns: dict[str, TunDevice] = {}
        self._lock = asyncio.Lock()
        self.repairs = 0
        """Operations that an audit had to do after others meddled."""
        self.failures: dict[Key, KernelError] = {}
        """What the kernel refused at the last try, by object."""

    def tun(self, name: str) -> TunDevice:
        """The open device; apply its Tun object first."""
        return self._tuns[name]

    async def apply(self, scope: str, wanted: Iterable[KernelObject]) -> None:
        """Replaces what this scope wants; writes the difference, restraining things first."""
        async with self._lock:
            before = self._wanted.get(scope, {})
            after = {subject.key: subject for subject in wanted}
            self._wanted[scope] = after
            keys = before.keys() | after.keys()
            present = {key: self._present[key] for key in keys if key in self._present}
            await self._carry_out(plan(after.values(), present))

    async def audit(self) -> int:
        """Reads what is there, repairs; returns how many operations that took."""
        async with self._lock:
            self._present = {subject.key: subject for subject in await self.read()}
            wanted = [s for scope in self._wanted.values() for s in scope.values()]
            operations = plan(wanted, self._present)
            await self._carry_out(operations)
            self.repairs += len(operations)
            return len(operations)

    async def adopt(self) -> tuple[KernelObject, ...]:
        """Takes what a predecessor left as present, so that only differences are written."""
        async with self._lock:
            found = await self.read()
            self._present = {subject.key: subject for subject in found}
            return found

    async def read(self) -> tuple[KernelObject, ...]:
        """Every object of ours that the kernel has now."""
        found: list[KernelObject] = list(self._xfrm.policies())
        for name in TUNS:
            mtu = await self._rtnetlink.tun_mtu(name)
            if mtu is not None and name in self._tuns:
                found.append(Tun(name, mtu))
        found += await self._rtnetlink.present(TUNS)
        ruleset = await self._nftables.current()
        if ruleset is not None:
            found.append(ruleset)
        for subject in self._present.values():
            if isinstance(subject, Sysctl):
                found.append(Sysctl(subject.path, self._sysctls.read(subject.path)))
        return tuple(found)

    async def remove_everything(self, *, dry_run: bool) -> list[str]:
        """Drops every object of ours, whoever put it there; returns what was (to be) done."""
        async with self._lock:
            operations = [
                operation
                for operation in plan((), {s.key: s for s in await self.read()})
                if not isinstance(operation.subject, Tun)
            ]
            sentences = [f"drop {operation.subject}" for operation in operations]
            if not dry_run:
                await self._carry_out(operations)
            for name in TUNS:
                if await self._rtnetlink.tun_mtu(name) is not None:
                    sentences.append(f"delete device {name}")
                    if not dry_run:
                        await self._rtnetlink.delete_link(name)
            for path in self._sysctls.changed():
                sentences.append(f"restore sysctl {path}")
                if not dry_run:
                    self._sysctls.restore(path)
            return sentences

    async def _carry_out(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            key = operation.subject.key
            try:
                await self._do(operation)
            except KernelError as error:
                self.failures[key] = error
                continue
            self.failures.pop(key, None)
            if isinstance(operation, Put):
                self._present[key] = operation.subject
            else:
                self._present.pop(key, None)

    async def _do(self, operation: Operation) -> None:
        match operation:
            case Put(Policy() as policy):
                self._xfrm.put_policy(policy)
            case Drop(Policy() as policy):
                self._xfrm.drop_policy(policy.direction, policy.selector)
            case Put(Address() | Route() | Rule() as subject):
                await self._rtnetlink.put(subject)
            case Drop(Address() | Route() | Rule() as subject):
                await self._rtnetlink.drop(subject)
            case Put(Tun() as tun):
                if tun.name not in self._tuns:
                    self._tuns[tun.name] = TunDevice.open(tun.name)
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
                assert_never(operation)
