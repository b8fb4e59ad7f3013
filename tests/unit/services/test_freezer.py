"""When the freezer looks for sockets; what it does with them is for the kernel tests."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.services import freezer
from orchestrator.services.freezer import LOOK, Freezer
from orchestrator.services.journal import Journal

WATCHED = LOOK / 4
"""Seconds."""


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each look."""
    found: list[None] = []

    def nobody(_vips: object) -> Iterator[None]:
        found.append(None)
        return iter(())

    monkeypatch.setattr(freezer, "tcp_sockets", nobody)
    return found


def test_an_outage_that_ends_and_begins_again_at_once_is_looked_at_once(
    tmp_path: Path, looks: list[None]
) -> None:
    async def flap() -> None:
        it = Freezer(tmp_path / "frozen.json", tuple, Journal())
        running = asyncio.ensure_future(it.run())
        it.freeze()
        await asyncio.sleep(0.01)
        it.thaw()
        it.freeze()
        await asyncio.sleep(WATCHED)
        running.cancel()

    asyncio.run(flap())
    assert len(looks) == 1
