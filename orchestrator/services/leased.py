"""Leases as the configuration has them, and what charon is told about them: a connection for
each identity that has one, and one for newcomers, which gives them free addresses.

Once it has them, charon narrows what an identity offers to its lease, and gives out free
addresses by itself.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

from orchestrator.adapters.charon import Charon
from orchestrator.adapters.leases import LeaseStore, LeaseStoreError
from orchestrator.config.common import Keys
from orchestrator.config.server import Vip
from orchestrator.core import leases
from orchestrator.core.errors import CharonError, ConfigError
from orchestrator.core.quantities import IPAddress
from orchestrator.services import ike
from orchestrator.services.credentials import Credentials
from orchestrator.services.journal import Journal

NEWCOMERS: Final = "newcomers"
"""charon's connection for identities without a lease."""
FREE: Final = "free-"
"""Begins the name of charon's pool of one free address, which follows: whichever daemon loaded
it, the same name has the same content."""
EXHAUSTED: Final = "exhausted"
"""The name of no pool. Without any name charon would take newcomers for hosts that need no
virtual address, instead of answering INTERNAL_ADDRESS_FAILURE (RFC 7296, 3.10.1)."""
LEASED: Final = "lease "
"""Begins the name of charon's connection for an identity with one."""


class LeasedConnections:
    def __init__(
        self,
        plan: Vip,
        store: LeaseStore,
        charon: Charon,
        credentials: Credentials,
        journal: Journal,
        keys: Keys,
    ) -> None:
        self._plan = plan
        self._leases = store
        self._charon = charon
        self._credentials = credentials
        self._journal = journal
        self._keys = keys
        self._loading = asyncio.Lock()

    def honour_fixed(self) -> None:
        """What the operator fixed for somebody belongs to nobody else, whoever had it before;
        what is fixed no longer is a lease like any other."""
        fixed = self._plan.static
        for lease in self._leases.all():
            if leases.overruled(self._plan, lease):
                self._leases.release(lease.identity)
                fields = {"identity": lease.identity, "vip": str(lease.vips[0])}
                reasons = ("fixed-for-another",)
                self._journal.tell("lease-released", reasons, fields, warning=True)
            elif lease.static and lease.identity not in fixed:
                self._leases.assign(lease.identity, lease.vips)
        for identity, vips in fixed.items():
            self._leases.assign(identity, vips, static=True)

    async def load_all(self) -> None:
        """Everything, as a charon that has just started needs it. Raises LeaseStoreError."""
        for lease in self._leases.all():
            await self.load(lease.identity, lease.vips)
        await self.load_newcomers()

    async def load(self, identity: str, vips: Sequence[IPAddress]) -> None:
        with contextlib.suppress(CharonError, ConfigError):
            local, remote = self._credentials.sides(identity)
            connection = ike.leased_connection(vips, local, remote, self._keys)
            await self._charon.load_connection(f"{LEASED}{identity}", connection)

    async def load_newcomers(self) -> None:
        """charon gives out free addresses itself; each time one was taken it gets another.

        A pool stays as long as charon has an IKE_SA with its address.
        """
        async with self._loading:
            with contextlib.suppress(CharonError, ConfigError, LeaseStoreError):
                there = await self._charon.pools()
                free = [f"{FREE}{address}" for address in self._free_addresses()]
                for name in free:
                    if name not in there:
                        address = name.removeprefix(FREE)
                        await self._charon.load_pool(name, f"{address}-{address}")
                local, remote = self._credentials.sides(None)
                pools = free or [EXHAUSTED]
                connection = ike.newcomer_connection(pools, local, remote, self._keys)
                await self._charon.load_connection(NEWCOMERS, connection)
                for name in there:
                    if name.startswith(FREE) and name not in free:
                        with contextlib.suppress(CharonError):
                            await self._charon.unload_pool(name)

    def _free_addresses(self) -> Iterator[IPAddress]:
        """The next one of each pool."""
        for pool in self._plan.pools:
            free = leases.next_free(pool, self._plan, self._leases.all())
            if free is None:
                fields = {"pool": str(pool)}
                self._journal.tell("pool-exhausted", fields=fields, warning=True)
            else:
                yield free
