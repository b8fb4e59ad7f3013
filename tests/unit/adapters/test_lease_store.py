"""The lease store on a real disk: what it promised is there, whoever killed it and when."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.adapters.leases import AddressTaken, LeaseStore, LeaseStoreError
from orchestrator.core.quantities import IPAddress, Seconds


class Wall:
    """A wall clock that people have set."""

    def __init__(self) -> None:
        self.now = datetime(2024, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def vips(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(ip_address(text) for text in texts)


BOTH = vips("10.99.0.2", "fd00:99::2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "leases.sqlite"


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def store(path: Path, wall: Wall) -> Iterator[LeaseStore]:
    opened = LeaseStore(path, wall)
    yield opened
    opened.close()


def test_a_lease_outlives_the_store(path: Path, store: LeaseStore) -> None:
    store.assign("a", BOTH)
    store.close()
    again = LeaseStore(path)
    assert [(each.identity, each.vips) for each in again.all()] == [("a", BOTH)]
    again.close()


def test_knows_what_belongs_to_whom(store: LeaseStore) -> None:
    lease = store.assign("a", BOTH)
    assert store.lookup("a") == lease
    assert lease.vips == BOTH
    assert store.lookup("b") is None


def test_an_address_never_has_two_owners(store: LeaseStore) -> None:
    store.assign("a", BOTH)
    store.assign("b", vips("10.99.0.3"))
    before = store.all()
    with pytest.raises(AddressTaken, match="somebody else"):
        store.assign("b", vips("10.99.0.4", "fd00:99::2"))
    assert store.all() == before
    with pytest.raises(AddressTaken):
        store.assign("newcomer", vips("10.99.0.2"))
    assert store.all() == before


def test_a_new_assignment_replaces_the_old_one(store: LeaseStore) -> None:
    store.assign("a", BOTH)
    store.assign("a", vips("10.99.0.9"), static=True)
    (lease,) = store.all()
    assert (lease.vips, lease.static) == (vips("10.99.0.9"), True)
    store.assign("b", BOTH)  # they are free


def test_times_are_for_people(store: LeaseStore, wall: Wall) -> None:
    store.assign("a", BOTH)
    wall.now += timedelta(hours=1)
    store.seen("a")
    store.seen("nobody")
    (lease,) = store.all()
    assert lease.created == "2024-05-01T12:00:00.000+00:00"
    assert lease.last_seen == "2024-05-01T13:00:00.000+00:00"


def test_a_released_address_is_free(store: LeaseStore) -> None:
    store.assign("a", BOTH)
    store.release("a")
    store.release("a")
    assert store.all() == ()
    store.assign("b", BOTH)


def test_only_old_leases_that_nobody_fixed_expire(store: LeaseStore, wall: Wall) -> None:
    store.assign("absent", vips("10.99.0.2"))
    store.assign("fixed", vips("10.99.0.4"), static=True)
    wall.now += timedelta(days=2)
    store.assign("recent", vips("10.99.0.5"))
    assert store.expire(Seconds(86400.0)) == ("absent",)
    assert [lease.identity for lease in store.all()] == ["fixed", "recent"]


def test_a_lease_without_an_address_is_a_defect(store: LeaseStore) -> None:
    with pytest.raises(ValueError, match="has an address"):
        store.assign("a", ())


def test_only_root_may_read_who_has_what(path: Path, store: LeaseStore) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def damage(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xde\xad\xbe\xef" * 256)


@pytest.mark.parametrize("at", [0, 4096, 8192])
def test_a_damaged_file_is_kept_aside_and_named(path: Path, at: int) -> None:
    store = LeaseStore(path)
    for last in range(200):
        store.assign(f"endpoint{last}", vips(f"10.99.0.{last}", f"fd00:99::{last:x}"))
    store.close()
    damage(path, at)
    with pytest.raises(LeaseStoreError, match=r"damaged.*moved to.*backup") as caught:
        LeaseStore(path)
    (aside,) = path.parent.glob("leases.sqlite.damaged-*Z")
    assert str(aside) in str(caught.value)
    again = LeaseStore(path)
    assert again.all() == ()
    again.close()


def test_somebody_elses_database_is_not_touched_in_place(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE lease (colour TEXT)")
    other.close()
    with pytest.raises(LeaseStoreError, match="moved to"):
        LeaseStore(path)
    (aside,) = path.parent.glob("leases.sqlite.damaged-*Z")
    kept = sqlite3.connect(aside)
    assert kept.execute("SELECT count(*) FROM lease").fetchone() == (0,)
    kept.close()


def test_a_newer_file_is_left_alone(path: Path, store: LeaseStore) -> None:
    store.assign("a", BOTH)
    store.close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 2")
    other.close()
    with pytest.raises(LeaseStoreError, match="newer version"):
        LeaseStore(path)
    assert path.exists()


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LeaseStoreError, match="cannot open"):
        LeaseStore(tmp_path / "file" / "leases.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(LeaseStoreError, match="cannot open"):
        LeaseStore(tmp_path / "folder.sqlite")


def test_another_writer_is_waited_for_and_then_named(path: Path, store: LeaseStore) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LeaseStoreError, match="locked"):
        store.assign("a", BOTH)
    other.execute("ROLLBACK")
    store.assign("a", BOTH)
    other.close()


WRITER = """
import sys
from ipaddress import ip_address
from pathlib import Path
from orchestrator.adapters.leases import LeaseStore
store = LeaseStore(Path(sys.argv[1]))
first = int(sys.argv[2])
for number in range(first, first + 60_000):
    vips = (ip_address(0x0A000000 + number), ip_address((0xFD << 120) + number))
    store.assign(f"e{number}", vips)
    if number % 3 == 0:
        store.release(f"e{number}")
    print(number, flush=True)
"""


def killed_writer(path: Path, first: int, after: float) -> int:
    """Runs a writer, kills it; returns the last number that it was told is on disk."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(first)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        told = writer.stdout.readline()
        time.sleep(after)  # noqa: TID251  killed at any instruction, not at one we wait for
        os.kill(writer.pid, signal.SIGKILL)
        rest = told + writer.stdout.read()
    return int(rest[: rest.rindex(b"\n")].split()[-1])


def test_what_was_promised_is_there_after_kill_9_at_any_instruction(path: Path) -> None:
    promised: set[int] = set()
    first = 0
    for turn in range(8):
        last = killed_writer(path, first, after=0.013 * turn)
        promised |= {number for number in range(first, last + 1) if number % 3}
        store = LeaseStore(path)
        found = store.all()
        store.close()
        numbers = {int(lease.identity[1:]) for lease in found}
        assert promised <= numbers
        assert all(len(lease.vips) == 2 for lease in found), "half a lease"
        first = last + 2  # one more may have been written without being told
        assert numbers - promised <= {last + 1}
        promised |= numbers


def test_a_busy_disk_costs_no_later_lease_its_sync(path: Path) -> None:
    store = LeaseStore(path)
    store.assign("anna", [ip_address("10.99.0.2")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LeaseStoreError):
        store.seen("anna")
    other.close()
    full = 2
    assert store._db.execute("PRAGMA synchronous").fetchone() == (full,)
    store.close()
