"""What a daemon says is passed on; what goes wrong has a sentence and a remedy."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.faces import client
from orchestrator.faces.client import NoAnswer, NotRunning, ask, watch
from orchestrator.wire.control import (
    Done,
    Refusal,
    Refused,
    Request,
    Verb,
    decode_request,
    encode_reply,
)

STATUS = Request(Verb.STATUS)


class Listener:
    """Answers one client with the given octets, and hangs up when told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[Request] = []
        self.answer = b""
        self.may_hang_up = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, name="listener", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return  # nobody came
        with connection:
            self.asked.append(decode_request(connection.recv(4096)))
            connection.sendall(self.answer)
            self.may_hang_up.wait()

    def close(self) -> None:
        self.may_hang_up.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5.0)
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(tmp_path / "control.sock")
    yield made
    made.close()


def test_returns_what_the_daemon_answers(listener: Listener) -> None:
    listener.answer = encode_reply(Done({"state": "attached"}))
    assert ask(listener.path, Request(Verb.ROAM, "wlan0")) == {"state": "attached"}
    assert listener.asked == [Request(Verb.ROAM, "wlan0")]


def test_a_refusal_keeps_its_remedy(listener: Listener) -> None:
    listener.answer = encode_reply(Refusal("no usable path", "plug it in"))
    with pytest.raises(Refused) as caught:
        ask(listener.path, STATUS)
    assert (caught.value.error, caught.value.remedy) == ("no usable path", "plug it in")


def test_without_a_daemon_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="no daemon is running at") as caught:
        ask(tmp_path / "none.sock", STATUS)
    assert "orchestrator run" in caught.value.remedy


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [(b"", "in the middle of its answer"), (b"nonsense\n", "not JSON")],
)
def test_half_an_answer_is_none(listener: Listener, answer: bytes, complaint: str) -> None:
    listener.answer = answer
    listener.may_hang_up.set()
    with pytest.raises(NoAnswer, match=complaint):
        ask(listener.path, STATUS)


def test_does_not_wait_for_ever(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_TIMEOUT", 0.05)
    with pytest.raises(NoAnswer, match="does not answer"):
        ask(listener.path, STATUS)


def test_watches_until_the_daemon_ends(listener: Listener) -> None:
    listener.answer = b"".join(encode_reply(Done(each)) for each in (None, {"event": "moved"}))
    watched = watch(listener.path)
    assert next(watched) == {"event": "moved"}
    listener.may_hang_up.set()
    with pytest.raises(NotRunning, match="the daemon has ended"):
        next(watched)
