from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.adapters.statefile import (
    FLIPS_PER_EPOCH,
    Remembered,
    StateFile,
    StateFileError,
)

STATE = Remembered(
    vips=(ip_address("10.99.0.2"), ip_address("fd00:99::2")),
    epoch=7,
    names={"vpn.example.org": (ip_address("203.0.113.10"), ip_address("2001:db8:113::10"))},
)
DISK_FULL = Path("/dev/full")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "endpoint.json"


def test_loads_what_was_saved(path: Path) -> None:
    StateFile(path).save(STATE)
    assert StateFile(path).load() == STATE


def test_loads_what_an_earlier_release_saved(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"vips": ["10.99.0.2"], "epoch": 7, "servers": ["203.0.113.10"]}')
    assert StateFile(path).load() == Remembered((ip_address("10.99.0.2"),), 7)


def test_knows_nothing_before_the_first_save(path: Path) -> None:
    assert StateFile(path).load() == Remembered()


def test_each_epoch_has_flips_of_its_own() -> None:
    assert Remembered(epoch=8).first_flip - STATE.first_flip == FLIPS_PER_EPOCH
    assert Remembered(epoch=2**16).first_flip == 0  # a flip has 32 bits


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b'{"vips": ["10.99.0.2"]',
        b"\xff\xfe",
        b"[]",
        b'{"vips": ["10.99.0.2"]}',
        b'{"vips": ["me"], "epoch": 1}',
        b'{"vips": [], "epoch": "one"}',
        b'{"vips": [], "epoch": Infinity}',
        b'{"vips": [], "epoch": 1, "names": []}',
        b'{"vips": [], "epoch": 1, "names": {"vpn": ["there"]}}',
    ],
)
def test_a_damaged_file_is_set_aside(path: Path, damaged: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damaged)
    assert StateFile(path).load() == Remembered()
    assert not path.exists()
    assert path.with_suffix(".unreadable").read_bytes() == damaged


def test_the_old_file_survives_a_failed_save(path: Path) -> None:
    StateFile(path).save(STATE)
    path.with_suffix(".new").symlink_to(DISK_FULL)
    with pytest.raises(StateFileError, match="cannot be written: No space left on device"):
        StateFile(path).save(Remembered(epoch=8))
    assert StateFile(path).load() == STATE
    assert list(path.parent.iterdir()) == [path]


def test_says_that_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateFileError, match="cannot be written: Not a directory"):
        StateFile(tmp_path / "file" / "state" / "endpoint.json").save(STATE)


def test_says_that_it_cannot_read(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StateFileError, match="cannot be read: Is a directory"):
        StateFile(path).load()
