"""Out of range for a while: connections wait, and their peers are answered for the absent."""

from collections.abc import Callable
from functools import partial

import pytest

from orchestrator.lab.apps import Download
from orchestrator.lab.product import SERVER
from orchestrator.lab.serve import content
from tests.scenarios.conversation import Conversation, Echo
from tests.scenarios.pouring import POURED, Pouring
from tests.scenarios.world import LIMIT, PEER, World, eventually, for_a_while

ABSENCE = 15.0
"""Seconds; more than the seven after which the server counts an endpoint as away."""
PORT = 7070
QUEUE_BYTES = 256 << 10
SURELY_KEPT = 64 << 10
"""Less than any queue of that size keeps, and more than what is on its way on the LAN."""
FILE_BYTES = 6 << 20
RATE_MBIT = 8.0
KEEPS_LITTLE = SERVER + '[proxy]\nqueue_per_flow = "256KiB"\n'
NO_PROXY = SERVER + "[proxy]\nenabled = false\n"


@pytest.fixture(scope="module")
def make_world() -> Callable[..., World]:
    return partial(World, server=KEEPS_LITTLE, file_bytes=FILE_BYTES)


def test_connections_wait_for_a_quarter_of_a_minute_and_go_on_elsewhere(world: World) -> None:
    for link in world.lab.access_links:
        link.set(rate_mbit=RATE_MBIT)
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        download = Download(world.endpoint.host, world.peers, PEER)
        eventually(lambda: download.output.received, bool)
        talk.goes_on()
        world.nowhere()
        talk.stays_silent(ABSENCE)
        assert world.server.status()["sessions"]["attached"] == 0
        assert not download.done
        world.lab.roam("wifi2")
        talk.goes_on()
        assert download.result(LIMIT) == (True, 1)
        talk.ends_well()


def test_the_server_acknowledges_for_the_absent_up_to_its_limit(world: World) -> None:
    pouring = Pouring(world)
    world.nowhere()
    eventually(world.server.status, lambda status: status["sessions"]["attached"] == 0)
    pouring.pour()
    assert SURELY_KEPT < pouring.acknowledged() <= QUEUE_BYTES < pouring.sent
    world.lab.roam("lte")
    assert pouring.received() == content(POURED)[: pouring.sent]
    pouring.close()


def test_without_the_proxy_nobody_acknowledges_for_the_absent(world: World) -> None:
    with_proxy = world.server.daemon.config
    world.server.daemon.config = NO_PROXY
    try:
        world.server.daemon.restart()
        world.server.wait_for("serving")
        world.attached("wifi")
        pouring = Pouring(world)
        world.nowhere()
        eventually(world.server.status, lambda status: status["sessions"]["attached"] == 0)
        pouring.pour()
        assert pouring.acknowledged() == 0
        pouring.close()
    finally:
        world.server.daemon.config = with_proxy
        world.server.daemon.restart()


def test_a_connection_opened_by_the_peer_roams_too(world: World) -> None:
    vip, host = world.vip, world.endpoint.host
    with (
        Echo(host, vip, PORT) as echo,
        world.nothing_in_clear(),
        Conversation.open(world.lab.host("peer1"), vip, PORT) as talk,
    ):
        talk.goes_on()
        assert echo.clients == [str(PEER)], "the endpoint must see who calls"
        world.lab.roam("lte")
        talk.goes_on()
        world.nowhere()
        for_a_while(2.0)
        world.lab.roam("wifi2")
        talk.goes_on()
        talk.ends_well()
