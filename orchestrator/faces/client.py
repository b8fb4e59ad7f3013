"""Asks a daemon over its control socket, and waits for what it says."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orchestrator.adapters.fdpass import Channel
from orchestrator.core.errors import ConfigError, OrchestratorError, PeerError
from orchestrator.core.quantities import Seconds
from orchestrator.wire.control import (
    REPLY_LIMIT,
    Refusal,
    Refused,
    Request,
    Verb,
    decode_reply,
    encode_request,
)

CONNECT_TIMEOUT: Final = 5.0
"""Seconds until a daemon that is there accepts."""
ANSWER_TIMEOUT: Final = 25.0
"""Seconds; a daemon gives itself fifteen to answer, and five for us to take it."""
CHUNK: Final = 64 * 1024


class NoAnswer(OrchestratorError):
    """Nobody answered, or not in this language; what to do about it."""

    def __init__(self, error: str, remedy: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.remedy = remedy


class NotRunning(NoAnswer):
    """There is no daemon, or none any more."""


def ask(path: Path, request: Request) -> object:
    """The daemon's answer. Raises Refused, or ConfigError for its configuration, if it refuses;
    NotRunning, NoAnswer."""
    with _connected(path) as connection:
        connection.sendall(encode_request(request))
        return _result(next(_lines(connection), b""))


def watch(path: Path) -> Iterator[object]:
    """What happens, as it happens. Raises NotRunning when the daemon ends, or drops us, and
    what `ask` raises."""
    with _connected(path) as connection:
        connection.sendall(encode_request(Request(Verb.WATCH)))
        lines = _lines(connection)
        _result(next(lines, b""))  # the watch begins
        connection.settimeout(None)
        for line in lines:
            yield _result(line)
        raise NotRunning(
            "the daemon has ended", "watch it again when it is back; its log says why it ended"
        )


class SignIn:
    """A way to sign in that was granted; `open` it, then read `events`."""

    def __init__(
        self, connection: socket.socket, terms: object, lines: Iterator[bytes]
    ) -> None:
        self.terms = terms
        self.connection = connection
        """Readable when there is an event, or the daemon has ended."""
        self._lines = lines

    def open(self, listeners: Sequence[socket.socket]) -> None:
        """Hands the sockets over, and waits until they are served. Raises as `ask`."""
        limit = Seconds(ANSWER_TIMEOUT)
        channel = Channel(self.connection, 0, limit, limit)
        channel.send(b"", [sock.fileno() for sock in listeners])
        _result(next(self._lines, b""))

    def closed(self) -> object | None:
        """Waits for the event that says so; None if the daemon has ended."""
        self.connection.settimeout(None)
        line = next(self._lines, None)
        return None if line is None else _result(line)


@contextmanager
def sign_in(path: Path, link: str | None) -> Iterator[SignIn]:
    """A way that the daemon grants, until the context ends. Raises as `ask`."""
    with _connected(path) as connection:
        connection.sendall(encode_request(Request(Verb.PORTAL, link)))
        lines = _lines(connection)
        yield SignIn(connection, _result(next(lines, b"")), lines)


def _result(line: bytes) -> object:
    try:
        reply = decode_reply(line)
    except PeerError as error:
        raise NoAnswer(
            "the daemon ended in the middle of its answer" if not line else f"{error}",
            "look at its log; it must be of the same version as this command",
        ) from error
    if isinstance(reply, Refusal) and reply.faults:
        raise ConfigError(reply.faults)
    if isinstance(reply, Refusal):
        raise Refused(reply.error, reply.remedy)
    return reply.result


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """Whole lines, ended by a newline; what is longer than a reply may be is cut."""
    pending = bytearray()
    while chunk := connection.recv(CHUNK):
        start = len(pending)
        pending += chunk
        while (end := pending.find(b"\n", start)) >= 0:
            yield bytes(pending[: end + 1])
            del pending[: end + 1]
            start = 0
        if len(pending) > REPLY_LIMIT:
            return


@contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    """A connection; what goes wrong with it is a NoAnswer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONNECT_TIMEOUT)
        try:
            connection.connect(str(path))
            connection.settimeout(ANSWER_TIMEOUT)
            yield connection
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(
                f"no daemon is running at {path}",
                "start it (`orchestrator run CONFIG`), or name its --socket",
            ) from error
        except PermissionError as error:
            raise NoAnswer(
                f"you may not talk to the daemon at {path}",
                "run this as root, or as a member of the group that [control] names",
            ) from error
        except TimeoutError as error:
            raise NoAnswer(
                f"the daemon at {path} does not answer", "look at its log"
            ) from error
        except OSError as error:
            raise NoAnswer(f"the daemon at {path}: {error.strerror or error}") from error
