"""After each kind of roam keys are renewed, from either side, and nothing notices.

strongSwan #520: a tunnel ended at the rekeying after a roam. libreswan #1871: the replay window
was 0 after one.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from typing import Final

import pytest

from orchestrator.adapters.charon import Charon, Negotiated
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.config.common import Keys
from orchestrator.core.mobility_events import Ask
from orchestrator.core.paths import Path
from orchestrator.core.quantities import LinkIndex, Spi
from orchestrator.lab.charon import VICI_SOCKET
from orchestrator.lab.nat import Nat
from orchestrator.lab.product import ENDPOINT
from orchestrator.services.ike import CHILD, endpoint_connection
from orchestrator.wire.control import Verb
from orchestrator.wire.security_association import ReplayEsn, StateFlag
from tests.scenarios.conversation import Conversation
from tests.scenarios.keying import IkeSa, associations, ike_sas, rekey, told, weakened
from tests.scenarios.leftovers import leftovers
from tests.scenarios.world import LIMIT, PEER, SERVER_ADDRESS, Side, World, eventually

pytestmark = pytest.mark.long

DRAINED: Final = 120.0
"""Seconds: `core.session.UNASKED` and the server's next look at the session, and more."""
FAR_MS: Final = 100.0
"""One way: what two sides begin at once meets half way."""
VERY_FAR_MS: Final = 400.0
"""A slow machine, too, knows of a rekeying before the endpoint has ended it."""


PATIENT: Final = '[timers]\ndead_after = "20s"\n'
"""A path that a busy machine answers late is not given up meanwhile; one that lost its SAs to a
rekeying is, before anybody stops waiting for it."""


@pytest.fixture(scope="module")
def make_world() -> partial[World]:
    return partial(World, endpoint=ENDPOINT + PATIENT)


@dataclass(frozen=True, slots=True)
class Used:
    """The tunnel that carries the traffic, as both charons have it."""

    endpoint: IkeSa
    server: IkeSa

    @property
    def spis(self) -> frozenset[Spi]:
        (child,) = self.endpoint.children
        return frozenset({child.spi_in, child.spi_out})

    def has_other_ike_sas(self, than: "Used") -> bool:
        return self.endpoint.number != than.endpoint.number and (
            self.server.number != than.server.number
        )

    def of(self, side: Side) -> IkeSa:
        return self.endpoint if side.role == "endpoint" else self.server


def used(world: World) -> Used | None:
    """None: it is not settled yet."""
    status = world.endpoint.status()
    path = status.get("active_path")
    if status["state"] != "attached" or not path:
        return None
    pair = Spi(int(path["spi_in"], 16)), Spi(int(path["spi_out"], 16))
    here, there = with_sas(world.endpoint, pair), with_sas(world.server, pair[::-1])
    if here is None or there is None or here.local.rpartition(":")[0] != path["pop"]:
        return None  # one that was moved is about to be replaced
    return Used(here, there)


def with_sas(side: Side, pair: tuple[Spi, ...]) -> IkeSa | None:
    return next(
        (
            sa
            for sa in ike_sas(side)
            if sa.rests and (sa.children[0].spi_in, sa.children[0].spi_out) == pair
        ),
        None,
    )


def settled(world: World, other_than: frozenset[Spi] = frozenset()) -> Used:
    found = eventually(
        lambda: used(world), lambda now: now is not None and not now.spis & other_than
    )
    assert found is not None
    return found


def losses(world: World) -> dict[str, int]:
    """What a rekeying must not make more of."""
    counted = world.endpoint.status()["counters"]
    return {name: int(counted.get(name, 0)) for name in ("detached", "moving")}


def breaks_before_it_makes(world: World) -> None:
    world.lab.roam("lte")
    world.attached("lte")


def gets_another_address(world: World) -> None:
    world.lab.link("wifi").readdress("192.168.10.3")
    world.attached("wifi", "192.168.10.3")


def changes_family(world: World) -> None:
    world.lab.roam("lte", "2001:db8:64::2")
    world.attached("lte", "2001:db8:64::2")


def returns(world: World) -> None:
    world.lab.link("wifi").detach()
    world.endpoint.wait_for("detached")
    world.lab.link("wifi").attach()
    world.attached("wifi")


def nat_forgets(world: World) -> None:
    (before,) = world.server.sessions()
    Nat(world.lab.host("ap1"), "wan0").rebind()
    eventually(world.server.sessions, lambda now: now[0]["pop"] != before["pop"])
    world.attached("wifi")


def warm_path(world: World) -> None:
    world.lab.link("lte").attach()
    device = world.lab.link("lte").device
    eventually(
        world.endpoint.paths,
        lambda paths: any(p["link"] == device and p["rtt_ms"] is not None for p in paths),
    )


def flips_as_planned(world: World) -> None:
    warm_path(world)
    world.endpoint.daemon.ask(Verb.ROAM, world.lab.link("lte").device)
    world.attached("lte")


def dies_silently(world: World) -> None:
    warm_path(world)
    world.lab.link("wifi").cut()
    world.attached("lte")


ROAMS: Final = (
    breaks_before_it_makes,
    gets_another_address,
    changes_family,
    returns,
    nat_forgets,
    flips_as_planned,
    dies_silently,
)


@pytest.mark.parametrize("roam", ROAMS, ids=lambda roam: roam.__name__)
def test_after_a_roam_both_sides_renew_their_keys(
    world: World, roam: Callable[[World], None]
) -> None:
    world.endpoint.daemon.ask(Verb.ROAM)  # what another story asked for is forgotten
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        roam(world)
        talk.goes_on()
        now = settled(world)
        for side in world.sides:
            before, lost = now, losses(world)
            rekey(side, child=before.of(side).children[0].number)
            now = settled(world, other_than=before.spis)
            talk.goes_on()
            assert losses(world) == lost
            before = now
            rekey(side, ike=before.of(side).number)
            now = eventually(partial(settled, world), before.has_other_ike_sas)
            assert now.spis == before.spis, "the CHILD_SA went along"
            talk.goes_on()
            assert losses(world) == lost
            assert_sound(world, now)
        talk.ends_well()


def assert_sound(world: World, now: Used) -> None:
    """The SAs in use are as they were negotiated, and numbers have come as they were sent."""
    numbers = {}
    for side in world.sides:
        mine = [sa for sa in associations(side) if sa.spi in now.spis]
        assert len(mine) == 2
        for sa in mine:
            inbound = sa.spi == now.of(side).children[0].spi_in
            assert list(weakened(sa, inbound=inbound)) == []
            numbers[sa.spi, inbound] = sa.received if inbound else sa.sent
    for spi in now.spis:
        assert numbers[spi, True] > 0, f"nothing came on {spi:08x}"
        assert numbers[spi, False] > 0, f"nothing was sent on {spi:08x}"


@pytest.fixture
def far(world: World) -> Iterator[World]:
    """Attached over Wi-Fi, with a long way to the server."""
    link = world.lab.link("wifi")
    link.set(delay_ms=FAR_MS)
    yield world
    link.set(delay_ms=link.description.quality.delay_ms)


def test_both_sides_renew_at_the_same_time(far: World) -> None:
    """Each tells of two successors; the one that stays is decided by lot (RFC 7296, 2.8.1)."""
    world = far

    def collisions() -> int:
        return sum(told(side, "rekey collision") for side in world.sides)

    with Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        far.lab.link("wifi").set(delay_ms=VERY_FAR_MS)
        first = collisions()
        for _ in range(4):
            before, lost = settled(world), losses(world)
            for side in world.sides:
                rekey(side, child=before.of(side).children[0].number)
            settled(world, other_than=before.spis)
            talk.goes_on()
            assert losses(world) == lost
        assert collisions() > first, "they never met"
        talk.ends_well()
    eventually(partial(leftovers, world), lambda found: not found, DRAINED)


def test_a_daemon_that_starts_after_a_rekeying_has_the_tunnel_that_stays(world: World) -> None:
    """charon lists the former CHILD_SA for five seconds more."""
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        for side in world.sides:
            before = settled(world)
            rekey(world.endpoint, child=before.endpoint.children[0].number)
            settled(world, other_than=before.spis)
            side.kill()
            side.start()
            talk.goes_on()
            eventually(partial(leftovers, world), lambda found: not found, DRAINED)
        talk.ends_well()


async def negotiate_beside(pop: str) -> None:
    """As if another link of the endpoint was behind the same NAT."""
    charon, name = Charon(VICI_SOCKET), "beside"
    gateway = {"auth": "psk", "id": "gateway.example.org"}
    carol = {"auth": "psk", "id": "carol@example.org"}
    path = Path(LinkIndex(1), "beside", ip_address(pop), None, SERVER_ADDRESS)
    connection = endpoint_connection(path, Ask.LEASED, (), carol, gateway, Keys())
    await charon.load_connection(name, connection)
    assert await charon.initiate(name, CHILD, LIMIT) == Negotiated()


def test_another_tunnel_to_the_same_address_is_in_nobodys_way(far: World) -> None:
    """The server names the SA that it sends on then; its successor is there a round trip later
    than its number, and until then the former one carries what is sent."""
    world = far
    with Conversation.open(world.endpoint.host, PEER) as talk:
        before = settled(world)
        pop = before.endpoint.local.rpartition(":")[0]
        world.endpoint.host.inside(asyncio.run, negotiate_beside(pop))
        eventually(world.server.sessions, lambda now: len(now[0]["tunnels"]) == 2)
        far.lab.link("wifi").set(delay_ms=VERY_FAR_MS)
        talk.goes_on()
        failures, lost = told(world.server, "unable to add SAD entry"), losses(world)
        for _ in range(2):
            rekey(world.endpoint, child=before.endpoint.children[0].number)
            before = settled(world, other_than=before.spis)
            talk.goes_on()
        assert losses(world) == lost
        assert told(world.server, "unable to add SAD entry") == failures
        talk.ends_well()
    world.endpoint.host.inside(asyncio.run, Charon(VICI_SOCKET).abandon("beside"))


def weaken(destination: str, spi: int) -> None:
    """As libreswan #1871 has it, and without ESN."""
    with Xfrm() as xfrm:
        sa = xfrm.state(ip_address(destination), Spi(spi))
        assert isinstance(sa.replay, ReplayEsn)
        xfrm.drop_state(sa.destination, sa.spi)
        shrunk = replace(sa.replay, window=32, bitmap=(0,))
        xfrm._add(replace(sa, flags=sa.flags & ~StateFlag.ESN, replay=shrunk))


def test_a_weakened_sa_is_noticed(world: World) -> None:
    """The control of what is asserted above."""
    now = settled(world)
    spi = now.server.children[0].spi_in
    world.server.host.inside(weaken, "203.0.113.10", spi)
    (sa,) = (sa for sa in associations(world.server) if sa.spi == spi)
    assert len(list(weakened(sa, inbound=True))) == 2
    with pytest.raises(AssertionError):
        assert_sound(world, now)
    world.endpoint.daemon.ask(Verb.ROAM)  # negotiates anew
    settled(world, other_than=now.spis)
