"""Octets that number themselves, and what is made of when they arrived."""

import socket
import struct
from collections.abc import Iterator

import pytest

from orchestrator.lab.flows import BULK, INTERACTIVE, Arrivals, Flow, numbers, regained
from orchestrator.lab.ticker import Way


@pytest.fixture
def flow() -> Iterator[Flow]:
    pair = socket.socketpair()
    for each in pair:
        each.setblocking(False)  # noqa: FBT003 - the standard library's signature
    yield Flow(INTERACTIVE, Way.UP, *pair)
    for each in pair:
        each.close()


def steady(begin: float, end: float, octets: int, every: float) -> Arrivals:
    arrivals = Arrivals()
    for step in range(1, round((end - begin) / every) + 1):
        arrivals.add(begin + step * every, octets)
    return arrivals


def test_octets_are_running_numbers() -> None:
    assert numbers(0, 24) == struct.pack("!3Q", 0, 1, 2)
    assert numbers(8 * 1_000_000, 8) == struct.pack("!Q", 1_000_000)


@pytest.mark.parametrize("begin", [0, 3, 65_530, 131_072])
def test_octets_are_the_same_however_they_are_cut(begin: int) -> None:
    length = 200_001
    assert numbers(begin, length) == numbers(0, begin + length)[begin:]


def test_what_is_written_arrives(flow: Flow) -> None:
    for _ in range(3):
        flow.write()
    flow.pull()
    assert flow.arrivals.total == flow.sent == 24
    assert flow.failure is None


def test_a_repeated_octet_is_noticed(flow: Flow) -> None:
    flow.sender.send(numbers(0, 8) + numbers(0, 8))
    flow.pull()
    assert flow.failure == "wrong octets after 0"


def test_an_end_is_noticed_and_the_first_failure_is_kept(flow: Flow) -> None:
    flow.sender.shutdown(socket.SHUT_WR)
    flow.pull()
    flow.fail("later")
    assert flow.failure == "the receiver saw the end"


def test_a_pouring_application_fills_its_socket_and_no_more(flow: Flow) -> None:
    pouring = Flow(BULK, Way.UP, flow.sender, flow.receiver)
    before = -1
    while pouring.sent != before:
        before = pouring.sent
        pouring.push()
    while pouring.arrivals.total < pouring.sent:
        pouring.pull()
    assert pouring.failure is None
    assert pouring.sent > 0


def test_the_first_octet_since_an_instant() -> None:
    arrivals = steady(0.0, 1.0, 10, 0.25)
    assert arrivals.first_since(0.6) == 0.75
    assert arrivals.first_since(1.5) is None
    assert arrivals.between(0.25, 0.75) == 20


def test_a_rate_is_regained_when_it_lasts() -> None:
    # 1000 octets/s from the third second on.
    arrivals = steady(3.0, 6.0, 100, 0.1)
    assert regained([arrivals], 2.0, 900.0, 6.0) == pytest.approx(1.2)
    assert regained([arrivals], 2.0, 1100.0, 6.0) is None


def test_two_flows_have_a_rate_together() -> None:
    arrivals = [steady(0.0, 3.0, 50, 0.1) for _ in range(2)]
    assert regained(arrivals, 0.0, 900.0, 3.0) == pytest.approx(0.2)
    assert regained(arrivals[:1], 0.0, 900.0, 3.0) is None


def test_what_had_waited_in_a_queue_is_no_rate() -> None:
    arrivals = Arrivals()
    arrivals.add(0.1, 5000)
    for step in range(20):
        arrivals.add(1.0 + step * 0.1, 10)
    assert regained([arrivals], 0.0, 6000.0, 3.0) is None
