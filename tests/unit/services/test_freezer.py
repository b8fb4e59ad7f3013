"""When the freezer looks for sockets; what it does with them is for the kernel tests."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.services import freezer
from orchestrator.services.freezer import Freezer
from orchestrator.services.journal import Journal

FLAPS = 50


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each look."""
    found: list[None] = []

    def nobody(_vips: object) -> Iterator[None]:
        found.append(None)
        return iter(())

    monkeypatch.setattr(freezer, "tcp_sockets", nobody)
    return found


def test_nobody_looks_while_outages_end_and_begin_again_at_once(
    tmp_path: Path, looks: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezer, "GRACE", 30.0)

    async def flap() -> None:
        it = Freezer(tmp_path / "frozen.json", tuple, Journal())
        running = asyncio.ensure_future(it.run())
        it.freeze()
        for _ in range(FLAPS):
            await asyncio.sleep(0.001)
            it.thaw()
            it.freeze()
        running.cancel()

    asyncio.run(flap())
    assert looks == []
