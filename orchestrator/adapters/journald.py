"""Writes to systemd's journal in its own protocol, so that values are fields there.

What a record carries as ORCH_* becomes a field of the entry, a list one field for each item.
What journald does not take (it is away, its queue is full, the entry is longer than a datagram)
goes to stderr, as a line that begins with its priority: systemd passes that on as well.

Formats: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/; sd-daemon(3) for the line.
"""

import contextlib
import logging
import os
import re
import socket
import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

SOCKET: Final = Path("/run/systemd/journal/socket")
PREFIX: Final = "ORCH_"
IDENTIFIER: Final = "orchestrator"
"""What `journalctl` shows before the message."""
_PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Levels as syslog(3) counts them; what is below is 7."""
_NO_NAME: Final = re.compile("[^A-Z0-9_]")
"""journald drops fields whose names have anything else."""


def is_stderr(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether stderr goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    found = os.fstat(2)
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """An entry: each field with its length, so that it may have any octets."""
    entry = bytearray()
    for name, value in fields:
        octets = value.encode(errors="backslashreplace")
        entry += b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(octets)), octets)
    return bytes(entry)


class JournalHandler(logging.Handler):
    """One entry for each record. Never waits for journald."""

    def __init__(self, path: Path = SOCKET) -> None:
        super().__init__()
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        priority = next((p for level, p in _PRIORITIES if record.levelno >= level), 7)
        fields = [
            ("MESSAGE", message),
            ("PRIORITY", str(priority)),
            ("SYSLOG_IDENTIFIER", IDENTIFIER),
        ]
        for key, value in vars(record).items():
            if key.startswith(PREFIX):
                every = value if isinstance(value, list) else [value]
                fields += [(_NO_NAME.sub("_", key), str(one)) for one in every]
        try:
            self._socket.sendto(encode(fields), self._path)
        except OSError:
            with contextlib.suppress(OSError):  # then nobody reads at all
                sys.stderr.write(f"<{priority}>{message}\n")

    def close(self) -> None:
        self._socket.close()
        super().close()
