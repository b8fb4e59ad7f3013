"""Connections between two hosts of the lab, and that their loss is noticed."""

import socket
import threading
import time
from collections.abc import Callable

from orchestrator.lab.flows import (
    BULK,
    IDLE_KEEPALIVE,
    IDLE_USER_TIMEOUT,
    INTERACTIVE,
    Flow,
    Flows,
    Habit,
)
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab
from orchestrator.lab.ticker import Way
from tests.kernel.lab.waiting import becomes

HABITS = (BULK, INTERACTIVE, IDLE_KEEPALIVE, IDLE_USER_TIMEOUT)
IMPATIENT = Habit(
    "impatient", ((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500),), writes_when_cut=True
)


def flows_of(lab: Lab, *habits: Habit) -> Flows:
    """From the server: it reaches the peer without a tunnel."""
    flows = Flows(lab.host("server"), lab.host("peer1"), INTERNET.address("peer1"))
    for habit in habits:
        for way in Way:
            flows.open(habit, way, 2)
    return flows


def all_become(flows: Flows, good: Callable[[Flow], bool]) -> bool:
    return becomes(lambda: all(good(flow) for flow in flows.flows))


def test_every_habit_is_heard_in_both_directions(lab: Lab) -> None:
    with flows_of(lab, *HABITS) as flows:
        assert all_become(flows, lambda flow: flow.arrivals.total > 0)
        assert len(flows.of(BULK, Way.DOWN)) == 2
        cut = time.monotonic()
        flows.tell_cut()
        flows.tell_back()
        assert all_become(flows, lambda flow: flow.arrivals.first_since(cut) is not None)
    assert [flow.failure for flow in flows.flows] == [None] * len(flows.flows)


def test_nothing_arrives_over_a_cut_link_and_all_goes_on_when_it_is_mended(lab: Lab) -> None:
    with flows_of(lab, INTERACTIVE) as flows:
        assert all_become(flows, lambda flow: flow.arrivals.total > 0)
        lab.link("peer1").cut()
        cut = time.monotonic() + 0.05
        threading.Event().wait(0.5)
        assert all(flow.arrivals.first_since(cut) is None for flow in flows.flows)
        lab.link("peer1").mend()
        assert all_become(flows, lambda flow: flow.arrivals.first_since(cut) is not None)


def test_a_connection_that_its_application_gave_up_has_failed(lab: Lab) -> None:
    with flows_of(lab, IMPATIENT) as flows:
        assert all_become(flows, lambda flow: flow.arrivals.total > 0)
        lab.link("peer1").cut()
        flows.tell_cut()
        assert all_become(flows, lambda flow: flow.failure is not None)
        assert {flow.failure for flow in flows.flows} == {
            "the sender's socket: Connection timed out"
        }
