"""What the tests of adapters talk to: XFRM, its news, and roads."""

from collections.abc import Callable, Iterator

import pytest

from orchestrator.adapters.xfrm import Monitor, Xfrm
from tests.kernel.adapters.road import ESN, Road
from tests.kernel.netns import Namespace


@pytest.fixture
def xfrm(network_namespace: Namespace) -> Iterator[Xfrm]:
    with Xfrm() as opened:
        yield opened


@pytest.fixture
def monitor(xfrm: Xfrm) -> Iterator[Monitor]:
    with Monitor() as opened:
        yield opened


@pytest.fixture
def make_road(
    needs_esp: None, needs_tun: None, make_namespace: Callable[[], Namespace]
) -> Iterator[Callable[[str], Road]]:
    roads: list[Road] = []

    def make(replay: str) -> Road:
        roads.append(Road(make_namespace, replay))
        return roads[-1]

    yield make
    for made in roads:
        made.close()


@pytest.fixture
def road(make_road: Callable[[str], Road]) -> Road:
    return make_road(ESN)
