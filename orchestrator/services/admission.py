"""Who comes in at a server: an endpoint that authenticated has an SA, and nothing else; only a
lease that says which virtual addresses its identity may use makes the tunnel a session's.

Who gets which addresses, `core.leases` decides; `services.leased` tells charon of it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from orchestrator.adapters.charon import Charon
from orchestrator.adapters.leases import LeaseStore, LeaseStoreError
from orchestrator.config.server import ServerConfig
from orchestrator.core import leases
from orchestrator.core.absence import SessionState
from orchestrator.core.errors import ConfigError
from orchestrator.core.ike import Tunnel
from orchestrator.core.quantities import IPAddress
from orchestrator.core.session_events import Admitted, Event, Remembered, SessionReason
from orchestrator.core.sessions import Sessions
from orchestrator.services.credentials import Credentials
from orchestrator.services.journal import Journal
from orchestrator.services.leased import LEASED, LeasedConnections
from orchestrator.services.tasks import Tasks

PRESENCE: Final = 300.0
"""Seconds; how exactly it is known when an endpoint was seen last."""
LONGEST_NAME: Final = 255
"""Octets of a name in VICI."""


class Admission:
    """Of one server."""

    def __init__(
        self,
        config: ServerConfig,
        store: LeaseStore,
        charon: Charon,
        machine: Sessions,
        post: Callable[[Event], None],
        end: Callable[[Tunnel], None],
        tasks: Tasks,
        journal: Journal,
    ) -> None:
        """`end` begins to end a tunnel that may not stay."""
        self._plan = config.vip
        self._leases = store
        self._charon = charon
        self._credentials = Credentials(config)
        self._leased = LeasedConnections(
            config.vip, store, charon, self._credentials, journal, config.keys
        )
        self._machine = machine
        self._post = post
        self._end = end
        self._tasks = tasks
        self._journal = journal

    def remembered(self) -> tuple[Remembered, ...]:
        """Those who were here before, as the operator's configuration leaves them their leases.
        Raises LeaseStoreError."""
        self._leased.honour_fixed()
        if self._plan.lease_time is not None:
            self._leases.expire(self._plan.lease_time)
        return tuple(
            Remembered(lease.identity, lease.vips)
            for lease in self._leases.all()
            if leases.fits(self._plan, lease)
        )

    async def prepare_charon(self) -> None:
        """What charon forgets when it restarts."""
        try:
            await self._credentials.load(self._charon)
        except ConfigError as error:
            # What charon was given before stays with it.
            self._journal.tell("unreadable", fields={"detail": str(error)}, warning=True)
        try:
            await self._leased.load_all()
        except LeaseStoreError as error:
            # Sessions that stand need no lease; nobody new comes in meanwhile.
            self._journal.tell("unreadable", fields={"detail": str(error)}, warning=True)

    async def note_presence(self) -> None:
        """So that the time a lease is kept counts from the end of its session."""
        while True:
            await asyncio.sleep(PRESENCE)
            for session in self._machine.by_identity.values():
                if session.state is SessionState.ATTACHED:
                    self._seen(session.identity)

    def _seen(self, identity: str) -> None:
        try:
            self._leases.seen(identity)
        except LeaseStoreError as error:
            self._journal.tell("unwritable", fields={"detail": str(error)}, warning=True)

    def admit(self, tunnel: Tunnel, *, adopted: bool) -> None:
        """Looks the lease up: only it gives an identity its virtual addresses."""
        hosts = tuple(ts.network_address for ts in tunnel.remote_ts if ts.num_addresses == 1)
        offered = tuple(host for host in hosts if self._in_pool(host))
        if not offered or len(hosts) != len(tunnel.remote_ts):
            self._turn_away(tunnel, "not-one-virtual-address")
            return
        if not self._machine.has_room(tunnel.remote_id):
            self._turn_away(tunnel, SessionReason.TOO_MANY_SESSIONS)
            return
        if len(f"{LEASED}{tunnel.remote_id}".encode()) > LONGEST_NAME:
            self._turn_away(tunnel, "identity-too-long")
            return
        if leases.names_many(tunnel.remote_id):
            self._turn_away(tunnel, "identity-of-many")
            return
        try:
            refusal = self._lease(tunnel.remote_id, offered)
        except LeaseStoreError as error:
            self._journal.tell("unwritable", fields={"detail": str(error)}, warning=True)
            refusal = "lease-not-written"
        if refusal is not None:
            self._turn_away(tunnel, refusal)
            return
        self._post(Admitted(tunnel.remote_id, offered, tunnel, adopted))

    def _lease(self, identity: str, offered: tuple[IPAddress, ...]) -> str | None:
        """Checks or makes the lease; returns why the tunnel must go, None if it may stay."""
        match leases.decide(self._plan, self._leases.all(), identity, offered):
            case leases.Accept(vips=vips, fresh=True):
                self._leases.assign(identity, vips)
                self._tasks.begin(self._leased.load(identity, vips), f"lease {identity}")
                self._tasks.begin(self._leased.load_newcomers(), "newcomers")
                return None
            case leases.Accept():
                self._seen(identity)
                return None
            case leases.Reassign(vips=vips):
                # With this connection charon narrows what the identity offers to its lease.
                self._tasks.begin(self._leased.load(identity, vips), f"lease {identity}")
                return "leased-another-address"
            case leases.Refuse(reason=reason):
                return str(reason)

    def _turn_away(self, tunnel: Tunnel, why: str) -> None:
        """No session: the SA stays without policies, and goes."""
        fields = {"identity": tunnel.remote_id, "pop": str(tunnel.remote), "ike_sa": tunnel.ike}
        self._journal.tell("refused", (why,), fields, warning=True)
        self._end(tunnel)

    def _in_pool(self, address: IPAddress) -> bool:
        return any(address in pool for pool in self._plan.pools)
