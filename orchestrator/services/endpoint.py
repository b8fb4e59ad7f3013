"""The endpoint daemon: neighbours around the deciding machine of `core.mobility`.

News comes from rtnetlink, charon, the probe socket, the clock and the operator; the machine
decides; the effects go to the reconciler, charon, XFRM and the hold queue. Nothing is decided
here.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

from orchestrator import __version__
from orchestrator.adapters.clock import Clock, awake
from orchestrator.adapters.nl80211 import Radios, is_radio
from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.statefile import StateFile
from orchestrator.adapters.xfrm import Monitor, Xfrm
from orchestrator.config.endpoint import EndpointConfig
from orchestrator.core.endpoint_state import (
    EndpointState,
    endpoint_objects,
    lets_only_probes_out,
)
from orchestrator.core.errors import KernelError
from orchestrator.core.firewall import ECHOING, HIDDEN_ECHOES
from orchestrator.core.ike import Tunnel
from orchestrator.core.kernel import MARK_PROBE, MARK_TO_SENDERS, TUN_ENDPOINT
from orchestrator.core.lookups import Lookups
from orchestrator.core.metric import Metric
from orchestrator.core.mobility import Mobility
from orchestrator.core.mobility_events import (
    Abandon,
    Apply,
    Bury,
    Effect,
    Event,
    HideEchoes,
    LookAtTraffic,
    MaySleep,
    MoveTunnel,
    Negotiate,
    NetworkChanged,
    ProbeAnswered,
    ProbeTooLarge,
    Release,
    RememberVips,
    RestartSenders,
    RoamRequested,
    SendProbe,
    ServersKnown,
    Started,
    State,
    Tell,
    Terminate,
    Tick,
    TrafficStirs,
    WatchTraffic,
)
from orchestrator.core.portal_events import AskPortal, CloseWay, OpenWay
from orchestrator.core.quantities import Instant, IPAddress, Seconds
from orchestrator.services.associations import Associations
from orchestrator.services.copies import Copies
from orchestrator.services.driver import Driver
from orchestrator.services.endpoint_metrics import DURATIONS, endpoint_metrics
from orchestrator.services.flow_report import flow_report
from orchestrator.services.freezer import ANSWER, LOOK, Freezer
from orchestrator.services.freezer import FILE as FROZEN_FILE
from orchestrator.services.hold import Holder
from orchestrator.services.hold_report import all_held_report
from orchestrator.services.journal import Journal
from orchestrator.services.memory import Memory
from orchestrator.services.metrics import (
    daemon_metrics,
    firewall_metrics,
    hold_metrics,
    journal_metrics,
)
from orchestrator.services.names import Names
from orchestrator.services.negotiations import Negotiations
from orchestrator.services.path_report import path_report
from orchestrator.services.portal import SignIn
from orchestrator.services.portal_way import Way
from orchestrator.services.probes import EndpointProbes
from orchestrator.services.reconciler import Aspect, Reconciler
from orchestrator.services.repair import Repair
from orchestrator.services.senders import FRESH, restart_applications, stalled_flows
from orchestrator.services.signals import Signals
from orchestrator.services.sleep import Sleep
from orchestrator.services.tasks import Tasks
from orchestrator.wire.control import NotThisRole, Refused
from orchestrator.wire.netlink_xfrm import StateCounts
from orchestrator.wire.stalled import encode as encode_stalled
from orchestrator.wire.xfrm_structs import Group

SCOPE: Final = "endpoint"
WARNINGS: Final = (State.DETACHED, "failed", "roam-refused", "vip-changed", "portal")
"""Events that are told as such."""


class Endpoint:
    """One running endpoint; `Administered` for the control socket."""

    def __init__(
        self,
        config: EndpointConfig,
        statefile: StateFile,
        rtnetlink: Rtnetlink,
        xfrm: Xfrm,
        clock: Clock,
    ) -> None:
        self.config = config
        self._now = clock.now
        self.journal = Journal()
        self._rtnetlink = rtnetlink
        self._xfrm = xfrm
        self._memory = Memory(statefile, self.journal)
        server, remembered = config.server, self._memory.names
        lookups = Lookups(server.addresses, server.names, config.links.choice, remembered)
        policy = config.mobility_policy(lookups.servers.everywhere)
        self._machine = Mobility(policy, self._memory.first_flip)
        self._driver: Driver[Event, Effect] = Driver(
            self._machine, self._execute, Tick(), self._now
        )
        self._negotiations = Negotiations(config, self._driver.post, self.journal)
        self._associations = Associations(config, xfrm)
        self._reconciler = Reconciler(rtnetlink, xfrm, config.state.directory, self.journal)
        self._probes = EndpointProbes(self._answered, self._copied, self.journal)
        self._copies = Copies(
            lambda _: self._copy_marks,
            self._probes.send_beside,
            lambda packet: self._holder.to_sender(packet),
            lambda header: header.destination,
            clock.now,
            self.journal,
        )
        self._copy_marks: tuple[int, ...] = ()
        self._flowing = False
        """Whether the kernel's policies, not only our decisions, let the traffic out."""
        self._stands_since = Instant(0.0)
        """When they ceased to. Before our start: what waits has waited for long."""
        self._returns = 0
        """How often a path has."""
        self._holder = Holder(
            lambda packet: packet.source,
            lambda _: self._flowing,
            lambda _: config.hold.policy,
            awake,
            self.journal,
            MARK_TO_SENDERS,
            divert=self._copies.takes,
        )
        record = config.control.socket.with_name(FROZEN_FILE)
        self._freezer = Freezer(record, lambda: self._machine.vips, self.journal)
        self._sign_in = SignIn(config.portal, self._machine, self._driver, self.journal)
        self._tasks = Tasks()
        self._repair = Repair(self._reconciler, self.journal)
        self._counting = Monitor(())
        self._sleep = Sleep(
            self._driver.post,
            self._holder.slept,
            rtnetlink.snapshot,
            clock.wakes,
            self.journal,
        )
        self._names = Names(
            lookups,
            lambda servers: self._driver.post_latest(ServersKnown(servers)),
            lambda: self._machine.state is State.ATTACHED,
            self._now,
            self._memory,
            self.journal,
        )
        self._signals = Signals(Radios(), is_radio, self._driver.post, self._tasks)
        self._started_at = self._now()

    async def run(self) -> None:
        """Works until cancelled; leaves everything in the kernel as it is."""
        found = await self._reconciler.adopt()
        vips = self._machine.vips or self._memory.vips
        at_rest = EndpointState(self._machine.policy.inner, vips)
        await self._reconciler.establish(SCOPE, endpoint_objects(at_rest))
        snapshot = await self._rtnetlink.snapshot()
        adopted = self._associations.adoptable(found)
        doubted = lets_only_probes_out(found)
        await self._driver.handle(Started(snapshot, self._memory.vips, adopted, doubted))
        self._holder.start(self._reconciler.tun(TUN_ENDPOINT))
        self._reconciler.reader = self._holder
        # What a predecessor wanted otherwise is in nobody's scope.
        self._repair.touched(Aspect.ALL)
        monitor = Monitor((Group.POLICY,), besides=self._xfrm)
        loop = asyncio.get_running_loop()
        loop.add_reader(monitor.fileno(), self._repair.watch_xfrm, monitor)
        loop.add_reader(self._counting.fileno(), self._stirred)
        try:
            async with self._tasks as tasks:
                tasks.begin(self._driver.run(), "driver")
                tasks.begin(self._watch_network(), "network")
                tasks.begin(self._sleep.watch_clock(), "clock")
                tasks.begin(self._sleep.watch_logind(), "logind")
                tasks.begin(self._repair.run(), "repair")
                tasks.begin(self._reconciler.sweep(), "sweep")
                tasks.begin(self._repair.watch_firewall(), "firewall")
                tasks.begin(self._freezer.run(), "freezer")
                tasks.begin(self._names.run(), "names")
                tasks.begin(self._negotiations.follow(), "charon")
        finally:
            loop.remove_reader(monitor.fileno())
            monitor.close()
            loop.remove_reader(self._counting.fileno())
            self._counting.close()
            self._holder.stop()
            self._probes.close()
            await self._signals.close()
            self._reconciler.close()

    # News

    async def _watch_network(self) -> None:
        async for news in self._rtnetlink.watch():
            if news.ours_touched:
                self._repair.touched(Aspect.ROUTING)
            self._reconciler.doubt_routes()
            self._driver.post_latest(NetworkChanged(news.snapshot))
            self._names.network(news.snapshot, self._machine.vips)

    def _answered(self, answer: ProbeAnswered) -> None:
        self.journal.count("path-probe-answered")
        self._driver.post(answer)

    def _stirred(self) -> None:
        """SAs count packets. What was told before we ceased to listen comes as well."""
        news = self._counting.read()
        spis = frozenset(each.spi for each in news if isinstance(each, StateCounts))
        if spis:
            self._driver.post(TrafficStirs(spis))

    def _copied(self, vip: IPAddress, octets: bytes) -> None:
        self._copies.received(vip, octets)

    # Acts

    async def _execute(  # noqa: C901 - one row per effect: the table is the point
        self, effect: Effect
    ) -> Event | None:
        match effect:
            case Apply(state):
                await self._apply(state)
            case MoveTunnel():
                return self._associations.move(effect)
            case SendProbe():
                self.journal.count("path-probe-sent")
                self._signals.look({path.link_name: path.link for path in self._machine.paths})
                if not self._probes.send(effect):
                    return ProbeTooLarge(effect.sequence)
            case LookAtTraffic(tunnel):
                return self._associations.traffic(tunnel)
            case WatchTraffic(on):
                with contextlib.suppress(KernelError):  # it is looked at with each probe, too
                    self._counting.hear(Group.AEVENTS, on=on)
            case MaySleep():
                self._sleep.may_sleep()
            case Release():
                self._release()
            case RestartSenders():
                self._tasks.begin(self._tell_stalled(), "tell of stalled flows")
            case HideEchoes(hide):
                self._tasks.begin(self._hide_echoes(hide=hide), "hide echoes")
            case Negotiate():
                self._tasks.begin(self._negotiations.negotiate(effect), effect.connection)
            case Abandon(connection):
                giving_up = self._negotiations.abandon(connection)
                self._tasks.begin(giving_up, f"abandon {connection}")
            case Terminate(tunnel):
                self._tasks.begin(self._terminate(tunnel), f"terminate {tunnel.ike}")
            case Bury(tunnel):
                self._associations.bury(tunnel)
            case RememberVips(vips):
                self._memory.keep(vips)
            case AskPortal() | OpenWay() | CloseWay():
                self._sign_in.carry_out(effect, self._tasks)
            case Tell():
                self._tell(effect)
        return None

    async def _apply(self, state: EndpointState) -> None:
        flowed, self._flowing = self._flowing, False
        if flowed and state.active is None:
            self._stands_since = self._now()
        await self._reconciler.apply(SCOPE, endpoint_objects(state))
        self._flowing = state.active is not None
        self._copy_marks = tuple(sorted({MARK_PROBE | slot for _, slot in state.copied}))
        if not self._flowing and self.config.hold.freeze:
            self._freezer.freeze()
        self._probes.bind(state.vips)
        self._copies.keep(state.vips)
        self._holder.hold(SCOPE, state.vips)
        if flowed and self._flowing:
            self._holder.release(state.vips)  # what was leaving has stopped meanwhile

    def _release(self) -> None:
        vips = self._machine.vips
        # Right after a roam a look at all sockets would take longer than the roam.
        stood = self._now() - self._stands_since
        restarted = restart_applications(self._holder, vips) if stood >= FRESH else 0
        packets = self._holder.release(vips)
        if packets or restarted:
            fields = {"packets": packets, "resumed": restarted}
            self.journal.tell("released", fields=fields)

    async def _hide_echoes(self, *, hide: bool) -> None:
        try:
            await self._reconciler.fill(HIDDEN_ECHOES, ECHOING if hide else ())
        except KernelError as error:
            # Senders restart more slowly, or measure less.
            self.journal.tell("echoes-as-they-are", fields={"detail": str(error)}, warning=True)

    async def _tell_stalled(self) -> None:
        """Senders that backed off before anything was held wait for their timers, though the
        path is back: what they sent was lost on its way. The server knows where they stand."""
        self._returns += 1
        this = self._returns
        for pause in (ANSWER, LOOK):
            await asyncio.sleep(pause)
            if this != self._returns:
                return  # where the path flaps, the last one sees to it
            stalled = await asyncio.to_thread(stalled_flows, self._machine.vips)
            if not stalled or not self._flowing:
                return
            for vip, flows in stalled:
                self._probes.send_beside(vip, encode_stalled(flows))

    async def _terminate(self, tunnel: Tunnel) -> None:
        """charon deletes the IKE_SA; SAs that were moved, perhaps by a predecessor, are neither
        where it looks for them nor where it says."""
        await self._negotiations.terminate(tunnel)
        self._associations.bury(tunnel)

    def _tell(self, effect: Tell) -> None:
        if effect.what == State.ATTACHED:
            self._freezer.thaw()
            self._memory.catch_up()
        elif effect.what == State.DETACHED:
            self._names.look_again()
        warning = effect.what in WARNINGS
        path = str(effect.path) if effect.path else None
        fields = {"path": path, **(effect.fields or {})}
        self.journal.tell(effect.what, effect.reasons, fields, warning=warning)

    # What people ask (Administered)

    def status(self) -> dict[str, object]:
        machine, now = self._machine, self._now()
        active = machine.active_path
        return {
            "role": "endpoint",
            "version": __version__,
            "state": str(machine.state),
            "reasons": sorted(machine.reasons),
            "since_s": round(now - machine.since, 3),
            "uptime_s": round(now - self._started_at, 3),
            "identity": self.config.identity,
            "vip": [str(vip) for vip in machine.vips],
            "active_path": path_report(machine, active, now) if active else None,
            "flows": flow_report(machine),
            "charon": f"strongSwan {machine.charon}" if machine.charon else "absent",
            "held": all_held_report(self._holder.held(), self._holder.total),
            "frozen": self._freezer.lifted,
            "portal_way": self._sign_in.report(now),
            "roams": machine.roams,
            "repairs": self._reconciler.repairs,
            "warnings": self._warnings(),
            "counters": dict(self.journal.counters),
        }

    def paths(self) -> list[dict[str, object]]:
        machine, now = self._machine, self._now()
        return [path_report(machine, path, now) for path in machine.paths]

    def sessions(self) -> list[dict[str, object]]:
        raise NotThisRole("sessions are the server's: ask `orchestrator status` here")

    def flows(self) -> list[dict[str, object]]:
        raise NotThisRole("flows are proxied at the server: ask there")

    async def metrics(self) -> tuple[Metric, ...]:
        machine, now = self._machine, self._now()
        uptime, waiting = Seconds(now - self._started_at), self._driver.waiting
        return (
            *daemon_metrics("endpoint", uptime, machine.charon, waiting, self._reconciler),
            *endpoint_metrics(machine, now, self._freezer.lifted),
            *self._sign_in.metrics(),
            *journal_metrics(self.journal, DURATIONS),
            *hold_metrics(self._holder),
            *await firewall_metrics(),
        )

    async def roam(self, link: str | None) -> dict[str, object]:
        """Asks the machine; says what it decided, not yet what came of it."""
        told = [
            effect
            for effect in await self._driver.handle(RoamRequested(link))
            if isinstance(effect, Tell)
        ]
        refused = next((tell for tell in told if tell.what == "roam-refused"), None)
        if refused is not None:
            names = sorted({path.link_name for path in self._machine.paths})
            raise Refused(
                f"no usable path over {link}",
                f"choose one of: {', '.join(names)}" if names else "no link is usable now",
            )
        return {"asked": link, "state": str(self._machine.state)}

    def portal(self, link: str | None) -> AbstractAsyncContextManager[Way]:
        return self._sign_in.way(link)

    def reload(self) -> object:
        raise Refused(
            "an endpoint takes its configuration when it starts",
            "restart it: connections go on",
        )

    def replace_proxy(self) -> object:
        raise NotThisRole("the proxy is the server's: ask there")

    def events(self) -> AsyncIterator[Mapping[str, object]]:
        return self.journal.watch()

    def _warnings(self) -> list[str]:
        found = [str(error) for error in self._reconciler.failures]
        if self._machine.charon is None:
            found.append(
                f"charon does not answer at {self.config.charon.socket}: start strongSwan; "
                "until then a roam cannot renew its keys"
            )
        if self._memory.problem is not None:
            found.append(self._memory.problem)
        return found + self._sign_in.warnings()
