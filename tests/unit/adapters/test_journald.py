"""A record in the journal: its fields, octet by octet, and what happens without journald."""

import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socket

import pytest

from orchestrator.adapters.journald import JournalHandler, encode, is_stderr
from orchestrator.services.journal import Journal


def parse(entry: bytes) -> list[tuple[str, str]]:
    fields = []
    while entry:
        name, _, rest = entry.partition(b"\n")
        (length,) = struct.unpack_from("<Q", rest)
        fields.append((name.decode(), rest[8 : 8 + length].decode()))
        assert rest[8 + length : 9 + length] == b"\n"
        entry = rest[9 + length :]
    return fields


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket]:
    with socket(AF_UNIX, SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.settimeout(10)
        yield listener


@pytest.fixture
def log(tmp_path: Path) -> Iterator[logging.Logger]:
    """The daemons' log, which goes to a journald at `tmp_path`, if there is one."""
    logger = logging.getLogger("orchestrator")
    handler = JournalHandler(tmp_path / "socket")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)
    handler.close()


def test_octets() -> None:
    assert encode([("MESSAGE", "a\nb"), ("ORCH_X", "")]) == (
        b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nORCH_X\n\0\0\0\0\0\0\0\0\n"
    )


@pytest.mark.usefixtures("log")
def test_what_is_told_has_its_values_in_fields(journald: socket) -> None:
    fields = {"path": "wlan0 192.0.2.2", "retry-s": 4, "pop": None}
    Journal().tell("failed", {"no-link", "no-carrier"}, fields, warning=True)
    assert parse(journald.recv(4096)) == [
        ("MESSAGE", "failed (no-carrier, no-link) path=wlan0 192.0.2.2 retry-s=4"),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "orchestrator"),
        ("ORCH_EVENT", "failed"),
        ("ORCH_REASON", "no-carrier"),
        ("ORCH_REASON", "no-link"),
        ("ORCH_PATH", "wlan0 192.0.2.2"),
        ("ORCH_RETRY_S", "4"),
    ]


def test_a_traceback_stays_in_one_entry(journald: socket, log: logging.Logger) -> None:
    try:
        int("a defect")
    except ValueError:
        log.exception("ended")
    fields = dict(parse(journald.recv(65536)))
    assert fields["PRIORITY"] == "3"
    assert fields["MESSAGE"].startswith("ended\nTraceback")
    assert fields["MESSAGE"].endswith("'a defect'")


@pytest.mark.parametrize("size", [1, 1 << 22])
def test_what_journald_does_not_take_goes_to_stderr(
    size: int,
    tmp_path: Path,
    log: logging.Logger,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is away, or the entry is longer than a datagram can be."""
    with socket(AF_UNIX, SOCK_DGRAM) as listener:
        if size > 1:
            listener.bind(str(tmp_path / "socket"))
        log.warning("x" * size)
    assert capsys.readouterr().err == f"<4>{'x' * size}\n"


def test_stderr_is_the_journal_only_if_systemd_says_so_of_this_very_stream() -> None:
    own = os.fstat(2)
    assert is_stderr({"JOURNAL_STREAM": f"{own.st_dev}:{own.st_ino}"})
    assert not is_stderr({"JOURNAL_STREAM": f"{own.st_dev}:{own.st_ino + 1}"})
    assert not is_stderr({})
