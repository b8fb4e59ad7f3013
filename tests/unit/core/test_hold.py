"""The hold queue: within its limits, in order, each packet at most once."""

from hypothesis import given, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.core.hold import HoldLimits, HoldQueue
from orchestrator.core.quantities import Seconds
from tests.unit.core.builders import at


def queue(max_bytes: int = 10, max_packets: int = 4, max_age: float = 5.0) -> HoldQueue:
    return HoldQueue(HoldLimits(max_bytes, max_packets, Seconds(max_age)))


def test_releases_everything_once_in_the_order_of_arrival() -> None:
    held = queue()
    for packet in (b"a", b"b", b"c"):
        held.push(packet, at(0))
    assert held.release(at(1)) == (b"a", b"b", b"c")
    assert held.release(at(1)) == ()
    assert (len(held), held.held_bytes, held.dropped) == (0, 0, 0)


def test_keeps_the_newest_copy_of_the_same_part_where_it_came() -> None:
    held = queue(max_bytes=20)
    held.push(b"seg 1", at(0), "1")
    held.push(b"udp", at(0))
    held.push(b"seg 2", at(0), "2")
    held.push(b"SEG 1", at(1), "1")
    assert (len(held), held.held_bytes, held.dropped) == (3, 13, 0)
    assert held.release(at(1)) == (b"udp", b"seg 2", b"SEG 1")
    held.push(b"seg 1", at(2), "1")
    assert held.release(at(2)) == (b"seg 1",), "what was released is no copy any more"


def test_a_copy_of_what_was_put_back_goes_as_well() -> None:
    held = queue()
    held.push(b"a", at(0), "1")
    held.put_back(held.release(at(0)), at(0))
    held.push(b"A", at(0), "1")
    assert held.release(at(0)) == (b"a", b"A")


def test_drops_the_oldest_when_full_of_packets() -> None:
    held = queue(max_packets=2)
    for packet in (b"a", b"b", b"c"):
        held.push(packet, at(0))
    assert held.release(at(0)) == (b"b", b"c")
    assert held.dropped == 1


def test_drops_as_many_of_the_oldest_as_the_newest_needs_room() -> None:
    held = queue(max_bytes=10)
    for packet in (b"aaaa", b"bbbb", b"ccccccc"):
        held.push(packet, at(0))
    assert held.release(at(0)) == (b"ccccccc",)
    assert held.dropped == 2


def test_a_packet_larger_than_the_queue_costs_no_other_its_place() -> None:
    held = queue(max_bytes=10)
    held.push(b"a", at(0))
    held.push(b"x" * 11, at(0))
    assert held.dropped == 1
    assert held.release(at(0)) == (b"a",)


def test_a_packet_as_large_as_the_queue_is_kept() -> None:
    held = queue(max_bytes=10)
    held.push(b"x" * 10, at(0))
    assert held.release(at(0)) == (b"x" * 10,)


def test_does_not_release_what_is_too_old() -> None:
    held = queue(max_age=5)
    held.push(b"old", at(0))
    held.push(b"young", at(1))
    assert held.release(at(5.5)) == (b"young",)
    assert held.dropped == 1


def test_keeps_what_is_exactly_as_old_as_allowed() -> None:
    held = queue(max_age=5)
    held.push(b"old", at(0))
    assert held.release(at(5)) == (b"old",)


@given(strategies.lists(strategies.binary(max_size=12)))
def test_counts_every_packet_as_released_or_dropped(packets: list[bytes]) -> None:
    held = queue()
    for packet in packets:
        held.push(packet, at(0))
    assert len(held.release(at(0))) + held.dropped == len(packets)


class HeldTraffic(RuleBasedStateMachine):
    """Numbered packets go in at growing times and come out."""

    @initialize(
        max_bytes=strategies.integers(4, 40),
        max_packets=strategies.integers(1, 6),
        max_age=strategies.floats(0.5, 5),
    )
    def begin(self, max_bytes: int, max_packets: int, max_age: float) -> None:
        self.held = queue(max_bytes, max_packets, max_age)
        self.now = 0.0
        self.pushed: list[tuple[float, bytes]] = []
        self.out: list[bytes] = []

    @rule(padding=strategies.integers(0, 12), pause=strategies.floats(0, 2))
    def a_packet_comes(self, padding: int, pause: float) -> None:
        self.now += pause
        packet = len(self.pushed).to_bytes(4, "big") + bytes(padding)
        self.pushed.append((self.now, packet))
        self.held.push(packet, at(self.now))

    @rule(pause=strategies.floats(0, 2))
    def released(self, pause: float) -> None:
        self.now += pause
        packets = self.held.release(at(self.now))
        arrival = {packet: then for then, packet in self.pushed}
        for packet in packets:
            assert self.now - arrival[packet] <= self.held.limits.max_age
        self.out += packets
        assert len(self.held) == self.held.held_bytes == 0

    @invariant()
    def limits_are_never_exceeded(self) -> None:
        assert self.held.held_bytes <= self.held.limits.max_bytes
        assert len(self.held) <= self.held.limits.max_packets

    @invariant()
    def order_is_kept_and_nothing_comes_twice(self) -> None:
        assert self.out == sorted(set(self.out))

    @invariant()
    def every_packet_is_held_out_or_counted(self) -> None:
        assert len(self.held) + len(self.out) + self.held.dropped == len(self.pushed)


TestHeldTraffic = HeldTraffic.TestCase
