from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.adapters.statefile import StateFile, StateFileError
from orchestrator.services.journal import Journal
from orchestrator.services.memory import Memory

VIPS = (ip_address("10.99.0.2"),)
SERVERS = (ip_address("203.0.113.10"), ip_address("2001:db8:113::10"))
OTHER_VIPS = (ip_address("10.99.0.3"),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "endpoint.json"


def begin(path: Path, journal: Journal | None = None) -> Memory:
    return Memory(StateFile(path), journal or Journal())


def fill_the_disk(path: Path) -> None:
    path.with_suffix(".new").symlink_to("/dev/full")


def test_a_restarted_daemon_knows_its_addresses(path: Path) -> None:
    begin(path).keep(VIPS)
    assert begin(path).vips == VIPS


def test_a_restarted_daemon_knows_where_the_server_was(path: Path) -> None:
    memory = begin(path)
    memory.keep(VIPS)
    memory.keep_names({"vpn.example.org": SERVERS})
    again = begin(path)
    assert (again.names, again.vips) == ({"vpn.example.org": SERVERS}, VIPS)


def test_what_is_written_down_already_is_not_written_again(path: Path) -> None:
    memory = begin(path)
    memory.keep_names({"vpn.example.org": SERVERS})
    fill_the_disk(path)
    problems = [memory.problem]
    for meaning in (SERVERS, ()):
        memory.keep_names({"vpn.example.org": meaning})
        problems.append(memory.problem)
    assert problems[:2] == [None, None]
    assert "will not find the server" in str(problems[2])


def test_the_flips_of_a_restarted_daemon_are_higher(path: Path) -> None:
    first = begin(path).first_flip
    assert begin(path).first_flip > first > 0


def test_a_full_disk_costs_a_warning_while_the_daemon_runs(path: Path) -> None:
    journal = Journal()
    memory = begin(path, journal)
    memory.keep(VIPS)
    fill_the_disk(path)
    memory.keep(OTHER_VIPS)
    assert memory.vips == OTHER_VIPS
    assert memory.problem is not None
    assert "No space left on device" in memory.problem
    assert journal.counters == {"not-remembered": 1}
    assert begin(path).vips == VIPS


def test_the_warning_ends_when_there_is_room_again(path: Path) -> None:
    memory = begin(path)
    fill_the_disk(path)
    memory.keep(VIPS)
    memory.keep(VIPS)
    assert memory.problem is None
    assert begin(path).vips == VIPS


def test_a_full_disk_costs_a_warning_at_the_start(path: Path) -> None:
    begin(path).keep(VIPS)
    fill_the_disk(path)
    memory = begin(path)
    assert memory.vips == VIPS
    assert "No space left on device" in str(memory.problem)
    memory.catch_up()
    assert memory.problem is None
    assert begin(path).first_flip > memory.first_flip


def test_a_file_that_cannot_be_read_is_an_error_at_the_start(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StateFileError):
        begin(path)
