"""Roads for the tests of adapters."""

from collections.abc import Callable, Iterator

import pytest

from tests.kernel.adapters.road import ESN, Road
from tests.kernel.netns import Namespace


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
