"""One lab for all tests of it; each begins with every link well and nothing attached."""

from collections.abc import Iterator

import pytest

from orchestrator.lab import backends
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab


@pytest.fixture(scope="session")
def needs_a_lab() -> None:
    if missing := backends.missing_here():
        pytest.skip(f"no lab here: {missing}")


@pytest.fixture(scope="module")
def standing_lab(needs_a_lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    del needs_a_lab
    with Lab(INTERNET, tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def lab(standing_lab: Lab) -> Lab:
    for link in standing_lab.access_links:
        quality = link.description.quality
        link.set(
            delay_ms=quality.delay_ms,
            loss_percent=quality.loss_percent,
            rate_mbit=quality.rate_mbit or 0,
        )
        link.mend()
        link.detach()
    return standing_lab
