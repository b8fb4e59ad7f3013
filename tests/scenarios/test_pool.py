"""A pool with fewer addresses than endpoints: who has one keeps it, who has none says why."""

from orchestrator.lab.product import ENDPOINT, SERVER
from tests.scenarios.world import QUICK_TIMERS, Side, World

SMALL_POOL = SERVER.replace(
    'pools = ["10.99.0.0/24", "fd00:99::/64"]', 'pools = ["10.99.0.0/30"]'
)
LARGER_POOL = SMALL_POOL.replace("/30", "/29")
DAVE = (ENDPOINT + QUICK_TIMERS).replace("carol@", "dave@") + (
    '[tunnel]\nmode = "split"\nprefixes = ["10.51.0.0/16"]\n'
)


def test_an_exhausted_pool(cold_world: World) -> None:
    world = cold_world
    world.server.daemon.config = SMALL_POOL
    world.start()
    dave = Side(world.lab, "endpoint", DAVE, {}, host="ap2")
    dave.start_charon()
    dave.start()
    dave.wait_for("detached", "no-virtual-address-left")
    assert world.server.status()["counters"]["pool-exhausted"] >= 1
    world.attached()  # who has an address keeps it
    dave.tries_in_measure()
    world.server.kill()
    world.server.daemon.config = LARGER_POOL
    world.server.start()
    assert dave.wait_for("attached")["vip"] == ["10.99.0.3"]
    assert world.attached()["vip"] == ["10.99.0.2"]
