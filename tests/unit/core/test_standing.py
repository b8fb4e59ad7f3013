"""What stands is counted, whatever order a list and events come in."""

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.flows import (
    FlowDirection,
    FlowEnded,
    FlowEvent,
    FlowOpened,
    FlowRecord,
    FlowRefused,
    Refusal,
    SocketAddress,
)
from orchestrator.core.quantities import Instant
from orchestrator.core.relay_events import Outcome, Phase
from orchestrator.core.standing import Standing

VIP, OTHER = ip_address("10.99.0.7"), ip_address("10.99.0.8")


def record(number: int, vip: object = VIP) -> FlowRecord:
    return FlowRecord(
        SocketAddress(vip, 40000),  # type: ignore[arg-type]
        SocketAddress(ip_address("10.50.0.2"), 80),
        FlowDirection.FROM_ENDPOINT,
        Instant(float(number)),
        Phase.OPEN,
        *(0, 0, 0, 0),
    )


def test_counts_those_of_each_address() -> None:
    standing = Standing([record(1), record(2), record(3, OTHER)])
    assert len(standing) == 3
    assert standing.by_vip() == {VIP: 2, OTHER: 1}


def test_a_flow_that_goes_on_is_the_same_one() -> None:
    standing = Standing([record(1)])
    standing.note(FlowOpened(replace(record(1), to_peer=7)))
    assert len(standing) == 1


def test_what_was_refused_never_stood() -> None:
    one = record(1)
    standing = Standing()
    standing.note(FlowRefused(one.vip, one.peer, one.direction, Refusal.VIP_FULL))
    assert len(standing) == 0


def test_names_what_stands_nowhere_else() -> None:
    before = Standing([record(1), record(2), record(3, OTHER)])
    assert before.without(Standing([record(2), record(4)])).by_vip() == {VIP: 1, OTHER: 1}


@given(st.lists(st.integers(1, 9)), st.integers(0, 20), st.integers(0, 20))
def test_events_that_the_list_knew_of_already_count_once(
    steps: list[int], watched: int, listed: int
) -> None:
    """A step opens a flow, or ends it."""
    events: list[FlowEvent] = []
    open_now: set[int] = set()
    serial: dict[int, int] = {}
    at_list: list[FlowRecord] = []
    watched, listed = min(watched, listed, len(steps)), min(listed, len(steps))
    for place, step in enumerate([*steps, 0]):
        if place == listed:
            at_list = [record(10 * serial[each] + each) for each in open_now]
        if not step:
            break
        if step in open_now:
            open_now.discard(step)
            ended = record(10 * serial[step] + step)
            events.append(FlowEnded(ended, Outcome.FINISHED))
        else:
            open_now.add(step)
            serial[step] = serial.get(step, 0) + 1
            events.append(FlowOpened(record(10 * serial[step] + step)))
    standing = Standing(at_list)
    for event in events[watched:]:
        standing.note(event)
    assert len(standing) == len(open_now)
