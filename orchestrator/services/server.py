"""The mobility server daemon: neighbours around the deciding machine of `core.sessions`.

News comes from charon, XFRM, the probe socket and the clock; the machine decides; the effects
go to the reconciler, charon, the hold queue and the proxy. A tunnel is news only when its
endpoint was admitted (`services.admission`).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Final, NoReturn

from orchestrator import __version__
from orchestrator.adapters import clock
from orchestrator.adapters.charon import Charon
from orchestrator.adapters.leases import LeaseStore
from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.xfrm import Monitor, Xfrm
from orchestrator.config.server import ServerConfig
from orchestrator.config.toml import AnyConfig
from orchestrator.core.absence import SessionState
from orchestrator.core.endpoint_state import SERVICE, SERVICE_PORT
from orchestrator.core.errors import CharonError, KernelError, PeerError
from orchestrator.core.firewall import ServerFirewall, server_ruleset
from orchestrator.core.flows import FlowRecord
from orchestrator.core.ike import (
    CharonGone,
    CharonUp,
    IkeEvent,
    Tunnel,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.kernel import MARK_TO_SENDERS, TUN_SERVER
from orchestrator.core.metric import Metric
from orchestrator.core.quantities import IPAddress, Seconds
from orchestrator.core.server_state import ServerState, probe_mark, server_objects
from orchestrator.core.session_events import (
    AnswerProbe,
    ApplySession,
    Carry,
    Effect,
    EndFlows,
    Event,
    Heard,
    HeardWarm,
    MappingChanged,
    PolicyChanged,
    Release,
    Shed,
    StateMoved,
    Tell,
    Terminate,
    Tick,
)
from orchestrator.core.sessions import Sessions
from orchestrator.services import ike
from orchestrator.services.admission import Admission
from orchestrator.services.carrying import Carrying
from orchestrator.services.copies import Copies
from orchestrator.services.driver import Driver
from orchestrator.services.hold import Holder
from orchestrator.services.hold_report import all_held_report, held_report
from orchestrator.services.journal import Journal
from orchestrator.services.metrics import (
    daemon_metrics,
    firewall_metrics,
    hold_metrics,
    journal_metrics,
    session_hold_metrics,
)
from orchestrator.services.probes import ServerProbes
from orchestrator.services.proxy_client import ProxyLost
from orchestrator.services.proxy_link import ProxyLink, proxy_ports
from orchestrator.services.reconciler import Aspect, Reconciler
from orchestrator.services.release import Releaser
from orchestrator.services.reload import reloaded
from orchestrator.services.repair import Repair
from orchestrator.services.server_metrics import (
    DURATIONS,
    each_session_metrics,
    lease_metrics,
    proxy_metrics,
    session_metrics,
)
from orchestrator.services.session_report import by_vip, report, tally
from orchestrator.services.tasks import Tasks
from orchestrator.wire import netlink_xfrm as xfrm_news
from orchestrator.wire.control import NotThisRole, Refused
from orchestrator.wire.labels import Flow
from orchestrator.wire.stalled import decode as decode_stalled
from orchestrator.wire.xfrm_structs import Group

SCOPE: Final = "server"
TAKES_ADVERTISEMENTS: Final = ("1", "2")
"""Values of accept_ra; 2: also where the host is a router."""


class Server:
    """One running mobility server; `Administered` for the control socket."""

    def __init__(
        self,
        config: ServerConfig,
        reread: Callable[[], AnyConfig],
        rtnetlink: Rtnetlink,
        xfrm: Xfrm,
    ) -> None:
        """`reread` reads the file that `config` is from. Raises ConfigError."""
        self.config = config
        self._reread = reread
        self.journal = Journal()
        self._rtnetlink = rtnetlink
        self._xfrm = xfrm
        self._charon = Charon(
            config.charon.socket, partial(self.journal.count, "malformed-ike")
        )
        self._charon_version: str | None = None
        self._monitor = Monitor((Group.MAPPING, Group.SA, Group.POLICY), besides=xfrm)
        self._leases = LeaseStore(config.state.directory / "leases.sqlite")
        self._policy = config.session_policy
        self._machine = Sessions(self._policy)
        self._driver: Driver[Event, Effect] = Driver(
            self._machine, self._execute, Tick(), clock.now
        )
        self._tasks = Tasks()
        self._restarting: set[IPAddress] = set()
        """Whose stalled flows are being seen to."""
        self._admission = Admission(
            config,
            self._leases,
            self._charon,
            self._machine,
            self._driver.post,
            self._end,
            self._tasks,
            self.journal,
        )
        self._reconciler = Reconciler(rtnetlink, xfrm, config.state.directory, self.journal)
        self._probes = ServerProbes(self._heard, self._copied, self._stalled, self.journal)
        self._copies = Copies(
            self._copy_marks,
            self._probes.send_copy,
            lambda packet: self._reconciler.tun(TUN_SERVER).write(packet),
            lambda header: header.source,
            clock.now,
            self.journal,
        )
        self._repair = Repair(self._reconciler, self.journal)
        self._carrying = Carrying(self._reconciler.fill, self.journal)
        self._proxy = ProxyLink(config, self.journal, self._owner)
        self._holder = Holder(
            lambda packet: packet.destination,
            self._attached,
            lambda identity: self.config.hold_of(identity),
            clock.now,
            self.journal,
            mark=MARK_TO_SENDERS if config.proxy.enabled else 0,
            asleep=self._asleep,
            total=config.hold.total,
            divert=self._copies.takes,
        )
        self._releaser = Releaser(
            self._holder, self._proxy.resume, self._attached, self.journal
        )
        self._started_at = clock.now()
        self._state_since = self._started_at

    async def run(self) -> None:
        """Works until cancelled; leaves the kernel and the proxy as they are."""
        await self._reconciler.adopt()
        objects = server_objects(self._state())
        await self._reconciler.establish(SCOPE, objects)
        await self._reconciler.apply(SCOPE, objects)
        for before in self._admission.remembered():
            await self._driver.handle(before)
        self._probes.bind(SERVICE[pool.version] for pool in self.config.vip.pools)
        self._holder.start(self._reconciler.tun(TUN_SERVER))
        self._reconciler.reader = self._holder
        # What a predecessor wanted otherwise is in nobody's scope.
        self._repair.touched(Aspect.ALL)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._monitor.fileno(), self._watch_xfrm)
        try:
            async with self._tasks as tasks:
                tasks.begin(self._driver.run(), "driver")
                tasks.begin(self._watch_network(), "network")
                tasks.begin(self._releaser.run(), "release")
                tasks.begin(self._repair.run(), "repair")
                tasks.begin(self._reconciler.sweep(), "sweep")
                tasks.begin(self._repair.watch_settings(), "settings")
                tasks.begin(self._repair.watch_firewall(), "firewall")
                tasks.begin(self._admission.note_presence(), "presence")
                tasks.begin(self._carrying.run(), "carrying")
                if self.config.proxy.enabled:
                    tasks.begin(self._proxy.run(), "proxy")
                prepare = self._admission.prepare_charon
                tasks.begin(ike.follow(self._charon, prepare, self._ike_event), "charon")
        finally:
            loop.remove_reader(self._monitor.fileno())
            self._monitor.close()
            self._holder.stop()
            self._probes.close()
            self._reconciler.close()

    # News

    def _ike_event(self, event: IkeEvent) -> None:
        """Tunnels come to the machine as admitted, or not at all."""
        match event:
            case CharonUp(version, tunnels):
                self._charon_is(version)
                self._driver.post(event)
                for tunnel in tunnels:
                    self._admission.admit(tunnel, adopted=True)
            case TunnelUp(tunnel):
                self._admission.admit(tunnel, adopted=False)
            case TunnelRekeyed(old, tunnel):
                unsent = not self._sends_on(tunnel)
                self._driver.post(TunnelRekeyed(old, tunnel, unsent))
            case _:
                if isinstance(event, CharonGone):
                    self._charon_is(None)
                    self.journal.tell("charon", ("charon-absent",), warning=True)
                self._driver.post(event)

    def _sends_on(self, tunnel: Tunnel) -> bool:
        """Whether the kernel has its outbound SA."""
        try:
            self._xfrm.state(tunnel.remote, tunnel.spi_out)
        except KernelError:
            return False
        return True

    def _charon_is(self, version: str | None) -> None:
        """Its version; None: it is absent."""
        if (version is None) != (self._charon_version is None):
            self._state_since = clock.now()
        self._charon_version = version

    def _heard(self, probe: Heard | HeardWarm) -> None:
        """The kernel told of a moved sender before it passed this probe on: so do we."""
        self._watch_xfrm()
        self._driver.post(probe)

    def _copied(self, vip: IPAddress, octets: bytes) -> None:
        if self._machine.session_of_vip(vip) is not None:
            self._copies.received(vip, octets)

    def _stalled(self, vip: IPAddress, octets: bytes) -> None:
        """One message of an endpoint at a time: what it has us send, it receives."""
        try:
            flows = decode_stalled(octets, vip.packed)
        except PeerError:
            self.journal.count("malformed-probe")
            return
        if not self._attached(vip) or vip in self._restarting:
            self.journal.count("stray-probe")
            return
        self._restarting.add(vip)
        self._tasks.begin(self._restart(vip, flows), f"restart flows of {vip}")

    async def _restart(self, vip: IPAddress, flows: Sequence[Flow]) -> None:
        try:
            await self._proxy.restart(flows)
        finally:
            self._restarting.discard(vip)

    def _copy_marks(self, vip: IPAddress) -> tuple[int, ...]:
        session = self._machine.session_of_vip(vip)
        return tuple(map(probe_mark, session.carrying.values())) if session else ()

    def _watch_xfrm(self) -> None:
        for news in self._monitor.read():
            match news:
                case xfrm_news.MappingChanged(spi=spi):
                    self._driver.post(MappingChanged(spi))
                case xfrm_news.StatePut(state=state):
                    moved = StateMoved(state.spi, state.source, state.destination, state.reqid)
                    self._driver.post(moved)
                case _:
                    self._repair.xfrm_news(news)

    async def _watch_network(self) -> None:
        async for news in self._rtnetlink.watch():
            if news.ours_touched:
                self._repair.touched(Aspect.ROUTING)

    # Acts

    async def _execute(self, effect: Effect) -> Event | None:
        match effect:
            case ApplySession(identity, objects):
                await self._reconciler.apply(f"session {identity}", objects)
                session = self._machine.by_identity.get(identity)
                if session is None:
                    self._copies.keep(self._machine.vips())
                self._holder.hold(identity, session.vips if session is not None else ())
            case Carry(identity, slots):
                self._carrying.told(identity, slots)
            case Shed(vips):
                self._holder.shed(vips)
            case EndFlows(vips):
                self._tasks.begin(self._end_flows(vips), f"end flows {vips[0]}")
            case Release(vips):
                self._releaser.returned(vips)
            case AnswerProbe():
                self._probes.answer(effect)
            case Terminate(tunnel, reason):
                self.journal.tell("terminated", (reason,), {"identity": tunnel.remote_id})
                self._end(tunnel)
            case Tell(what, reasons, identity, fields):
                self.journal.tell(what, reasons, {"identity": identity, **fields})
        return None

    def _end(self, tunnel: Tunnel) -> None:
        self._tasks.begin(self._terminate(tunnel), f"terminate {tunnel.ike}")

    async def _terminate(self, tunnel: Tunnel) -> None:
        with contextlib.suppress(CharonError):
            await self._charon.terminate(tunnel.ike)

    async def _end_flows(self, vips: tuple[IPAddress, ...]) -> None:
        if not self.config.proxy.enabled:
            return
        try:
            ended = await self._proxy.end_flows(vips)
        except ProxyLost as error:
            # With the worker its flows are gone; where it only lags, they end with their peers.
            self.journal.tell("flows-not-ended", fields={"detail": str(error)}, warning=True)
            return
        if ended:
            self.journal.tell("flows-ended", fields={"flows": ended, "vip": str(vips[0])})

    def _asleep(self, vip: IPAddress) -> bool:
        session = self._machine.session_of_vip(vip)
        return session is not None and session.state is SessionState.ASLEEP

    def _attached(self, vip: IPAddress) -> bool:
        session = self._machine.session_of_vip(vip)
        return session is not None and session.active is not None and session.following is None

    def _owner(self, vip: IPAddress) -> str | None:
        session = self._machine.session_of_vip(vip)
        return session.identity if session is not None else None

    def _state(self) -> ServerState:
        config = self.config
        firewall = ServerFirewall(
            underlay=config.underlay.interfaces,
            pools=config.vip.pools,
            services=tuple(SERVICE[pool.version] for pool in config.vip.pools),
            service_port=SERVICE_PORT,
            proxy=proxy_ports(config) if config.proxy.enabled else None,
            management_ports=config.underlay.extra_tcp_ports,
        )
        taking = {
            link: self._reconciler.setting(f"net/ipv6/conf/{link}/accept_ra")
            for link in config.underlay.interfaces
        }
        advertised = tuple(link for link in taking if taking[link] in TAKES_ADVERTISEMENTS)
        return ServerState(config.vip.pools, server_ruleset(firewall), advertised)

    # What people ask (Administered)

    async def status(self) -> dict[str, object]:
        proxy, charon = self.config.proxy.enabled, self._charon_version
        return {
            "role": "server",
            "version": __version__,
            "state": "serving" if charon else "waiting",
            "reasons": [] if charon else ["charon-absent"],
            "since_s": round(clock.now() - self._state_since, 3),
            "uptime_s": round(clock.now() - self._started_at, 3),
            "identity": self.config.identity,
            "pools": [str(pool) for pool in self.config.vip.pools],
            "charon": f"strongSwan {charon}" if charon else "absent",
            "sessions": tally(self._machine.by_identity.values()),
            "held": all_held_report(self._holder.held(), self._holder.total),
            "proxy": (self._proxy.problem or "running") if proxy else "off",
            "proxy_worker": self._proxy.status(),
            "queued": await self._proxy.queued() if proxy else None,
            "repairs": self._reconciler.repairs,
            "warnings": self._warnings(),
            "counters": dict(self.journal.counters),
        }

    def paths(self) -> object:
        raise NotThisRole("paths are the endpoint's: ask `orchestrator sessions` here")

    async def sessions(self) -> list[dict[str, object]]:
        flows = by_vip(await self._flows())
        return [
            report(
                session,
                self._policy,
                flows,
                self._proxy.settings,
                held_report(self._holder.held(session.vips)),
                self._leases.lookup(session.identity),
                clock.now(),
            )
            for session in self._machine.by_identity.values()
        ]

    async def flows(self) -> object:
        return await self._proxy.flows() if self.config.proxy.enabled else []

    async def metrics(self) -> tuple[Metric, ...]:
        """Raises LeaseStoreError."""
        sessions, now = self._machine.by_identity.values(), clock.now()
        uptime, waiting = Seconds(now - self._started_at), self._driver.waiting
        found = [
            *daemon_metrics("server", uptime, self._charon_version, waiting, self._reconciler),
            *session_metrics(sessions, self.config.limits.sessions),
            *lease_metrics(self.config, self._leases.all()),
            *journal_metrics(self.journal, DURATIONS),
            *hold_metrics(self._holder),
        ]
        if self.config.metrics.per_session:
            found += each_session_metrics(sessions, now)
            held = {each.identity: self._holder.held(each.vips) for each in sessions}
            found += session_hold_metrics(held)
        if self.config.proxy.enabled:
            found += proxy_metrics(await self._proxy.counters())
        return (*found, *await firewall_metrics())

    def roam(self, link: str | None) -> object:
        raise NotThisRole("an endpoint roams, not a server: ask there")

    def portal(self, link: str | None) -> NoReturn:
        raise NotThisRole("an endpoint signs in, not a server: ask there")

    async def reload(self) -> dict[str, object]:
        """Takes what can be changed while it runs. Raises ConfigError, Refused."""
        outcome = reloaded(self.config, self._reread())
        self.config = outcome.config
        self._policy = outcome.config.session_policy
        await self._driver.handle(PolicyChanged(self._policy))
        self._holder.change_policy(outcome.config.hold.total)
        told: dict[str, object] = {"taken": outcome.taken, "waiting": outcome.waiting}
        self.journal.tell("reloaded", fields=told)
        return told

    async def replace_proxy(self) -> object:
        if not self.config.proxy.enabled:
            raise Refused("there is no proxy", "it is switched off by [proxy] enabled")
        return await self._proxy.replace()

    def events(self) -> AsyncIterator[Mapping[str, object]]:
        return self.journal.watch()

    async def _flows(self) -> tuple[FlowRecord, ...]:
        try:
            return await self._proxy.flows() if self.config.proxy.enabled else ()
        except ProxyLost:
            return ()

    def _warnings(self) -> list[str]:
        found = [str(error) for error in self._reconciler.failures]
        if self._charon_version is None:
            found.append(
                f"charon does not answer at {self.config.charon.socket}: start strongSwan; "
                "until then nobody can connect, and all sessions are held"
            )
        if self.config.proxy.enabled:
            found += self._proxy.warnings()
        return found
