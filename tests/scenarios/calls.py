"""Calls between the endpoint and a peer, and another configuration for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from orchestrator.lab.product import ENDPOINT
from orchestrator.lab.ticker import Ticker
from tests.scenarios.world import PEER, QUICK_TIMERS, World

SPEAKS: Final = 0.02
"""Seconds between two packets of a call."""
PATIENT: Final = ENDPOINT + QUICK_TIMERS + 'dead_after = "20s"\n'
"""An endpoint to which a machine that stalls for seconds is no dead path."""


def call(world: World) -> Ticker:
    return Ticker(world.endpoint.host, world.vip, world.lab.host("peer1"), PEER, SPEAKS)


@contextmanager
def configured(world: World, config: str) -> Iterator[None]:
    """Meanwhile the endpoint has this one, and is attached over Wi-Fi when that begins."""
    before = world.endpoint.daemon.config
    try:
        _restart(world, config)
        world.attached("wifi")
        yield
    finally:
        _restart(world, before)


def _restart(world: World, config: str) -> None:
    world.endpoint.kill()
    world.endpoint.daemon.config = config
    world.endpoint.start()
