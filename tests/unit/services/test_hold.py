import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address

import pytest

from orchestrator.adapters.inject import Injector
from orchestrator.adapters.tun import TunDevice
from orchestrator.core.hold import HoldLimits, HoldPolicy
from orchestrator.core.hold_total import PACKET_COST
from orchestrator.core.quantities import Instant, IPAddress
from orchestrator.services.hold import Holder
from orchestrator.services.hold_report import all_held_report, held_report
from orchestrator.services.journal import Journal

VIP, VIP6 = ip_address("10.99.0.2"), ip_address("fd00:99::2")
OTHER = ip_address("10.99.0.3")
LIMITS = HoldLimits(max_bytes=100, max_packets=4)
POLICY = HoldPolicy(LIMITS)
TOTAL = 100 * PACKET_COST
EMPTY: dict[str, object] = {
    "packets": 0,
    "bytes": 0,
    "flows": 0,
    "since_s": None,
    "oldest_s": None,
    "limit_bytes": 100,
    "percent": 0,
    "dropped": {},
}


def packet(source: IPAddress, number: int = 0) -> bytes:
    """A header and nothing behind it."""
    if source.version == 4:
        head = b"\x45\x00\x00\x14" + number.to_bytes(2, "big") + bytes(2)
        return head + b"\x40\x11" + bytes(2) + source.packed + bytes(4)
    return b"\x60\x00\x00\x00\x00\x00\x3b\x40" + source.packed + bytes(16)


class Flood(TunDevice):
    """There is always one more packet."""

    def __init__(self, packet: bytes) -> None:
        self.reads = 0
        self._packet = packet
        self._readable, self._other = socket.socketpair()
        self._other.send(b"never read")
        super().__init__("vip0", self._readable.fileno())

    def read(self) -> bytes:
        self.reads += 1
        return self._packet

    def close(self) -> None:
        self._readable.close()
        self._other.close()


class Sink(Injector):
    """Takes packets for ever."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, packet: bytes) -> bool:
        self.sent.append(packet)
        return True


class Held:
    """A holder for detached addresses, and the other end of its TUN."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.asleep = False
        self.attached = False
        self.now = 0.0
        self.policies: dict[str, HoldPolicy] = {}
        self.holder = Holder(
            lambda header: header.source,
            lambda _: self.attached,
            lambda scope: self.policies.get(scope, POLICY),
            lambda: Instant(self.now),
            self.journal,
            asleep=lambda _: self.asleep,
            total=TOTAL,
        )
        self._kernel, self._daemon = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._daemon.setblocking(False)  # noqa: FBT003 - the standard library's signature

    def send(self, octets: bytes) -> None:
        self._kernel.send(octets)
        self.holder._read(TunDevice("vip0", self._daemon.fileno()))

    def close(self) -> None:
        self._kernel.close()
        self._daemon.close()


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.close()


def test_the_tally_is_of_all_addresses_asked_for(held: Held) -> None:
    held.holder.hold("carol", (VIP, VIP6))
    held.holder.hold("dave", (OTHER,))
    for _ in range(6):
        held.send(packet(VIP))
    held.send(packet(VIP6))
    held.send(packet(OTHER))
    assert held_report(held.holder.held((VIP, VIP6))) == {
        "packets": 5,
        "bytes": 4 * 20 + 40,
        "flows": 2,
        "since_s": 0,
        "oldest_s": 0,
        "limit_bytes": 200,
        "percent": 100,
        "dropped": {"full": 2},
    }
    one = {"packets": 1, "bytes": 20, "flows": 1, "since_s": 0, "oldest_s": 0, "percent": 25}
    assert held_report(held.holder.held((OTHER,))) == {**EMPTY, **one}
    assert held_report(held.holder.held(())) == {**EMPTY, "limit_bytes": 0}


def test_packets_stay_while_their_address_does(held: Held) -> None:
    held.holder.hold("carol", (VIP,))
    held.send(packet(VIP))
    held.holder.hold("carol", (VIP, VIP6))
    assert held_report(held.holder.held((VIP,)))["packets"] == 1


def test_what_is_held_for_an_address_goes_with_it(held: Held) -> None:
    held.holder.hold("carol", (VIP,))
    held.send(packet(VIP))
    held.holder.hold("carol", ())
    assert held_report(held.holder.held((VIP,))) == {**EMPTY, "limit_bytes": 0}
    held.holder.hold("dave", (VIP,))
    assert held_report(held.holder.held((VIP,))) == EMPTY


def test_packets_of_nobody_are_counted_and_dropped(held: Held) -> None:
    held.holder.hold("carol", (VIP,))
    held.send(packet(OTHER))
    held.send(b"nonsense")
    assert held.journal.counters == {"foreign-packet": 2}
    assert held_report(held.holder.held((VIP,))) == EMPTY


def tcp(source: IPAddress) -> bytes:
    """A SYN to nobody."""
    header = b"\x45\x00\x00\x28" + bytes(4) + b"\x40\x06" + bytes(2) + source.packed + bytes(4)
    return header + bytes(12) + b"\x50\x02" + bytes(6)


def test_only_tcp_is_held_for_who_sleeps(held: Held) -> None:
    held.holder.hold("carol", (VIP,))
    held.send(packet(VIP))
    held.send(tcp(VIP))
    held.holder.shed((VIP, OTHER))
    tally = held_report(held.holder.held((VIP,)))
    assert (tally["packets"], tally["bytes"], tally["dropped"]) == (1, 40, {"asleep": 1})
    held.asleep = True
    held.send(packet(VIP))
    assert held_report(held.holder.held((VIP,)))["packets"] == 1
    assert held_report(held.holder.held((VIP,)))["dropped"] == {"asleep": 2}
    held.asleep = False
    held.send(packet(VIP))
    assert held_report(held.holder.held((VIP,)))["packets"] == 2


def test_a_tally_says_since_when(held: Held) -> None:
    held.holder.hold("carol", (VIP,))
    held.now = 5
    held.send(packet(VIP))
    for _ in range(4):
        held.now += 1
        held.send(packet(VIP))
    tally = held_report(held.holder.held((VIP,)))
    assert (tally["since_s"], tally["oldest_s"]) == (4, 3), "the first one went"


def test_each_has_its_own_limits(held: Held) -> None:
    held.policies["dave"] = HoldPolicy(HoldLimits(max_bytes=100, max_packets=2))
    held.holder.hold("carol", (VIP,))
    held.holder.hold("dave", (OTHER,))
    for _ in range(4):
        held.send(packet(VIP))
        held.send(packet(OTHER))
    assert held_report(held.holder.held((VIP,)))["packets"] == 4
    assert held_report(held.holder.held((OTHER,)))["packets"] == 2


def test_other_limits_take_nothing_that_fits(held: Held) -> None:
    held.holder.hold("carol", (VIP,))
    held.holder.hold("dave", (OTHER,))
    for _ in range(3):
        held.send(packet(VIP))
        held.send(packet(OTHER))
    held.policies["dave"] = HoldPolicy(HoldLimits(max_bytes=40, max_packets=9))
    held.holder.change_policy(TOTAL)
    assert held_report(held.holder.held((VIP,)))["packets"] == 3
    found = held_report(held.holder.held((OTHER,)))
    assert (found["packets"], found["limit_bytes"]) == (2, 40)
    assert (found["percent"], found["dropped"]) == (100, {"full": 1})


def test_the_session_that_holds_most_pays_for_all(held: Held) -> None:
    held.holder.hold("carol", (VIP, VIP6))
    held.holder.hold("dave", (OTHER,))
    for vip in (VIP, VIP6, VIP, OTHER):
        held.send(packet(vip))
    held.holder.change_policy(3 * (PACKET_COST + 40))
    held.send(packet(OTHER))
    summary = all_held_report(held.holder.held(), held.holder.total)
    assert held_report(held.holder.held((VIP, VIP6)))["packets"] == 1
    assert held_report(held.holder.held((OTHER,)))["packets"] == 2
    assert summary["dropped"] == {"total": 2}
    assert (summary["sessions"], summary["total_limit_bytes"]) == (2, 3 * (PACKET_COST + 40))


def test_what_an_ended_session_lost_stays_counted(held: Held) -> None:
    held.holder.hold("carol", (VIP,))
    for _ in range(6):
        held.send(packet(VIP))
    held.holder.hold("carol", ())
    summary = all_held_report(held.holder.held(), held.holder.total)
    assert summary["dropped"] == {"full": 2, "ended": 4}
    assert (summary["sessions"], summary["total_bytes"]) == (0, 0)


def test_an_address_may_change_hands_in_either_order(held: Held) -> None:
    held.holder.hold("carol", (VIP,))
    held.send(packet(VIP))
    held.holder.hold("dave", (VIP,))
    held.send(packet(VIP))
    held.holder.hold("carol", ())
    assert held_report(held.holder.held((VIP,)))["packets"] == 1
    assert all_held_report(held.holder.held(), held.holder.total)["dropped"] == {"ended": 1}


AWAITS = 20
AT_MOST = 16 * AWAITS
"""Packets that go before somebody with so many things to wait for."""
FEW = 5


async def other_work(awaits: int = AWAITS) -> None:
    for _ in range(awaits):
        await asyncio.sleep(0)


def in_a_loop(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            await work()

    asyncio.run(run())


def test_a_flood_does_not_keep_others_from_their_work(held: Held) -> None:
    async def work() -> None:
        held.holder.hold("carol", (VIP,))
        loop = asyncio.get_running_loop()
        with Flood(packet(VIP)) as flood:
            loop.add_reader(flood.fileno(), held.holder._read, flood)
            await other_work()
            loop.remove_reader(flood.fileno())
        assert AWAITS < flood.reads < AT_MOST

    in_a_loop(work)


def test_a_release_does_not_keep_others_from_their_work(held: Held) -> None:
    """Each session has a burst to send at once; nobody waits for another's to end."""

    async def work() -> None:
        vips = [ip_address("10.99.1.0") + number for number in range(10)]
        sink = held.holder._injector = Sink()
        held.holder.change_policy(10 * TOTAL)
        for vip in vips:
            held.policies[str(vip)] = HoldPolicy()
            held.holder.hold(str(vip), (vip,))
        mine = {vip: [packet(vip, number) for number in range(60)] for vip in vips}
        for each in mine.values():
            for octets in each:
                held.send(octets)
        held.attached = True
        assert held.holder.release(vips) == 600
        await other_work(FEW)
        assert FEW < len(sink.sent) < AT_MOST
        await other_work(len(vips))
        assert len(sink.sent) < 600
        assert {octets[12:16] for octets in sink.sent} == {vip.packed for vip in vips}
        await other_work(600)
        for vip in vips:
            assert [each for each in sink.sent if each[12:16] == vip.packed] == mine[vip]

    in_a_loop(work)
