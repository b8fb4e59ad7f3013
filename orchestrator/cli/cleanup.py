"""Removes every trace of the daemons, from cold; twice is fine.

No daemon may run meanwhile: it would put everything back. Leases and the endpoint's remembered
address stay: with them the next start goes on with the same addresses. So do private keys and
certificates in charon's memory, until it ends: they have no name that says whose they are.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.adapters.applications import restore
from orchestrator.adapters.charon import Charon
from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.cli.client import ask
from orchestrator.cli.outcome import Exit, Failure
from orchestrator.core.attempts import CONNECTION_PREFIX
from orchestrator.core.errors import CharonError, OrchestratorError
from orchestrator.core.ike import Tunnel
from orchestrator.core.kernel import ENDPOINT_REQID
from orchestrator.core.quantities import Spi
from orchestrator.faces.lock import AlreadyRunning, DaemonLock
from orchestrator.services import credentials
from orchestrator.services.freezer import FILE as FROZEN
from orchestrator.services.freezer import lifted_limits
from orchestrator.services.journal import Journal
from orchestrator.services.leased import FREE, LEASED, NEWCOMERS
from orchestrator.services.proxy_client import ProxyClient, ProxyLost
from orchestrator.services.proxy_link import SOCKET as PROXY_SOCKET
from orchestrator.services.reconciler import Reconciler
from orchestrator.wire.control import Request, Verb

STOP_LIMIT: Final = 10.0
"""Seconds for a process to end after it was asked to; it takes a fraction of one."""
POLL: Final = 0.05
"""Seconds between two looks whether it has ended: a lock tells nobody that it is free."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the daemon that is to be cleaned up after had its things."""

    socket: Path
    state: Path
    charon: Path


@dataclass(frozen=True, slots=True)
class Cleaned:
    operations: list[str]
    """What was done, or in a dry run would be, as sentences."""
    refusal: str | None = None
    """Why it would not be done; None: it would."""


def clean_up(places: Places, *, dry_run: bool, stop: bool) -> Cleaned:
    """Raises Failure."""
    try:
        if dry_run:
            running = DaemonLock(places.socket).holder()
            operations = asyncio.run(_remove(places, dry_run=True))
            if running is None or stop:
                return Cleaned([*_stopped(running), *operations])
            return Cleaned(operations, f"{running}; without --stop nothing would be done")
        with _alone(places.socket, stop=stop) as (lock, stopped):
            operations = asyncio.run(_remove(places, dry_run=False))
            lock.delete()
            return Cleaned([*_stopped(stopped), *operations])
    except OrchestratorError as error:
        raise Failure(str(error), error.remedy) from error


def _stopped(running: AlreadyRunning | None) -> list[str]:
    return [] if running is None else [f"stop the daemon, process {running.pid}"]


@contextmanager
def _alone(socket: Path, *, stop: bool) -> Iterator[tuple[DaemonLock, AlreadyRunning | None]]:
    """With the lock that a running daemon would have, and the one that was stopped for it."""
    lock = DaemonLock(socket)
    stopped: AlreadyRunning | None = None
    try:
        lock.__enter__()
    except AlreadyRunning as running:
        if not stop:
            raise Failure(str(running), f"{running.remedy}; or add --stop") from running
        try:
            ask(socket, Request(Verb.STOP))
        except Failure as failure:
            # It starts or ends just now, or is another cleanup: its lock will tell.
            if failure.code is not Exit.NOT_RUNNING:
                raise
        _wait_for(lock)
        stopped = running
    try:
        yield lock, stopped
    finally:
        lock.__exit__(None, None, None)


def _wait_for(lock: DaemonLock) -> None:
    end = time.monotonic() + STOP_LIMIT
    while True:
        try:
            lock.__enter__()
        except AlreadyRunning as running:
            if time.monotonic() > end:
                raise Failure(
                    f"{running}, and does not stop", f"kill it: kill {running.pid}"
                ) from running
            time.sleep(POLL)  # noqa: TID251  there is no event to wait for
        else:
            return


async def _remove(places: Places, *, dry_run: bool) -> list[str]:
    """Connections first, then what protects them: nothing is left to leak when that goes."""
    done = await _stop_proxy(places.socket.with_name(PROXY_SOCKET), dry_run=dry_run)
    owned, sentences = await _forget_tunnels(Charon(places.charon), dry_run=dry_run)
    done += sentences
    async with Rtnetlink() as rtnetlink:
        with Xfrm() as xfrm:
            done += _drop_states(xfrm, owned, dry_run=dry_run)
            reconciler = Reconciler(rtnetlink, xfrm, places.state, Journal())
            with contextlib.closing(reconciler):
                done += await reconciler.remove_everything(dry_run=dry_run)
    done += _thaw(places.socket.with_name(FROZEN), dry_run=dry_run)
    return done + _delete(_runtime_files(places.socket), dry_run=dry_run)


def _runtime_files(socket: Path) -> tuple[Path, ...]:
    """What both processes make; all but logs they remove themselves, unless they are killed."""
    proxy = socket.with_name(PROXY_SOCKET)
    lock = proxy.with_name(f"{proxy.name}.lock")
    return (socket, proxy, lock, proxy.with_suffix(".log"), socket.with_name(FROZEN))


async def _stop_proxy(socket: Path, *, dry_run: bool) -> list[str]:
    """The proxy worker outlives its daemon, on purpose."""
    try:
        async with await ProxyClient.connect(socket) as proxy:
            if not dry_run:
                await proxy.stop()
                await _ended(proxy.pid)
            return [f"stop the proxy worker, process {proxy.pid}"]
    except ProxyLost:
        return []


async def _ended(pid: int) -> None:
    """Waits for the end of a process that was told to. Raises Failure."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(process, ended.set)
    try:
        async with asyncio.timeout(STOP_LIMIT):
            await ended.wait()
    except TimeoutError as error:
        raise Failure(f"process {pid} does not stop", f"kill it: kill {pid}") from error
    finally:
        loop.remove_reader(process)
        os.close(process)


async def _forget_tunnels(charon: Charon, *, dry_run: bool) -> tuple[set[Spi], list[str]]:
    """Deletes our IKE_SAs, connections, pools and pre-shared keys in charon; returns the SPIs
    of what it still has."""
    try:
        tunnels = await charon.tunnels()
        connections = [name for name in await charon.connections() if _ours(name)]
        pools = [name for name in await charon.pools() if name.startswith(FREE)]
        secrets = [name for name in await charon.shared() if credentials.is_ours(name)]
        gone = [tunnel for tunnel in tunnels if _ours(tunnel.connection)]
        if not dry_run:
            for tunnel in gone:
                await charon.terminate(tunnel.ike)
            for name in connections:
                await charon.unload_connection(name)
            for name in pools:
                await charon.unload_pool(name)
            for name in secrets:
                await charon.unload_shared(name)
    except (CharonError, TimeoutError):
        return set(), []
    sentences = [f"delete the IKE_SA {tunnel.ike} with {tunnel.remote_id}" for tunnel in gone]
    sentences += [f"unload the connection {name} from charon" for name in connections]
    sentences += [f"unload the pool {name} from charon" for name in pools]
    sentences += [f"unload the pre-shared key {name} from charon" for name in secrets]
    return _spis(tunnel for tunnel in tunnels if tunnel not in gone), sentences


def _ours(connection: str) -> bool:
    return connection == NEWCOMERS or connection.startswith((LEASED, CONNECTION_PREFIX))


def _spis(tunnels: Iterable[Tunnel]) -> set[Spi]:
    return {spi for tunnel in tunnels for spi in (tunnel.spi_in, tunnel.spi_out)}


def _drop_states(xfrm: Xfrm, owned: set[Spi], *, dry_run: bool) -> list[str]:
    """SAs with the endpoint's reqid that charon has forgotten, or that were moved under it."""
    done: list[str] = []
    for state in xfrm.states(ENDPOINT_REQID):
        if state.spi not in owned:
            done.append(f"drop the SA {state.spi:08x} to {state.destination}")
            if not dry_run:
                xfrm.drop_state(state.destination, state.spi, state.mark)
    return done


def _thaw(record: Path, *, dry_run: bool) -> list[str]:
    """Puts the limits of applications' sockets back that a killed daemon had lifted."""
    limits = lifted_limits(record)
    if limits and not dry_run:
        restore(limits)
    return [f"put back the time limits of {len(limits)} connections"] if limits else []


def _delete(files: Iterable[Path], *, dry_run: bool) -> list[str]:
    done: list[str] = []
    for path in files:
        if path.exists():
            done.append(f"delete {path}")
            if not dry_run:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
    return done
