"""What a conversation hears is compared, sentence by sentence, with what it said."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.scenarios.conversation import SENTENCE, Conversation

SENTENCES = 3
"""Said before a test looks."""


@contextmanager
def talking(answer: Callable[[bytes], bytes]) -> Iterator[Conversation]:
    """With an echo that gives `answer` for each sentence, and hangs up for none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()

    def echo() -> None:
        with theirs:
            while heard := theirs.recv(SENTENCE, socket.MSG_WAITALL):
                if not (said := answer(heard)):
                    return
                theirs.sendall(said)

    echoing = threading.Thread(target=echo, daemon=True)
    echoing.start()
    with Conversation(ours) as talk:
        while talk.said < SENTENCES and talk.failure is None:
            echoing.join(0.01)
        yield talk


def test_what_comes_back_as_it_was_ends_well() -> None:
    with talking(lambda sentence: sentence) as talk:
        assert talk.goes_on() < 30
        talk.ends_well()
        assert talk.heard == talk.said > SENTENCES


def test_another_octet_does_not() -> None:
    with (
        talking(lambda sentence: sentence[:-1] + b"!") as talk,
        pytest.raises(AssertionError, match="not what was said next"),
    ):
        talk.ends_well()


def test_a_missing_octet_does_not() -> None:
    with (
        talking(lambda sentence: sentence[1:]) as talk,
        pytest.raises(AssertionError, match="not what was said next"),
    ):
        talk.ends_well()


def test_an_end_that_comes_too_early_does_not() -> None:
    with (
        talking(lambda _: b"") as talk,
        pytest.raises(AssertionError, match=r"the peer closed the connection|broke"),
    ):
        talk.ends_well()
