"""A stream through an echo is compared, whole, with what was sent."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.scenarios.bulk import PIECE, Bulk


@contextmanager
def pouring(answer: Callable[[bytes, int], bytes]) -> Iterator[Bulk]:
    """Through an echo that gives `answer` for octets, and how many came before them."""
    ours, theirs = socket.socketpair()

    def echo() -> None:
        came = 0
        with theirs:
            while octets := theirs.recv(1 << 16):
                theirs.sendall(answer(octets, came))
                came += len(octets)

    echoing = threading.Thread(target=echo, daemon=True)
    echoing.start()
    with Bulk(ours) as bulk:
        while bulk.sent < 2 * PIECE:
            echoing.join(0.01)
        yield bulk


def test_what_comes_back_as_it_was_ends_well() -> None:
    with pouring(lambda octets, _: octets) as bulk:
        bulk.ends_well()
        assert bulk.received == bulk.sent >= 2 * PIECE
        assert bulk.longest_stall(bulk.arrivals[0], bulk.arrivals[-1]).lasted > 0


def test_another_octet_does_not() -> None:
    def swap(octets: bytes, came: int) -> bytes:
        return octets if came else bytes([octets[0] ^ 1]) + octets[1:]

    with pouring(swap) as bulk, pytest.raises(AssertionError, match="not what was sent"):
        bulk.ends_well()


def test_a_missing_octet_does_not() -> None:
    def lose(octets: bytes, came: int) -> bytes:
        return octets if came else octets[1:]

    with pouring(lose) as bulk, pytest.raises(AssertionError, match="incomplete"):
        bulk.ends_well(limit=1.0)
