"""One running lab for each module of stories; each story begins attached over Wi-Fi."""

import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from orchestrator.lab.host import Host
from tests.scenarios.world import World

_LOG_LINES = 40
_ROAM_SEEDS = (4,)
"""Of the random roams that everybody's tests make."""
_NOISE = re.compile(r"\[(ENC|NET)\]")
"""charon tells of every message twice."""


@pytest.fixture(scope="module")
def make_world() -> type[World]:
    """How the module's world is made; a module with another configuration overrides it."""
    return World


@pytest.fixture(scope="module")
def module_world(
    make_world: Callable[[Path], World], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with make_world(tmp_path_factory.mktemp("lab")) as world:
        world.start()
        yield world


@pytest.fixture
def world(module_world: World) -> World:
    """Both daemons run, and the endpoint is attached over Wi-Fi."""
    module_world.home()
    return module_world


@pytest.fixture
def cold_world(tmp_path: Path) -> Iterator[World]:
    """A lab of the test's own in which nothing of ours has run yet."""
    with World(tmp_path / "lab") as world:
        yield world


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "roam_seed" in metafunc.fixturenames:
        seeds = metafunc.config.getoption("--roam-seed") or _ROAM_SEEDS
        metafunc.parametrize("roam_seed", seeds, ids=lambda seed: f"seed {seed}")


@pytest.fixture
def roam_count(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--roams"))


@pytest.fixture
def roam_seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--roam-seconds"))


@pytest.fixture
def rekey_seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--rekey-seconds"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failed story comes what daemons and charons said last."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, World):
                for side in value.sides:
                    for name, text in _last_words(side.host):
                        report.sections.append((f"{side.host.name}: {name}", text))
    return report


def _last_words(host: Host) -> Iterator[tuple[str, str]]:
    for log in sorted(host.folder.glob("*.log")):
        text = log.read_text(errors="replace")
        lines = [line for line in text.splitlines() if not _NOISE.search(line)]
        if lines:
            yield log.name, "\n".join(lines[-_LOG_LINES:])
