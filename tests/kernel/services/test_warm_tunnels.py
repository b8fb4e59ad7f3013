"""A whole server on one end of a real tunnel: which SA of a session carries which answer.

charon is not there: what it would say of two tunnels of one endpoint is told to the server's
machine, and their SAs are the road's.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.config.server import ServerConfig
from orchestrator.config.toml import load
from orchestrator.core.endpoint_state import SERVICE, SERVICE_PORT
from orchestrator.core.ike import IkeDown, Tunnel
from orchestrator.core.kernel import POLICY_PRIORITY_PROBE
from orchestrator.core.quantities import IPAddress, Spi, UniqueId
from orchestrator.core.session_events import Admitted, AnswerProbe, HeardWarm
from orchestrator.services.server import Server
from orchestrator.wire.probe import PROBE_SIZE, Kind, Probe, decode, encode
from tests.kernel.adapters.road import ESN, LEFT, REQID, RIGHT, SPI_IN, VIP, VIP6, Road
from tests.kernel.netns import Namespace

SPI_SECOND: Final = Spi(0xB2)
LIMIT: Final = 10.0
"""Seconds for what must happen."""
REPEAT: Final = 1.0
"""Seconds after which an endpoint asks again: it may ask before the server has its tunnels."""
A_WHILE: Final = 0.5
"""Seconds in which nothing happens that must not."""
CONFIG: Final = """
role = "server"
identity = "b"
underlay = { interfaces = ["r0"] }
auth = { kind = "psk", secret_file = "secret" }
vip = { pools = ["10.99.0.0/24", "fd00:99::/64"] }
proxy = { enabled = false }
state = { directory = "state" }
charon = { socket = "/nowhere/charon.vici" }
"""
FIRST: Final = Tunnel(
    ike=UniqueId(1),
    child=UniqueId(1),
    connection="lease anna",
    local=RIGHT[0],
    local_port=4500,
    remote=LEFT[0],
    remote_port=4500,
    local_id="b",
    remote_id="anna",
    reqid=REQID,
    spi_in=Spi(0xA1),
    spi_out=SPI_IN,
    local_ts=(),
    remote_ts=(),
)
SECOND: Final = replace(
    FIRST,
    ike=UniqueId(2),
    child=UniqueId(2),
    remote=LEFT[1],
    spi_in=Spi(0xA9),
    spi_out=SPI_SECOND,
)


@pytest.fixture
def road(
    needs_esp: None, needs_tun: None, make_namespace: Callable[[], Namespace]
) -> Iterator[Road]:
    made = Road(make_namespace, ESN)
    made.second_way_back(SPI_SECOND)
    yield made
    made.close()


class Endpoint:
    """Asks from its virtual address; everything it sends takes its one outbound SA."""

    def __init__(self, road: Road, vip: IPAddress) -> None:
        self._road, self._vip = road, vip
        self._service = str(SERVICE[vip.version]), SERVICE_PORT
        road.left.ip(f"route add {self._service[0]} dev vip0 src {vip}")
        family = socket.AF_INET if vip.version == 4 else socket.AF_INET6
        with road.left.entered():
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((str(vip), SERVICE_PORT))
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._asked = 0

    def close(self) -> None:
        self._socket.close()

    async def asks(self, kind: Kind, spi: Spi) -> tuple[int, int]:
        """How many packets the first and the second SA carried until there was an answer."""
        self._asked += 1
        before = self.carried()
        probe = Probe(kind, flip=1, sequence=self._asked, spi=spi)
        async with asyncio.timeout(LIMIT):
            while True:
                self._socket.sendto(encode(probe), self._service)
                with contextlib.suppress(TimeoutError):
                    answer = await self.hears(REPEAT)
                    break
        assert (answer.kind, answer.sequence, answer.spi) == (Kind.REPLY, self._asked, spi)
        after = self.carried()
        return after[0] - before[0], after[1] - before[1]

    async def hears(self, within: float) -> Probe:
        """The next answer. Raises TimeoutError."""
        async with asyncio.timeout(within):
            loop = asyncio.get_running_loop()
            return decode(await loop.sock_recv(self._socket, PROBE_SIZE + 1))

    def carried(self) -> tuple[int, int]:
        """Packets that the server sent through either SA."""
        xfrm = self._road.right_xfrm
        return xfrm.state(LEFT[0], SPI_IN).sent, xfrm.state(LEFT[1], SPI_SECOND).sent


def on_the_road(
    road: Road,
    folder: Path,
    vip: IPAddress,
    story: Callable[[Server, Endpoint], Awaitable[None]],
) -> None:
    """The server runs, both tunnels are admitted, the first one is active."""
    (folder / "secret").write_text("a secret\n")
    (folder / "secret").chmod(0o600)
    (folder / "state").mkdir()
    (folder / "server.toml").write_text(CONFIG)
    config = load(folder / "server.toml")
    assert isinstance(config, ServerConfig)

    async def live() -> None:
        async with Rtnetlink() as rtnetlink:
            with Xfrm() as xfrm:
                server = Server(config, lambda: config, rtnetlink, xfrm)
                endpoint = Endpoint(road, vip)
                running = asyncio.create_task(server.run())
                try:
                    await charon_is_missed(server)
                    for tunnel in (FIRST, SECOND):
                        server._driver.post(Admitted("anna", (vip,), tunnel))
                    assert await endpoint.asks(Kind.REQUEST, SPI_IN) == (1, 0)
                    await story(server, endpoint)
                finally:
                    running.cancel()
                    await asyncio.wait((running,))
                    endpoint.close()

    with road.right.entered():
        asyncio.run(live())


async def charon_is_missed(server: Server) -> None:
    """What is posted from now on comes after the news that charon is absent."""
    async with asyncio.timeout(LIMIT):
        async for record in server.events():
            if record["event"] == "charon":
                return


def ways_back(server: Server) -> list[Spi | None]:
    """The SAs that policies of the kernel lead single answers into."""
    return [
        policy.template.spi
        for policy in server._xfrm.policies()
        if policy.priority == POLICY_PRIORITY_PROBE and policy.template is not None
    ]


@pytest.mark.parametrize("vip", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_the_answer_takes_the_tunnel_that_is_asked_for(
    road: Road, tmp_path: Path, vip: IPAddress
) -> None:
    async def story(server: Server, endpoint: Endpoint) -> None:
        assert ways_back(server) == [], "nobody asked for one"
        assert await endpoint.asks(Kind.WARM, SPI_SECOND) == (0, 1)
        assert await endpoint.asks(Kind.WARM, SPI_IN) == (1, 0)
        assert await endpoint.asks(Kind.REQUEST, SPI_IN) == (1, 0), "it is active still"
        assert sorted(spi or 0 for spi in ways_back(server)) == [SPI_IN, SPI_SECOND]
        (session,) = await server.sessions()
        assert session["state"] == "attached"
        assert session["tunnels"] == [
            {
                "pop": f"{remote}:4500",
                "ike_sa": number,
                "spi_out": f"{spi:08x}",
                "active": number == 1,
                "heard_s": pytest.approx(0, abs=5),
            }
            for number, remote, spi in ((1, LEFT[0], SPI_IN), (2, LEFT[1], SPI_SECOND))
        ]

    on_the_road(road, tmp_path, vip, story)


@pytest.mark.parametrize("vip", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_without_the_mark_it_takes_the_active_one(
    road: Road, tmp_path: Path, vip: IPAddress
) -> None:
    """The control."""

    async def story(server: Server, endpoint: Endpoint) -> None:
        assert await endpoint.asks(Kind.WARM, SPI_SECOND) == (0, 1)
        before = endpoint.carried()
        server._probes.answer(AnswerProbe(HeardWarm(vip, 1, SPI_SECOND)))
        await endpoint.hears(LIMIT)
        assert endpoint.carried() == (before[0] + 1, before[1])

    on_the_road(road, tmp_path, vip, story)


def test_it_is_given_while_everything_else_is_held(road: Road, tmp_path: Path) -> None:
    async def story(server: Server, endpoint: Endpoint) -> None:
        server._driver.post(IkeDown(FIRST.ike))
        assert await endpoint.asks(Kind.WARM, SPI_SECOND) == (0, 1)
        (session,) = await server.sessions()
        assert session["state"] == "away"
        server._probes.answer(AnswerProbe(HeardWarm(VIP, 1, SPI_SECOND)))
        with pytest.raises(TimeoutError):
            await endpoint.hears(A_WHILE)

    on_the_road(road, tmp_path, VIP, story)


def test_the_way_back_goes_with_the_tunnel(road: Road, tmp_path: Path) -> None:
    async def story(server: Server, endpoint: Endpoint) -> None:
        await endpoint.asks(Kind.WARM, SPI_SECOND)
        server._driver.post(IkeDown(SECOND.ike))
        await endpoint.asks(Kind.REQUEST, SPI_IN)
        assert ways_back(server) == []

    on_the_road(road, tmp_path, VIP, story)
