"""A roam keeps TCP connections, the virtual address, and every byte; nothing goes in clear."""

import time
from functools import partial
from operator import lt

import pytest

from orchestrator.lab.apps import Download
from orchestrator.lab.ticker import Ticker, Way
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import LIMIT, PEER, World, eventually, for_a_while

ROAMS = ("lte", "wifi2", "wifi")
FILE_BYTES = 12 << 20
RATE_MBIT = 16.0
"""So that the file takes longer than three roams."""
SLOW_MS = 20.0
"""One way: the answer to a negotiation is under way longer than from one packet to the next."""
SOME_BYTES = 1 << 20
"""More than queues on the way can have held: the server's, the proxy's."""


@pytest.fixture(scope="module")
def make_world() -> partial[World]:
    return partial(World, file_bytes=FILE_BYTES)


def test_one_tcp_connection_lasts_through_three_networks(world: World) -> None:
    vip = str(world.vip)
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        assert talk.local == vip
        talk.goes_on()
        for link in ROAMS:
            world.lab.roam(link)
            talk.goes_on()
            assert world.attached(link)["vip"][0] == vip
        talk.ends_well()


def test_each_network_gets_keys_of_its_own(world: World) -> None:
    before = world.attached("wifi")
    world.lab.roam("lte")
    after = world.renewed("lte", before)
    assert after["active_path"]["ike_sa"] != before["active_path"]["ike_sa"]


def test_nothing_is_lost_when_a_fresh_tunnel_takes_the_traffic(world: World) -> None:
    """The server has its SAs some milliseconds before the endpoint does."""
    before = world.attached("wifi")
    lte = world.lab.link("lte")
    lte.set(delay_ms=SLOW_MS)
    peer = world.lab.host("peer1")
    with Ticker(world.endpoint.host, world.vip, peer, PEER) as ticker:
        roamed = world.lab.roam(lte.name)
        back = ticker.wait_for(Way.DOWN, roamed, roamed, LIMIT)
        world.renewed(lte.name, before)
        for_a_while(1)
        renewed = time.monotonic()
        for_a_while(1)
    assert back is not None
    lost = {way: ticker.logs[way].lost_between(back, renewed) for way in Way}
    assert lost == dict.fromkeys(Way, 0)


def test_a_download_is_whole_after_three_networks(world: World) -> None:
    links = [world.lab.link(name) for name in ROAMS]
    for link in links:
        link.set(rate_mbit=RATE_MBIT)
    with world.nothing_in_clear():
        download = Download(world.endpoint.host, world.peers, PEER)
        eventually(lambda: download.output.received, bool)
        for link in links:
            world.lab.roam(link.name)
            received = download.output.received
            eventually(lambda: download.output.received, partial(lt, received + SOME_BYTES))
        assert not download.done, "it ended before the last roam: nothing was tried"
        assert download.result(LIMIT) == (True, 1)


def test_another_address_on_the_same_link(world: World) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.lab.link("wifi").readdress("192.168.10.3")
        talk.goes_on()
        world.attached("wifi", "192.168.10.3")
        talk.ends_well()


def test_carrier_lost_and_back(world: World) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.lab.link("wifi").detach()
        world.endpoint.wait_for("detached")
        talk.stays_silent(0.5)
        world.lab.link("wifi").attach()
        talk.goes_on()
        talk.ends_well()


def test_without_the_daemon_a_roam_ends_nowhere_and_its_return_saves_the_connection(
    world: World,
) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.endpoint.kill()
        talk.goes_on()  # what is in the kernel goes on without us
        world.lab.roam("lte")
        talk.stays_silent(4.0)
        world.endpoint.start()
        talk.goes_on()
        world.attached("lte")
        talk.ends_well()
