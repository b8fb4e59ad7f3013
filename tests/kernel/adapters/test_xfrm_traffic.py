"""Which SA traffic takes, whether it takes any, and who is told that it does."""

import contextlib
import errno
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from orchestrator.adapters.xfrm import Monitor
from orchestrator.core.errors import KernelError
from orchestrator.core.quantities import Spi
from orchestrator.wire.netlink_xfrm import StateCounts
from orchestrator.wire.xfrm_structs import Group
from tests.kernel.adapters.road import ESN, LEFT, PLAIN, RIGHT, SPI_OUT, Road

WITHOUT = 2.5
"""Seconds without a packet after which the next one is told of; the kernel takes one."""
YOUNGER = Spi(0xA2)
ACQUIRES = 1 << 0
"""XFRMNLGRP_ACQUIRE, as bind(2) has it."""


def test_held_packets_do_not_reach_the_wire(road: Road) -> None:
    road.hold()
    for _ in range(10):
        road.send()
    assert road.on_the_wire() == []
    assert road.xfrm.state(RIGHT[0], SPI_OUT).sent == 0


@pytest.mark.parametrize("named", [True, False], ids=["named", "control"])
def test_a_younger_sa_takes_nothing_from_the_one_that_a_policy_names(
    road: Road, *, named: bool
) -> None:
    road.protect(LEFT[0], spi=SPI_OUT if named else None)
    road.send()
    road.younger(YOUNGER)
    road.send()
    first, second = road.esp_on_the_wire(2)
    assert first.spi == SPI_OUT
    assert second.spi == (SPI_OUT if named else YOUNGER)


@pytest.mark.parametrize("charon_listens", [True, False], ids=["listens", "control"])
def test_an_spi_that_a_policy_names_too_early_is_taken(
    road: Road, *, charon_listens: bool
) -> None:
    """Where somebody listens for wishes, as charon does, the kernel keeps the SPI for what
    comes of this one (xfrm_state_find). So an SA is not named before it is there."""
    like = road.xfrm.state(RIGHT[0], SPI_OUT)
    with road.left.entered(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6) as listener:
        listener.bind((0, ACQUIRES if charon_listens else 0))
        road.protect(LEFT[0], spi=YOUNGER)
        with contextlib.suppress(OSError):
            road.send()
        fresh = replace(like, spi=YOUNGER)
        if charon_listens:
            with pytest.raises(KernelError) as refused:
                road.xfrm._add(fresh)
            assert refused.value.errno == errno.EEXIST
        else:
            road.xfrm._add(fresh)


@pytest.mark.parametrize("replay", [ESN, PLAIN])
class TestCounting:
    """The kernel tells that an SA counts, to who asked for it, and only then."""

    @pytest.fixture
    def road(self, make_road: Callable[[str], Road], replay: str) -> Road:
        return make_road(replay)

    @pytest.fixture
    def counting(self, road: Road) -> Iterator[Monitor]:
        with road.left.entered():
            monitor = Monitor(())
        with monitor:
            yield monitor

    def test_nobody_is_told_who_did_not_ask(self, road: Road, counting: Monitor) -> None:
        for _ in range(5):
            road.send()
            road.receive()
        assert counting.read() == ()

    def test_the_second_packet_is_told_of_at_once(self, road: Road, counting: Monitor) -> None:
        counting.hear(Group.AEVENTS, on=True)
        road.send()
        road.send()
        assert counting.read() == (StateCounts(SPI_OUT),)

    def test_the_first_one_is_after_a_time_without(self, road: Road, counting: Monitor) -> None:
        counting.hear(Group.AEVENTS, on=True)
        road.send()
        road.send()
        counting.read()
        select.select([counting], [], [], WITHOUT)
        assert counting.read() == ()
        road.send()
        assert counting.read() == (StateCounts(SPI_OUT),)

    def test_nothing_is_told_any_more_when_nobody_listens(
        self, road: Road, counting: Monitor
    ) -> None:
        counting.hear(Group.AEVENTS, on=True)
        counting.hear(Group.AEVENTS, on=False)
        for _ in range(5):
            road.send()
        assert counting.read() == ()
