"""SAs that move under traffic: no number is used twice, and nothing old is taken again."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from orchestrator.adapters.xfrm import Monitor
from orchestrator.core.quantities import IPAddress
from orchestrator.wire.netlink_xfrm import MappingChanged
from orchestrator.wire.security_association import Replay, ReplayEsn, moved
from tests.kernel.adapters.road import (
    ESN,
    LEFT,
    PLAIN,
    REQID,
    RIGHT,
    SPI_IN,
    SPI_OUT,
    VIP,
    Road,
)


def _roam(road: Road, source: IPAddress) -> None:
    """The optimistic move of the sending side: hold, move, go on."""
    road.hold()
    sa = road.xfrm.state(RIGHT[0], SPI_OUT)
    road.xfrm.move_state(sa, source, RIGHT[0])
    road.protect(source)


@pytest.mark.parametrize("replay", [ESN, PLAIN], ids=["esn", "plain"])
def test_no_sequence_number_is_used_twice_however_often_an_sa_moves(
    make_road: Callable[[str], Road], replay: str
) -> None:
    road = make_road(replay)
    with road.traffic():
        for turn in range(30):
            _roam(road, LEFT[(turn + 1) % 2])
            for _ in range(5):
                road.receive()
    packets = road.on_the_wire()
    numbers = [int.from_bytes(packet[32:36], "big") for packet in packets if packet[9] == 17]
    assert len(numbers) > 100
    assert all(before < after for before, after in pairwise(numbers))
    assert {packet[12:16] for packet in packets} == {address.packed for address in LEFT}
    assert not any(packet[12:16] == VIP.packed for packet in packets)
    last = road.xfrm.state(RIGHT[0], SPI_OUT)
    assert last.sent == numbers[-1]
    assert last.usage.packets == last.sent


def test_without_the_counters_numbers_are_used_twice(road: Road) -> None:
    # The negative control: the same move with counters read before the hold was in place.
    stale = road.xfrm.state(RIGHT[0], SPI_OUT)
    for _ in range(5):
        road.send()
    road.hold()
    road.xfrm.drop_state(RIGHT[0], SPI_OUT)
    road.xfrm._add(moved(stale, LEFT[1], RIGHT[0]))
    road.protect(LEFT[1])
    for _ in range(5):
        road.send()
    numbers = [esp.sequence for esp in road.esp_on_the_wire(10)]
    assert numbers == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]


def test_extended_numbers_go_on_over_the_wrap(road: Road) -> None:
    near = ReplayEsn(0xFFFF_FFF0, 0, 0, 0, 128, (0,) * 4)
    far = ReplayEsn(0, 0xFFFF_FFF0, 0, 0, 128, (0xFFFF_FFFF,) * 4)
    for xfrm, replay in ((road.xfrm, near), (road.right_xfrm, far)):
        sa = xfrm.state(RIGHT[0], SPI_OUT)
        xfrm.drop_state(RIGHT[0], SPI_OUT)
        xfrm._add(replace(sa, replay=replay))
    for number in range(40):
        if number % 8 == 0:
            _roam(road, LEFT[number // 8 % 2])
            receiving = road.right_xfrm.state(RIGHT[0], SPI_OUT)
            road.right_xfrm.move_state(receiving, LEFT[number // 8 % 2], RIGHT[0])
        road.send(b"%d" % number)
        assert road.receive() == b"%d" % number
    assert road.xfrm.state(RIGHT[0], SPI_OUT).sent == 0xFFFF_FFF0 + 40
    assert road.right_xfrm.state(RIGHT[0], SPI_OUT).received == 0xFFFF_FFF0 + 40


@pytest.mark.parametrize("replay", [ESN, PLAIN], ids=["esn", "plain"])
def test_what_was_received_before_the_move_is_not_accepted_again(
    make_road: Callable[[str], Road], replay: str
) -> None:
    road = make_road(replay)
    for number in range(5):
        road.send(b"%d" % number)
        road.receive()
    old = road.esp_on_the_wire(5)
    receiving = road.right_xfrm.state(RIGHT[0], SPI_OUT)
    road.right_xfrm.move_state(receiving, LEFT[0], RIGHT[1])
    for esp in old:
        road.replay(esp, RIGHT[1])
    assert road.nothing_arrives()
    assert road.right_xfrm.state(RIGHT[1], SPI_OUT).statistics.replayed == len(old)


def test_without_the_window_old_packets_are_accepted_again(
    make_road: Callable[[str], Road],
) -> None:
    # The negative control: the same with a window that forgot.
    road = make_road(PLAIN)
    road.send(b"old")
    assert road.receive() == b"old"
    (old,) = road.esp_on_the_wire(1)
    receiving = road.right_xfrm.state(RIGHT[0], SPI_OUT)
    road.right_xfrm.drop_state(RIGHT[0], SPI_OUT)
    forgetful = replace(moved(receiving, LEFT[0], RIGHT[1]), replay=Replay(0, 0, 0))
    road.right_xfrm._add(forgetful)
    road.replay(old, RIGHT[1])
    assert road.receive() == b"old"


def test_a_late_packet_within_the_window_is_accepted_after_the_move(road: Road) -> None:
    road.send(b"first")
    assert road.receive() == b"first"
    (late,) = road.esp_on_the_wire(1)
    unseen = replace(
        road.right_xfrm.state(RIGHT[0], SPI_OUT),
        replay=ReplayEsn(0, 5, 0, 0, 128, (0b11110, 0, 0, 0)),
    )
    road.right_xfrm.drop_state(RIGHT[0], SPI_OUT)
    road.right_xfrm._add(unseen)
    road.right_xfrm.move_state(unseen, LEFT[0], RIGHT[1])
    road.replay(late, RIGHT[1])
    assert road.receive() == b"first"


def test_both_directions_move(road: Road) -> None:
    _roam(road, LEFT[1])
    inbound = road.xfrm.state(LEFT[0], SPI_IN)
    road.xfrm.move_state(inbound, RIGHT[0], LEFT[1])
    assert {(sa.source, sa.destination) for sa in road.xfrm.states(REQID)} == {
        (LEFT[1], RIGHT[0]),
        (RIGHT[0], LEFT[1]),
    }


def test_the_other_side_hears_where_the_peer_has_moved_to(road: Road) -> None:
    with road.right.entered():
        monitor = Monitor()
    with monitor:
        road.send()
        road.receive()
        assert monitor.read() == ()
        _roam(road, LEFT[1])
        road.send(b"from the new address")
        assert road.receive() == b"from the new address"
        assert monitor.read() == (
            MappingChanged(RIGHT[0], SPI_OUT, REQID, LEFT[0], 4500, LEFT[1], 4500),
        )
