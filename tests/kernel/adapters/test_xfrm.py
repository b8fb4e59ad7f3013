"""Policies run on any kernel with XFRM; SAs where there is ESP."""

import contextlib
import errno
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest

from orchestrator.adapters.xfrm import Monitor, NewsLost, Xfrm
from orchestrator.core.errors import KernelError
from orchestrator.core.kernel import (
    ENDPOINT_REQID,
    POLICY_PRIORITY_POOL,
    Direction,
    Policy,
    Selector,
    Template,
    Verdict,
)
from orchestrator.core.quantities import IPAddress, Reqid, Spi
from orchestrator.wire.netlink_xfrm import (
    MappingChanged,
    PoliciesFlushed,
    PolicyGone,
    PolicyPut,
    StateCounts,
    StateExpired,
    StateGone,
    StatePut,
    StatesFlushed,
)
from orchestrator.wire.security_association import Mark, Replay, ReplayEsn, StateFlag, moved
from orchestrator.wire.xfrm_structs import Group
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
from tests.kernel.netns import Namespace

WITHOUT = 2.5
"""Seconds without a packet after which the next one is told of; the kernel takes one."""
ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")
VIP4, VIP6 = ip_network("10.99.0.2/32"), ip_network("fd00:99::2/128")
PATH = Template(ip_address("192.168.10.2"), ip_address("203.0.113.10"), ENDPOINT_REQID)
PATH6 = Template(ip_address("2001:db8:64::2"), ip_address("2001:db8:113::10"), ENDPOINT_REQID)
ANYWHERE = Template(None, None, ENDPOINT_REQID)
NAMED = replace(PATH, spi=Spi(0xA1))
YOUNGER = Spi(0xA2)
ACQUIRES = 1 << 0
"""XFRMNLGRP_ACQUIRE, as bind(2) has it."""

OUT = Policy(Direction.OUT, Selector(VIP4, ANY4), Verdict.PROTECT, PATH)
POLICIES = (
    OUT,
    Policy(Direction.OUT, Selector(VIP6, ANY6), Verdict.PROTECT, NAMED),
    Policy(Direction.IN, Selector(ANY4, VIP4), Verdict.PROTECT, ANYWHERE),
    Policy(Direction.FWD, Selector(ANY6, VIP6), Verdict.PROTECT, ANYWHERE),
    Policy(Direction.OUT, Selector(ANY4, VIP4), Verdict.PROTECT, PATH6),
    Policy(
        Direction.OUT,
        Selector(ANY4, ip_network("10.99.0.0/24")),
        Verdict.ALLOW,
        priority=POLICY_PRIORITY_POOL,
    ),
    Policy(
        Direction.FWD,
        Selector(ip_network("fd00:99::/64"), ANY6),
        Verdict.BLOCK,
        priority=POLICY_PRIORITY_POOL,
    ),
)


@pytest.fixture
def xfrm(network_namespace: Namespace) -> Iterator[Xfrm]:
    with Xfrm() as opened:
        yield opened


@pytest.fixture
def monitor(xfrm: Xfrm) -> Iterator[Monitor]:
    with Monitor() as opened:
        yield opened


# Policies


def test_reads_policies_back_as_they_were_put(xfrm: Xfrm) -> None:
    for policy in POLICIES:
        xfrm.put_policy(policy)
    assert set(xfrm.policies()) == set(POLICIES)


def test_putting_a_policy_replaces_the_one_with_its_key(xfrm: Xfrm) -> None:
    hold = Policy(OUT.direction, OUT.selector, Verdict.ALLOW)
    for policy in (OUT, hold, OUT, hold):
        xfrm.put_policy(policy)
        assert xfrm.policies() == (policy,)


def test_putting_a_policy_twice_is_putting_it_once(xfrm: Xfrm) -> None:
    xfrm.put_policy(OUT)
    xfrm.put_policy(OUT)
    assert xfrm.policies() == (OUT,)


def test_drops_a_policy_and_no_other(xfrm: Xfrm) -> None:
    for policy in POLICIES:
        xfrm.put_policy(policy)
    xfrm.drop_policy(OUT.direction, OUT.selector)
    assert set(xfrm.policies()) == set(POLICIES) - {OUT}


def test_dropping_what_is_not_there_is_fine(xfrm: Xfrm) -> None:
    xfrm.drop_policy(OUT.direction, OUT.selector)
    assert xfrm.policies() == ()


def test_lists_more_policies_than_fit_into_one_datagram(xfrm: Xfrm) -> None:
    many = {
        replace(OUT, selector=Selector(ip_network(f"10.99.{n // 256}.{n % 256}/32"), ANY4))
        for n in range(500)
    }
    for policy in many:
        xfrm.put_policy(policy)
    assert set(xfrm.policies()) == many


def test_foreign_policies_are_not_ours(xfrm: Xfrm, network_namespace: Namespace) -> None:
    selector = "src 10.99.0.2/32 dst 10.0.0.{}/32{} dir out"
    template = "tmpl src 192.0.2.1 dst 192.0.2.2 proto {} reqid 1 mode {} level {}"
    network_namespace.run(
        f"ip xfrm policy add {selector.format(1, '')} priority 5",
        f"ip xfrm policy add {selector.format(2, '')} priority 11100 mark 1 mask 0xff",
        f"ip xfrm policy add {selector.format(3, '')} priority 11100 "
        + template.format("esp", "transport", "required"),
        f"ip xfrm policy add {selector.format(4, '')} priority 11100 "
        + template.format("ah", "tunnel", "required"),
        f"ip xfrm policy add {selector.format(5, ' proto tcp dport 80')} priority 11100",
        "ip xfrm policy add dst 10.99.0.2/32 dir in priority 11100 "
        + template.format("esp", "tunnel", "use"),
    )
    assert xfrm.policies() == ()
    xfrm.put_policy(OUT)
    assert xfrm.policies() == (OUT,)


def test_ip_shows_the_policy_that_was_meant(xfrm: Xfrm, network_namespace: Namespace) -> None:
    xfrm.put_policy(POLICIES[2])
    shown = network_namespace.run("ip xfrm policy list")
    assert "src 0.0.0.0/0 dst 10.99.0.2/32" in shown
    assert "dir in priority 11100" in shown
    assert "tmpl src 0.0.0.0 dst 0.0.0.0" in shown
    assert f"proto esp reqid {ENDPOINT_REQID} mode tunnel" in shown
    assert "level use" not in shown  # that would accept what was not protected


# News


def test_hears_of_policies_put_dropped_and_flushed(
    xfrm: Xfrm, monitor: Monitor, network_namespace: Namespace
) -> None:
    xfrm.put_policy(OUT)
    xfrm.drop_policy(OUT.direction, OUT.selector)
    xfrm.put_policy(OUT)
    network_namespace.run("ip xfrm policy flush")
    assert monitor.read() == (
        PolicyPut(OUT),
        PolicyGone(OUT),
        PolicyPut(OUT),
        PoliciesFlushed(),
    )
    assert monitor.read() == ()


def test_does_not_hear_of_what_its_own_daemon_does(
    xfrm: Xfrm, network_namespace: Namespace
) -> None:
    with network_namespace.entered(), Monitor(besides=xfrm) as monitor:
        xfrm.put_policy(OUT)
        network_namespace.run("ip xfrm policy flush")
        assert monitor.read() == (PoliciesFlushed(),)


def test_knows_that_it_missed_news(xfrm: Xfrm, monitor: Monitor) -> None:
    for _ in range(6000):
        xfrm.put_policy(OUT)
    heard = [type(news) for _ in range(200) for news in monitor.read()]
    assert NewsLost in heard


# SAs

GCM = "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128"
CBC = f"auth-trunc hmac(sha256) 0x{'a1' * 32} 128 enc cbc(aes) 0x{'b2' * 16}"
ADVANCED = (
    "replay-window 128 flag esn flag af-unspec replay-seq 70 replay-oseq 90"
    " replay-seq-hi 1 replay-oseq-hi 2"
)
LIMITED = "limit time-soft 3000 limit time-hard 3600 limit byte-hard 99999999"
SOURCE, DESTINATION, SPI = ip_address("192.0.2.1"), ip_address("192.0.2.9"), Spi(0xC0FFEE01)
NAME = f"src {SOURCE} dst {DESTINATION} proto esp spi {SPI:#x}"


@pytest.mark.usefixtures("needs_esp")
class TestStates:
    def test_reads_an_sa_as_ip_made_it(self, xfrm: Xfrm, network_namespace: Namespace) -> None:
        network_namespace.run(
            f"ip xfrm state add {NAME} reqid 7 mode tunnel {GCM} replay-window 128"
            " flag esn flag af-unspec encap espinudp 4500 40001 0.0.0.0"
            " limit time-hard 3600 output-mark 0x6f000000 mask 0xff000000"
        )
        sa = xfrm.state(DESTINATION, SPI)
        assert (sa.source, sa.destination, sa.spi, sa.reqid) == (SOURCE, DESTINATION, SPI, 7)
        assert sa.flags == StateFlag.ESN | StateFlag.AF_UNSPEC
        assert sa.limits.hard_age == 3600
        assert sa.set_mark == Mark(0x6F00_0000, 0xFF00_0000)
        assert sa.encap is not None
        assert (sa.encap.source_port, sa.encap.destination_port) == (4500, 40001)
        assert xfrm.states() == (sa,)

    def test_lists_the_sas_of_one_reqid(self, xfrm: Xfrm, network_namespace: Namespace) -> None:
        for spi, reqid in ((0x101, 1), (0x102, 2), (0x103, 2)):
            network_namespace.run(
                f"ip xfrm state add src {SOURCE} dst {DESTINATION} proto esp spi {spi}"
                f" reqid {reqid} mode tunnel {GCM}"
            )
        assert {sa.spi for sa in xfrm.states(Reqid(2))} == {0x102, 0x103}
        assert len(xfrm.states()) == 3

    def test_says_which_sa_there_is_not(self, xfrm: Xfrm) -> None:
        with pytest.raises(KernelError, match=r"read SA c0ffee01 to 192\.0\.2\.9") as caught:
            xfrm.state(DESTINATION, SPI)
        assert caught.value.errno == errno.ESRCH

    def test_drops_an_sa_once_and_twice(self, xfrm: Xfrm, network_namespace: Namespace) -> None:
        network_namespace.run(f"ip xfrm state add {NAME} mode tunnel {GCM}")
        xfrm.drop_state(DESTINATION, SPI)
        xfrm.drop_state(DESTINATION, SPI)
        assert xfrm.states() == ()

    @pytest.mark.parametrize(
        "details",
        [
            f"{GCM} {ADVANCED} {LIMITED} encap espinudp 4500 40001 0.0.0.0",
            f"{GCM} replay-window 32 replay-seq 7 replay-oseq 9 flag noecn",
            f"{GCM} replay-window 128 replay-seq 7 replay-oseq 9 flag decap-dscp",
            f"{CBC} replay-window 32 extra-flag dont-encap-dscp if_id 9",
            f"{GCM} mark 0x5 mask 0xff output-mark 0x6f000000 mask 0xff000000",
        ],
        ids=["esn", "plain", "wide", "cbc", "marks"],
    )
    def test_a_moved_sa_is_the_same_sa_elsewhere(
        self, xfrm: Xfrm, network_namespace: Namespace, details: str
    ) -> None:
        network_namespace.run(f"ip xfrm state add {NAME} reqid 7 mode tunnel {details}")
        (before,) = xfrm.states()
        source, destination = ip_address("198.51.100.1"), ip_address("198.51.100.9")
        there = xfrm.move_state(before, source, destination)
        assert xfrm.states() == (there,)
        assert there == moved(before, source, destination)
        assert xfrm.move_state(there, SOURCE, DESTINATION) == before
        assert xfrm.states() == (before,)

    def test_the_limits_of_a_moved_sa_count_from_its_beginning(
        self, xfrm: Xfrm, monitor: Monitor, network_namespace: Namespace
    ) -> None:
        network_namespace.run(f"ip xfrm state add {NAME} mode tunnel {GCM}")
        old = xfrm.state(DESTINATION, SPI)
        aged = replace(
            old,
            usage=replace(old.usage, added=old.usage.added - 100),
            limits=replace(old.limits, hard_age=90),
        )
        xfrm.drop_state(DESTINATION, SPI)
        monitor.read()
        xfrm._add(aged)
        xfrm.move_state(aged, ip_address("192.0.2.2"), DESTINATION)
        assert isinstance(monitor.read()[-1], StatePut)
        assert isinstance(_next(monitor), StateExpired)  # within the second, not in 90

    def test_refuses_another_family_and_leaves_the_sa(
        self, xfrm: Xfrm, network_namespace: Namespace
    ) -> None:
        network_namespace.run(f"ip xfrm state add {NAME} mode tunnel {GCM}")
        before = xfrm.state(DESTINATION, SPI)
        with pytest.raises(KernelError, match="another family"):
            xfrm.move_state(before, ip_address("2001:db8::1"), ip_address("2001:db8::2"))
        assert xfrm.states() == (before,)

    def test_puts_the_sa_back_when_its_new_place_is_taken(
        self, xfrm: Xfrm, network_namespace: Namespace
    ) -> None:
        taken = ip_address("198.51.100.9")
        network_namespace.run(
            f"ip xfrm state add {NAME} mode tunnel {GCM} replay-oseq 77 replay-window 32",
            f"ip xfrm state add {NAME.replace(str(DESTINATION), str(taken))} mode tunnel {GCM}",
        )
        before = xfrm.state(DESTINATION, SPI)
        with pytest.raises(KernelError, match="move SA c0ffee01") as caught:
            xfrm.move_state(before, SOURCE, taken)
        assert caught.value.errno == errno.EEXIST
        assert xfrm.state(DESTINATION, SPI) == before
        assert before.sent == 77

    def test_says_why_the_kernel_refuses_an_sa(
        self, xfrm: Xfrm, network_namespace: Namespace
    ) -> None:
        network_namespace.run(f"ip xfrm state add {NAME} mode tunnel {GCM}")
        broken = replace(xfrm.state(DESTINATION, SPI), aead=None)
        xfrm.drop_state(DESTINATION, SPI)
        with pytest.raises(KernelError, match=r"Missing required attribute for ESP|Invalid"):
            xfrm._add(broken)

    def test_hears_of_sas_put_dropped_and_flushed(
        self, xfrm: Xfrm, monitor: Monitor, network_namespace: Namespace
    ) -> None:
        network_namespace.run(f"ip xfrm state add {NAME} mode tunnel {GCM}")
        sa = xfrm.state(DESTINATION, SPI)
        xfrm.drop_state(DESTINATION, SPI)
        network_namespace.run(f"ip xfrm state add {NAME} mode tunnel {GCM}")
        network_namespace.run("ip xfrm state flush")
        put, gone, again, flushed = monitor.read()
        assert (put, gone, flushed) == (StatePut(sa), StateGone(sa), StatesFlushed())
        assert isinstance(again, StatePut)


def _next(monitor: Monitor) -> object:
    select.select([monitor], [], [], 5.0)
    return monitor.read()[0]


# Moves under traffic


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


def test_both_directions_move(road: Road) -> None:
    _roam(road, LEFT[1])
    inbound = road.xfrm.state(LEFT[0], SPI_IN)
    road.xfrm.move_state(inbound, RIGHT[0], LEFT[1])
    assert {(sa.source, sa.destination) for sa in road.xfrm.states(REQID)} == {
        (LEFT[1], RIGHT[0]),
        (RIGHT[0], LEFT[1]),
    }
