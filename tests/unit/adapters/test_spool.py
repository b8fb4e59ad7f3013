"""Spools: in order, whole or not at all, nothing left behind."""

import os
from pathlib import Path

import pytest

from orchestrator.adapters.spool import HEADER, SpoolFolder, SpoolLost, opened
from orchestrator.core.errors import KernelError


@pytest.fixture
def folder(tmp_path: Path) -> SpoolFolder:
    return SpoolFolder(tmp_path / "a" / "spool")


def test_chunks_come_back_in_their_order(folder: SpoolFolder) -> None:
    spool = folder.create()
    chunks = [os.urandom(size) for size in (1, 1000, 65536)]
    for chunk in chunks:
        assert spool.append(chunk) == len(chunk) + HEADER.size
    assert spool.tail == sum(len(chunk) + HEADER.size for chunk in chunks)
    assert [spool.take() for _ in chunks] == chunks
    assert spool.head == spool.tail
    spool.append(b"later")
    assert spool.take() == b"later"
    spool.close()


def test_a_file_has_no_name_and_is_its_owners(folder: SpoolFolder) -> None:
    spool = folder.create()
    found = os.fstat(spool.fileno())
    assert (found.st_nlink, found.st_mode & 0o777) == (0, 0o600)
    assert list(folder.path.iterdir()) == []
    assert folder.path.stat().st_mode & 0o777 == 0o700
    spool.close()


def test_goes_on_in_another_process(folder: SpoolFolder) -> None:
    spool = folder.create()
    for chunk in (b"one", b"two", b"three"):
        spool.append(chunk)
    assert spool.take() == b"one"
    other = opened(os.dup(spool.fileno()), spool.head, spool.tail)
    spool.close()
    other.append(b"four")
    assert [other.take() for _ in range(3)] == [b"two", b"three", b"four"]
    other.close()


@pytest.mark.parametrize(("head", "tail"), [(-1, 5), (5, 5), (0, 100)])
def test_what_another_process_cannot_have_spooled_is_refused(
    folder: SpoolFolder, head: int, tail: int
) -> None:
    spool = folder.create()
    spool.append(b"one")
    with pytest.raises(OSError, match="no spool"):
        opened(spool.fileno(), head, tail)
    spool.close()


@pytest.mark.parametrize("place", [0, 4, HEADER.size, HEADER.size + 99])
@pytest.mark.parametrize("damage", [b"\x00", b"\xff"])
def test_what_the_disk_changed_is_lost(folder: SpoolFolder, place: int, damage: bytes) -> None:
    spool = folder.create()
    spool.append(b"\x55" * 100)
    before = os.pread(spool.fileno(), 1, place)
    os.pwrite(spool.fileno(), damage if before != damage else b"\x01", place)
    with pytest.raises(SpoolLost):
        spool.take()
    spool.close()


def test_a_chunk_of_another_place_is_lost(folder: SpoolFolder) -> None:
    spool = folder.create()
    for chunk in (b"one", b"two"):
        spool.append(chunk)
    second = os.pread(spool.fileno(), HEADER.size + 3, HEADER.size + 3)
    os.pwrite(spool.fileno(), second, 0)
    with pytest.raises(SpoolLost):
        spool.take()
    spool.close()


def test_what_the_disk_forgot_is_lost(folder: SpoolFolder) -> None:
    spool = folder.create()
    spool.append(b"one")
    os.ftruncate(spool.fileno(), 5)
    with pytest.raises(SpoolLost):
        spool.take()
    spool.close()


def test_a_refused_chunk_changes_nothing(folder: SpoolFolder) -> None:
    spool = folder.create()
    spool.append(b"one")
    reader = os.open(f"/proc/self/fd/{spool.fileno()}", os.O_RDONLY)
    kept = os.dup(spool.fileno())
    os.dup2(reader, spool.fileno())
    with pytest.raises(KernelError, match="append to"):
        spool.append(b"two")
    os.dup2(kept, spool.fileno())
    assert spool.append(b"three") > 0
    assert [spool.take(), spool.take()] == [b"one", b"three"]
    for descriptor in (reader, kept):
        os.close(descriptor)
    spool.close()


def test_only_its_own_left_overs_are_removed(tmp_path: Path) -> None:
    (tmp_path / "flow-1").write_bytes(b"left")
    (tmp_path / "letter").write_bytes(b"precious")
    tmp_path.chmod(0o700)
    SpoolFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(KernelError, match="somebody else may write there"):
        SpoolFolder(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KernelError, match="use"):
        SpoolFolder(tmp_path / "file")
