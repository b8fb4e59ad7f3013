"""The worker as a process: who starts it, who may die beside it, and how it ends."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.flows import FlowEnded, FlowEvent, FlowOpened, ProxyCounters
from orchestrator.services.proxy_client import ProxyClient, ProxyLost, start_worker
from orchestrator.services.server_metrics import proxy_metrics
from tests.kernel.proxy.conftest import Proxied
from tests.kernel.proxy.lan import (
    PATIENCE,
    PEER,
    SETTINGS,
    VIP,
    Lan,
    alive,
    limited,
    pair,
    serve,
    transfer,
    until,
    worker,
    worker_command,
)

MIB = 1 << 20

DAEMON = """
import asyncio, sys
from pathlib import Path
from orchestrator.services.proxy_client import ProxyClient
from tests.kernel.proxy.lan import SETTINGS

async def main():
    client = await ProxyClient.connect_or_start(Path(sys.argv[1]))
    await client.configure(SETTINGS)
    print(client.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def daemon(lan: Lan, path: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Starts or finds the worker as the server daemon does; the process, the worker's pid."""
    with lan.server.entered():
        process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, str(path)], stdout=subprocess.PIPE, text=True
        )
    with process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def end(path: Path, pid: int) -> None:
    async def stop() -> None:
        async with await ProxyClient.connect(path) as client:
            await client.stop()

    asyncio.run(stop())
    until(lambda: not alive(pid))


def test_connections_outlive_the_daemon_and_the_next_one_finds_them(
    lan: Lan, tmp_path: Path
) -> None:
    lan.load()
    path = tmp_path / "proxy.sock"
    with daemon(lan, path) as (first, pid):
        with serve(lan.peer, PEER[4]) as listener:
            made = pair(lan.endpoint, listener, VIP[4])
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    transfer(made.near, made.far, MIB)
    with daemon(lan, path) as (_second, found):
        assert found == pid
        transfer(made.far, made.near, MIB)
    made.close()
    end(path, pid)


def test_a_started_worker_belongs_to_nobody(lan: Lan, tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    with daemon(lan, path) as (process, pid):
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        parent, group, session = (int(field) for field in status[1:4])
        assert parent != process.pid
        assert group == session != os.getsid(0)
    end(path, pid)


def test_a_second_worker_on_the_same_socket_is_refused(proxied: Proxied) -> None:
    second = subprocess.run(
        worker_command(proxied.path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert second.returncode == 3
    assert "another worker serves" in second.stderr
    with pytest.raises(ProxyLost, match="another worker serves"):
        asyncio.run(start_worker(proxied.path, proxied.path.with_suffix(".log")))
    assert proxied.counters().open == 0


def test_a_worker_replaces_one_that_was_killed(lan: Lan, tmp_path: Path) -> None:
    lan.load()
    path = tmp_path / "proxy.sock"
    with worker(lan.server, path) as first:
        first.kill()
        first.wait()
        assert path.exists()
        with worker(lan.server, path) as second:
            proxied = Proxied(lan, path, second.pid)
            proxied.configure(SETTINGS)
            with serve(lan.peer, PEER[4]) as listener:
                made = pair(lan.endpoint, listener, VIP[4])
                transfer(made.near, made.far, MIB)
                made.close()


def test_leaves_no_file_behind(lan: Lan, tmp_path: Path) -> None:
    with worker(lan.server, tmp_path / "proxy.sock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_served_is_said(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "proxy.sock"
    with pytest.raises(ProxyLost, match=r"did not start: .*No such file"):
        asyncio.run(start_worker(path, tmp_path / "log"))


def test_a_port_that_is_taken_is_said_and_the_old_settings_hold(proxied: Proxied) -> None:
    ports = SETTINGS.ports
    with (
        serve(proxied.lan.server, "127.0.0.1", 2000),
        pytest.raises(ProxyLost, match=r"listen on 127\.0\.0\.1 port 2000"),
    ):
        proxied.configure(limited(ports=type(ports)(2000, 2001)))
    with serve(proxied.lan.peer, PEER[4]) as listener:
        made = pair(proxied.lan.endpoint, listener, VIP[4])
        transfer(made.near, made.far, MIB)
        made.close()


def test_a_worker_that_is_stopped_resets_its_flows(own_proxied: Proxied) -> None:
    with serve(own_proxied.lan.peer, PEER[4]) as listener:
        made = pair(own_proxied.lan.endpoint, listener, VIP[4])
        assert own_proxied.ask(lambda client: client.stop()) == 1
        for end in (made.near, made.far):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        made.close()
    until(lambda: not alive(own_proxied.pid))


def test_a_worker_without_proxy_means_that_tcp_waits_and_is_counted(lan: Lan) -> None:
    """No segment of a VIP passes by the proxy: peers would reset what they do not know."""
    lan.load()
    with serve(lan.peer, PEER[4]) as listener, lan.endpoint.entered():
        begun = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import socket; socket.create_connection({listener.getsockname()!r})",
            ]
        )
        try:
            until(lambda: "packets 1 " in counter(lan, "unproxied_tcp"))
            listener.settimeout(0.1)
            with pytest.raises(TimeoutError):
                listener.accept()
        finally:
            begun.kill()
            begun.wait()


def counter(lan: Lan, name: str) -> str:
    return lan.server.run(f"nft list counter inet orchestrator {name}")


def test_its_counters_are_metrics(own_proxied: Proxied) -> None:
    with serve(own_proxied.lan.peer, PEER[4]) as listener:
        made = pair(own_proxied.lan.endpoint, listener, VIP[4])
    transfer(made.near, made.far, MIB)

    async def ask() -> ProxyCounters:
        async with await ProxyClient.connect(own_proxied.path) as client:
            return await client.counters()

    now = {
        " ".join((metric.name, *sample.labels.values())): sample.value
        for metric in proxy_metrics(asyncio.run(ask()))
        for sample in metric.samples
    }
    assert (now["proxy_up"], now["proxy_flows"], now["proxy_flows_accepted"]) == (1, 1, 1)
    assert (now["proxy_bytes to-peer"], now["proxy_bytes to-endpoint"]) == (MIB, 0)
    assert (now["proxy_flows_refused vip-full"], now["proxy_watchers_lost"]) == (0, 0)
    assert now["proxy_queued_limit_bytes"] == SETTINGS.octets
    assert (now["proxy_queued_met session"], now["proxy_spooled_limit_bytes"]) == (0, 0)
    made.close()


def test_flows_are_told_to_who_watches(proxied: Proxied) -> None:
    async def story() -> list[FlowEvent]:
        async with await ProxyClient.connect(proxied.path) as watcher:
            events = await watcher.watch()

            async def hear() -> FlowEvent:
                return await anext(events)

            first = asyncio.create_task(hear(), name="first event")
            with serve(proxied.lan.peer, PEER[4]) as listener:
                while not first.done():  # the first may come before we watch
                    made = await asyncio.to_thread(pair, proxied.lan.endpoint, listener, VIP[4])
                    made.close()
            heard = [await first, await hear()]
            await events.aclose()
        return heard

    one, other = asyncio.run(story())
    assert isinstance(one, FlowOpened | FlowEnded)
    assert isinstance(other, FlowOpened | FlowEnded)
    assert str(one.record.vip.host) == VIP[4]
    assert str(one.record.peer.host) == PEER[4]
