"""The way to sign in, and asking, between a device and an access network in a real kernel.

The device's command is a process of its own, as for a user; the daemon's side runs here.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn

import pytest

from orchestrator.config.common import Control
from orchestrator.config.endpoint import Portal
from orchestrator.config.values import http_url
from orchestrator.core.metric import Metric
from orchestrator.core.paths import Path as Road
from orchestrator.core.portal_events import AskPortal, Finding, OpenWay, PortalReason
from orchestrator.core.quantities import LinkIndex, Seconds
from orchestrator.faces.control import ControlServer
from orchestrator.services import portal_probe
from orchestrator.services.portal_way import Carried, Way
from orchestrator.wire.control import Refused
from tests.kernel.access import (
    ANSWER,
    GATEWAY,
    GATEWAY6,
    PAGE,
    PAGE6,
    PATIENCE,
    POP,
    POP6,
    Network,
    attached,
)
from tests.kernel.netns import Namespace
from tests.unit.faces.waiting import until

VIP = ip_address("10.99.0.7")
GROUP = "daemon"
NOBODY = "65534"


@pytest.fixture
def network(
    network_namespace: Namespace, make_namespace: Callable[[], Namespace]
) -> Iterator[Network]:
    """The test runs on a device with one link, and a virtual address that leads nowhere."""
    network_namespace.ip(f"addr add {VIP}/32 dev lo")
    with attached(network_namespace, make_namespace) as made:
        yield made


def road(version: int = 4) -> Road:
    pop, gateway = (POP, GATEWAY) if version == 4 else (POP6, GATEWAY6)
    server = ip_address("203.0.113.10" if version == 4 else "2001:db8:113::10")
    index = LinkIndex(socket.if_nametoindex("wlan0"))
    return Road(index, "wlan0", ip_address(pop), ip_address(gateway), server)


class Daemon:
    """As much of one as opens ways; `way` is the latest."""

    def __init__(self, versions: Sequence[int] = (4,)) -> None:
        self.versions = versions
        self.carried = Carried()
        self.way: Way | None = None
        self.left = asyncio.Event()

    @contextlib.asynccontextmanager
    async def portal(self, link: str | None) -> AsyncIterator[Way]:
        order = OpenWay(1, tuple(map(road, self.versions)), Seconds(60.0))
        self.way = Way(order, (80, 443), lambda: (VIP,), self.carried)
        self.way.look_names_up_at(())
        try:
            yield self.way
        finally:
            self.left.set()

    def status(self) -> NoReturn:
        raise Refused("not here")

    paths = sessions = flows = reload = replace_proxy = status

    async def metrics(self) -> tuple[Metric, ...]:
        return ()

    def roam(self, link: str | None) -> NoReturn:
        raise Refused("not here")

    def events(self) -> AsyncIterator[Mapping[str, object]]:
        raise Refused("not here")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """One that other users can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.asynccontextmanager
async def serving(
    group: str | None = None, versions: Sequence[int] = (4,)
) -> AsyncIterator[tuple[Daemon, Path]]:
    with _folder() as folder:
        control, daemon = Control(folder / "control.sock", group), Daemon(versions)
        async with ControlServer(control, daemon):
            yield daemon, control.socket


async def run(
    control: Path, *program: str, become: tuple[str, ...] = ()
) -> "tuple[int | None, str, str]":
    """`orchestrator portal -- PROGRAM`: exit code and what was said."""
    ours = (sys.executable, "-m", "orchestrator", "portal", "--socket", str(control), "--")
    process = await asyncio.create_subprocess_exec(
        *become, *ours, *program, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        said, talk = await process.communicate()
    return process.returncode, said.decode(), talk.decode()


CURL = ("curl", "--silent", "--show-error", "--max-time", "10", "--noproxy", "*")


def test_the_program_reaches_a_page_and_others_go_where_they_went(network: Network) -> None:
    async def story() -> None:
        async with serving() as (daemon, control):
            code, said, talk = await run(control, *CURL, f"http://{PAGE}/sign-in")
            assert (code, said) == (0, f"{POP} /sign-in"), talk
            assert "wlan0 is open to curl for 1m" in talk
            await daemon.left.wait()
            assert (daemon.carried.connections, daemon.carried.refused) == (1, 0)

    asyncio.run(story())


@pytest.mark.parametrize("versions", [(6,), (4, 6)])
def test_by_ipv6_too_where_the_network_has_it(
    network: Network, versions: tuple[int, ...]
) -> None:
    async def story() -> None:
        async with serving(versions=versions) as (_, control):
            code, said, talk = await run(control, *CURL, f"http://[{PAGE6}]/sign-in")
            assert (code, said) == (0, f"{POP6} /sign-in"), talk
            code, said, _ = await run(control, *CURL, f"http://{PAGE}/sign-in")
            assert said == (f"{POP} /sign-in" if 4 in versions else "")

    asyncio.run(story())


ELSEWHERE = (f"{PAGE}:81", f"{VIP}", f"{POP}", "127.0.0.1", f"[{PAGE6}]")


@pytest.mark.parametrize("url", [f"http://{authority}/" for authority in ELSEWHERE])
def test_it_reaches_nothing_else(network: Network, url: str) -> None:
    async def story() -> None:
        async with serving() as (_, control):
            code, said, talk = await run(control, *CURL, url)
            assert (code, said) == (1, ""), talk

    asyncio.run(story())


LOOK_UP = f"""
import socket
from pathlib import Path
assert Path("/etc/resolv.conf").read_text() == "nameserver 127.0.0.1\\n"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
    asker.settimeout(10)
    asker.connect(("127.0.0.1", 53))
    asker.send(b"7!who is it?")
    assert asker.recv(4096) == b"7!" + {ANSWER!r}
"""


def test_names_are_asked_of_that_network(network: Network) -> None:
    before = Path("/etc/resolv.conf").read_text()

    async def story() -> None:
        async with serving() as (daemon, control):
            code, _, talk = await run(control, sys.executable, "-c", LOOK_UP)
            assert code == 0, talk
            assert daemon.carried.queries == 1

    asyncio.run(story())
    assert network.asked == [b"7!who is it?"]
    assert Path("/etc/resolv.conf").read_text() == before, "the host's own is as it was"


def test_closing_ends_what_is_open_and_tells(network: Network) -> None:
    async def story() -> None:
        async with serving() as (daemon, control):
            url = f"http://{PAGE}/endless"
            program = asyncio.create_task(run(control, *CURL, "--output", "/dev/null", url))
            async with asyncio.timeout(PATIENCE):
                await until(lambda: daemon.carried.octets)
            assert daemon.way is not None
            daemon.way.close(PortalReason.TUNNEL_UP)
            code, _, talk = await program
            assert code == 1
            assert "closed (tunnel-up)" in talk

    asyncio.run(story())


def test_it_ends_with_the_daemon(network: Network) -> None:
    async def story() -> None:
        async with serving() as (daemon, control):
            url = f"http://{PAGE}/endless"
            program = asyncio.create_task(run(control, *CURL, "--output", "/dev/null", url))
            async with asyncio.timeout(PATIENCE):
                await until(lambda: daemon.carried.octets)
        code, _, talk = await program
        assert code == 1
        assert "reset by peer" in talk

    asyncio.run(story())


def test_a_user_in_the_group_may_open_it_too(network: Network) -> None:
    become = ("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--groups", "1")
    try:
        subprocess.run([*become, "unshare", "--user", "--net", "true"], check=True)
    except subprocess.CalledProcessError:
        pytest.skip("this kernel lets users make no namespaces")

    async def story() -> None:
        async with serving(GROUP) as (_, control):
            program = (*CURL, f"http://{PAGE}/sign-in")
            code, said, talk = await run(control, *program, become=become)
            assert (code, said) == (0, f"{POP} /sign-in"), talk

    asyncio.run(story())


def find(url: str, **config: Any) -> Finding:
    wanted = Portal(http_url(url), **config)
    return asyncio.run(portal_probe.ask(wanted, AskPortal(1, road()))).finding


def test_asking_finds_a_portal_by_its_status_and_its_content(network: Network) -> None:
    url = f"http://{PAGE}/here"
    assert find(url) is Finding.PORTAL
    assert find(url, status=200) is Finding.OPEN
    assert find(url, status=200, body=f"{POP} /here\n") is Finding.OPEN
    assert find(url, status=200, body="success") is Finding.PORTAL


def test_what_is_not_answered_or_no_http_is_silence(network: Network) -> None:
    assert find(f"http://{PAGE}:82/") is Finding.SILENT
    assert find("http://203.0.113.80/") is Finding.SILENT


def test_an_endless_answer_is_looked_at_for_a_moment(network: Network) -> None:
    assert find(f"http://{PAGE}/endless", status=200) is Finding.OPEN
    assert find(f"http://{PAGE}/endless", status=200, body="success") is Finding.PORTAL


def test_the_command_says_in_json_how_it_ended(network: Network) -> None:
    async def story() -> None:
        async with serving() as (_, control):
            ours = ("-m", "orchestrator", "portal", "--json", "--socket", str(control))
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, *ours, "--", "sh", "-c", "exit 3"],
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
                env={**os.environ},
            )
            assert done.returncode == 1
            ended = {"link": "wlan0", "exit_status": 3, "closed": None}
            assert json.loads(done.stdout) == ended

    asyncio.run(story())
