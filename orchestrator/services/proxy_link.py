"""The server daemon's hold on the connection proxy: keeps one running, configured and asked.

The worker outlives this daemon and is found again; one of another release is replaced, with all
that it has (`proxy_handover`). One that died is replaced too, and what stood at it is said to
be lost, counted from what was heard of each connection. Its absence costs no more than its
flows: the firewall refuses to pass TCP of virtual addresses by, so that senders try again.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

from orchestrator import __version__
from orchestrator.adapters import clock
from orchestrator.config.server import LanSource, Proxy, ServerConfig
from orchestrator.core.firewall import ProxyPorts
from orchestrator.core.flows import (
    FlowOpened,
    FlowRecord,
    FlowRefused,
    Kept,
    ProxyCounters,
    ProxySettings,
    SocketAddress,
    SourcePolicy,
    SpoolSettings,
)
from orchestrator.core.quantities import Instant, IPAddress
from orchestrator.core.standing import Standing
from orchestrator.services.journal import Journal
from orchestrator.services.proxy_client import ProxyClient, ProxyLost, replace_worker
from orchestrator.wire.labels import Flow
from orchestrator.wire.proxy_control import Greeting
from orchestrator.wire.segments import TCP

SOCKET: Final = "proxy.sock"
"""Next to the control socket."""
RESUME_LIMIT: Final = 0.25
"""Seconds; the worker answers between two turns of its flows, some milliseconds."""
ASK_LIMIT: Final = 1.0
"""Seconds that `status` and a scrape wait for what the worker has counted."""
MOST_NAMED: Final = 20
"""Sessions whose lost connections are told one by one: those that lost most."""
PAUSE: Final = 1.0
"""Seconds between two tries to have a worker; starting one takes some 0.2 s."""


def proxy_settings(config: ServerConfig) -> ProxySettings:
    source = SourcePolicy.VIP if config.lan.source is LanSource.VIP else SourcePolicy.SERVER
    return ProxySettings(
        pools=config.vip.pools,
        source=source,
        ports=proxy_ports(config),
        flows_per_vip=config.proxy.flows_per_session,
        flows=config.proxy.flows,
        octets_per_flow=config.proxy.queue_per_flow,
        octets_per_vip=config.proxy.queue_per_session,
        octets=config.proxy.queue_limit,
        spool=spool_settings(config.proxy),
    )


def spool_settings(proxy: Proxy) -> SpoolSettings | None:
    if proxy.spool is None:
        return None
    # The worker stands in another folder.
    directory = str(proxy.spool.absolute())
    return SpoolSettings(
        directory, proxy.spool_per_flow, proxy.spool_per_session, proxy.spool_limit
    )


def proxy_ports(config: ServerConfig) -> ProxyPorts:
    return ProxyPorts(config.proxy.port, config.proxy.port + 1)


class ProxyLink:
    """Runs beside a server daemon's driver. `owner` is whose a virtual address is."""

    def __init__(
        self,
        config: ServerConfig,
        journal: Journal,
        owner: Callable[[IPAddress], str | None],
    ) -> None:
        self.path: Final = config.control.socket.with_name(SOCKET)
        self.settings = proxy_settings(config)
        self._journal = journal
        self._owner = owner
        self._client: ProxyClient | None = None
        self._watcher: ProxyClient | None = None
        self._known: Greeting | None = None
        """of the worker whose flows `_standing` has"""
        self._standing = Standing()
        self._met = False
        """A worker was met, and replaced if it was of another release."""
        self._up = 0
        """pid of the worker that was last told to serve"""
        self.problem: str | None = "the proxy worker is not up yet"

    def status(self) -> dict[str, object] | None:
        """Of the worker that serves; None: there is none."""
        if self._client is None:
            return None
        greeting = self._client.greeting
        taken = greeting.inheritance
        return {
            "pid": greeting.pid,
            "release": greeting.release,
            "took_over": taken.flows if taken is not None else None,
        }

    def warnings(self) -> list[str]:
        if self.problem is not None:
            return [f"{self.problem}; until it is back TCP of endpoints waits"]
        if self._known is not None and self._known.release != __version__:
            releases = f"release {self._known.release}, this daemon {__version__}"
            remedy = "restart the daemon; if it cannot replace the worker, its log says why"
            return [f"the proxy worker runs {releases}: {remedy}"]
        return []

    async def run(self) -> None:
        while True:
            try:
                await self._serve()
                served = True
            except ProxyLost as lost:
                served = self.problem is None
                self.problem = str(lost)
            finally:
                if self._client is not None:
                    self._client.close()
                    self._client = None
            if not served:
                await asyncio.sleep(PAUSE)

    async def _serve(self) -> None:
        """One worker's life, seen from here; ends when it was replaced."""
        client = await self._reach()
        self._client = client
        async with await ProxyClient.connect(self.path) as watcher:
            if watcher.pid != client.pid:
                raise ProxyLost("another proxy worker took over")
            self._watcher = watcher
            events = await watcher.watch()
            self._account(client.greeting, Standing(await client.flows()))
            if await self._replaced_for_its_release(client.greeting):
                return
            await client.configure(self.settings)
            self.problem = None
            self._met = True
            if client.pid != self._up:
                self._up = client.pid
                fields = {"pid": client.pid, "release": client.greeting.release}
                self._journal.tell("proxy", ("worker-up",), fields)
            async for event in events:
                self._standing.note(event)
                if isinstance(event, FlowRefused):
                    self._journal.count("flow-refused")
                elif isinstance(event, FlowOpened):
                    self._journal.count("flow-opened")
                else:
                    self._journal.count("flow-ended")

    async def _reach(self) -> ProxyClient:
        """The worker that is there, or a new one."""
        try:
            return await ProxyClient.connect(self.path)
        except ProxyLost as absent:
            self.problem = str(absent)
            if self._known is not None:
                standing = self._standing
                self._tell_lost(self._known.pid, self.problem, len(standing), standing)
                self._known, self._standing = None, Standing()
                await asyncio.sleep(PAUSE)
        return await ProxyClient.connect_or_start(self.path)

    def _account(self, greeting: Greeting, now: Standing) -> None:
        """What became of the worker that we knew, and of its flows."""
        known, before = self._known, self._standing
        self._known, self._standing = greeting, now
        if known is None or known.pid == greeting.pid:
            return
        inheritance = greeting.inheritance
        if inheritance is None or greeting.first != known.first:
            self._tell_lost(known.pid, "another proxy worker is there", len(before), before)
            return
        fields = {
            "pid": greeting.pid,
            "predecessor": inheritance.predecessor,
            "release": greeting.release,
            "connections": inheritance.flows,
            "elapsed_ms": _milliseconds(inheritance.standstill),
        }
        self._journal.tell("proxy", ("worker-replaced",), fields)
        if lost := greeting.lost - known.lost:
            detail = "it ended while it handed its connections over"
            self._tell_lost(inheritance.predecessor, detail, lost, before.without(now))

    def _tell_lost(self, pid: int, detail: str, count: int, lost: Standing) -> None:
        """`lost` may have some that ended well meanwhile: then nothing is said of sessions."""
        sessions: Counter[str] = Counter()
        for vip, each in lost.by_vip().items():
            sessions[self._owner(vip) or str(vip)] += each
        named = dict(sessions.most_common(MOST_NAMED)) if len(lost) == count else None
        fields = {
            "pid": pid,
            "connections": count,
            "sessions": named,
            "others": count - sum(named.values()) or None if named is not None else None,
            "detail": detail,
        }
        self._journal.tell("proxy", ("worker-lost",), fields, warning=True)

    async def _replaced_for_its_release(self, greeting: Greeting) -> bool:
        """The first worker that is found, if it is of another release, gives way to one of
        ours, if it can."""
        if self._met or greeting.release == __version__:
            return False
        self._met = True
        try:
            await replace_worker(self.path)
        except ProxyLost as refusal:
            fields = {
                "pid": greeting.pid,
                "release": greeting.release,
                "detail": str(refusal),
            }
            self._journal.tell("proxy", ("not-replaced",), fields, warning=True)
            return False
        return True

    async def replace(self) -> dict[str, object]:
        """A new worker, of the program as it is installed now, has every connection.

        Raises ProxyLost, with the reason; then the one before goes on, if it lives.
        """
        if self._client is None:
            raise ProxyLost(self.problem or "the proxy worker is not up yet")
        former = self._client.greeting
        began = clock.now()
        greeting = await replace_worker(self.path)
        inheritance = greeting.inheritance
        if inheritance is None:
            raise ProxyLost("the new proxy worker took nothing over")
        return {
            "connections": inheritance.flows,
            "lost": greeting.lost - former.lost,
            "standstill_ms": _milliseconds(inheritance.standstill),
            "elapsed_ms": _milliseconds(clock.now() - began),
            "pid": greeting.pid,
            "release": greeting.release,
            "former_pid": inheritance.predecessor,
            "former_release": former.release,
        }

    async def resume(self, vips: Sequence[IPAddress]) -> frozenset[Flow]:
        """What waits at the worker for these endpoints goes now.

        The flows, towards them, that send anew what is held. None when there is no worker, or
        it does not answer soon: then what is held is better than nothing.
        """
        if self._client is None:
            return frozenset()
        try:
            async with asyncio.timeout(RESUME_LIMIT):
                pairs = await self._client.resume(vips)
        except (ProxyLost, TimeoutError):
            # What it answers later would be taken for another answer: begin anew.
            if self._watcher is not None:
                self._watcher.close()
            return frozenset()
        return frozenset(
            Flow(TCP, peer.host.packed, peer.port, vip.host.packed, vip.port)
            for peer, vip in pairs
        )

    async def restart(self, flows: Sequence[Flow]) -> None:
        """Their senders, at an endpoint, have backed off: they send anew. Where there is no
        worker, or it does not answer, they do so by themselves some time."""
        if self._client is None:
            return
        pairs = [
            (
                SocketAddress(ip_address(flow.source), flow.source_port),
                SocketAddress(ip_address(flow.destination), flow.port),
            )
            for flow in flows
        ]
        with contextlib.suppress(ProxyLost):
            await self._client.restart(pairs)

    async def end_flows(self, vips: Sequence[IPAddress]) -> int:
        """Resets what the worker has for these addresses; how many flows. Raises ProxyLost."""
        async with await ProxyClient.connect(self.path) as client:
            return await client.end_flows(vips)

    async def flows(self) -> tuple[FlowRecord, ...]:
        """Raises ProxyLost."""
        async with await self._ask() as client:
            return await client.flows()

    async def counters(self) -> ProxyCounters | None:
        """What the worker has counted; None: nobody says so."""
        try:
            async with asyncio.timeout(ASK_LIMIT), await self._ask() as client:
                return await client.counters()
        except (ProxyLost, TimeoutError):
            return None

    async def queued(self) -> dict[str, object] | None:
        """What the worker keeps in all, in memory and on disk; None: nobody says so."""
        counters = await self.counters()
        if counters is None:
            return None
        now = clock.now()
        return {
            "memory": _kept(counters.memory, now),
            "disk": _kept(counters.disk, now)
            | {
                "failures": counters.disk_failures,
                "lost_bytes": counters.disk_lost,
                "problem": counters.disk_problem,
            },
        }

    async def _ask(self) -> ProxyClient:
        """A connection of its own: an answer that comes too late spoils it.

        Raises ProxyLost.
        """
        if self._client is None:
            raise ProxyLost(self.problem or "the proxy worker is not up yet")
        return await ProxyClient.connect(self.path)


def _kept(kept: Kept, now: Instant) -> dict[str, object]:
    return {
        "bytes": kept.octets,
        "limit_bytes": kept.limit,
        "waiting": kept.waiting,
        "waiting_since_s": None if kept.since is None else round(now - kept.since, 3),
        "met": {str(shortage): count for shortage, count in kept.met},
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
