"""Looked up through an event loop whose resolver knows a few names."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.statefile import Remembered, StateFile
from orchestrator.core.quantities import IPAddress
from orchestrator.services import names

BEFORE = Remembered(
    vips=(ip_address("10.99.0.2"),), epoch=3, servers=(ip_address("192.0.2.9"),)
)
ZONE = {
    "one.example.org": ("203.0.113.10", "2001:db8:113::10"),
    "two.example.org": ("198.51.100.7", "203.0.113.10"),
}
SILENT = "silent.example.org"


class Loop(asyncio.SelectorEventLoop):
    """No name of it is asked of a real resolver."""

    zone: Mapping[str, Sequence[str]] = ZONE

    async def getaddrinfo(
        self, host: bytes | str | None, port: bytes | str | int | None, **_: int
    ) -> list[Any]:
        if host == SILENT:
            await asyncio.Event().wait()
        found = self.zone.get(str(host))
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_UNSPEC, socket.SOCK_DGRAM, 0, "", (text, 0)) for text in found]


@pytest.fixture
def statefile(tmp_path: Path) -> StateFile:
    file = StateFile(tmp_path / "endpoint.json")
    file.save(BEFORE)
    return file


def look_up(statefile: StateFile, *wanted: str) -> tuple[IPAddress, ...]:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(names.look_up(wanted, statefile))


def addresses(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(map(ip_address, texts))


def test_all_addresses_in_the_order_of_the_names(statefile: StateFile) -> None:
    found = look_up(statefile, "two.example.org", "one.example.org")
    assert found == addresses("198.51.100.7", "203.0.113.10", "2001:db8:113::10")


def test_the_answers_are_remembered_beside_the_rest(statefile: StateFile) -> None:
    found = look_up(statefile, "one.example.org")
    assert statefile.load() == Remembered(BEFORE.vips, BEFORE.epoch, found)


def test_one_name_without_an_answer_does_no_harm(statefile: StateFile) -> None:
    found = look_up(statefile, "gone.example.org", "one.example.org")
    assert found == addresses("203.0.113.10", "2001:db8:113::10")


def test_without_any_answer_the_former_ones_hold(statefile: StateFile) -> None:
    assert look_up(statefile, "gone.example.org") == BEFORE.servers
    assert statefile.load() == BEFORE


def test_a_silent_resolver_does_not_delay_the_start_for_long(
    statefile: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "LOOK_UP_LIMIT", 0.01)
    assert look_up(statefile, SILENT, "one.example.org") == BEFORE.servers
    assert statefile.load() == BEFORE


def test_without_names_nothing_is_read_or_written(tmp_path: Path) -> None:
    assert look_up(StateFile(tmp_path / "endpoint.json")) == ()
    assert list(tmp_path.iterdir()) == []
