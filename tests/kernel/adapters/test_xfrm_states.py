"""SAs as the kernel has them: read, moved, dropped, and what is told of them."""

import errno
import select
from dataclasses import replace
from ipaddress import ip_address

import pytest

from orchestrator.adapters.xfrm import Monitor, Xfrm
from orchestrator.core.errors import KernelError
from orchestrator.core.quantities import Reqid, Spi
from orchestrator.wire.netlink_xfrm import StateExpired, StateGone, StatePut, StatesFlushed
from orchestrator.wire.security_association import Mark, StateFlag, moved
from tests.kernel.netns import Namespace

pytestmark = pytest.mark.usefixtures("needs_esp")

GCM = "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128"
CBC = f"auth-trunc hmac(sha256) 0x{'a1' * 32} 128 enc cbc(aes) 0x{'b2' * 16}"
ADVANCED = (
    "replay-window 128 flag esn flag af-unspec replay-seq 70 replay-oseq 90"
    " replay-seq-hi 1 replay-oseq-hi 2"
)
LIMITED = "limit time-soft 3000 limit time-hard 3600 limit byte-hard 99999999"
SOURCE, DESTINATION, SPI = ip_address("192.0.2.1"), ip_address("192.0.2.9"), Spi(0xC0FFEE01)
NAME = f"src {SOURCE} dst {DESTINATION} proto esp spi {SPI:#x}"


def test_reads_an_sa_as_ip_made_it(xfrm: Xfrm, network_namespace: Namespace) -> None:
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


def test_lists_the_sas_of_one_reqid(xfrm: Xfrm, network_namespace: Namespace) -> None:
    for spi, reqid in ((0x101, 1), (0x102, 2), (0x103, 2)):
        network_namespace.run(
            f"ip xfrm state add src {SOURCE} dst {DESTINATION} proto esp spi {spi}"
            f" reqid {reqid} mode tunnel {GCM}"
        )
    assert {sa.spi for sa in xfrm.states(Reqid(2))} == {0x102, 0x103}
    assert len(xfrm.states()) == 3


def test_says_which_sa_there_is_not(xfrm: Xfrm) -> None:
    with pytest.raises(KernelError, match=r"read SA c0ffee01 to 192\.0\.2\.9") as caught:
        xfrm.state(DESTINATION, SPI)
    assert caught.value.errno == errno.ESRCH


def test_drops_an_sa_once_and_twice(xfrm: Xfrm, network_namespace: Namespace) -> None:
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
    xfrm: Xfrm, network_namespace: Namespace, details: str
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
    xfrm: Xfrm, monitor: Monitor, network_namespace: Namespace
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
    xfrm: Xfrm, network_namespace: Namespace
) -> None:
    network_namespace.run(f"ip xfrm state add {NAME} mode tunnel {GCM}")
    before = xfrm.state(DESTINATION, SPI)
    with pytest.raises(KernelError, match="another family"):
        xfrm.move_state(before, ip_address("2001:db8::1"), ip_address("2001:db8::2"))
    assert xfrm.states() == (before,)


def test_puts_the_sa_back_when_its_new_place_is_taken(
    xfrm: Xfrm, network_namespace: Namespace
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


def test_says_why_the_kernel_refuses_an_sa(xfrm: Xfrm, network_namespace: Namespace) -> None:
    network_namespace.run(f"ip xfrm state add {NAME} mode tunnel {GCM}")
    broken = replace(xfrm.state(DESTINATION, SPI), aead=None)
    xfrm.drop_state(DESTINATION, SPI)
    with pytest.raises(KernelError, match=r"Missing required attribute for ESP|Invalid"):
        xfrm._add(broken)


def test_hears_of_sas_put_dropped_and_flushed(
    xfrm: Xfrm, monitor: Monitor, network_namespace: Namespace
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
