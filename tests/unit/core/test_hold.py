"""The hold queue: within its limits, in order, each packet at most once."""

from dataclasses import replace

from hypothesis import given, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.core.hold import Drop, HoldLimits, HoldQueue, Kind, Label
from orchestrator.core.quantities import Seconds
from tests.unit.core.builders import at

OTHER = Label("ping", Kind.OTHER)
ROOMY = HoldLimits(max_bytes=1000, max_packets=100, flow_bytes=1000)


def datagram(flow: str = "voice") -> Label:
    return Label(flow, Kind.DATAGRAM)


def segment(sequence: int, flow: str = "ssh") -> Label:
    return Label(flow, Kind.SEGMENT, ("data", sequence), sequence)


def acknowledgment(sequence: int, flow: str = "ssh") -> Label:
    return Label(flow, Kind.CONTROL, ("bare", sequence))


def queue(
    max_bytes: int = 1000,
    max_packets: int = 100,
    flow_bytes: int = 1000,
    *,
    oldest: bool = False,
) -> HoldQueue:
    return HoldQueue(HoldLimits(max_bytes, max_packets, flow_bytes, keep_oldest=oldest))


def released(held: HoldQueue, now: float = 0) -> list[bytes]:
    out = []
    while (packet := held.first(at(now))) is not None:
        out.append(packet)
        held.sent()
    return out


def lost(held: HoldQueue) -> tuple[int, int]:
    """To the limits, and to age."""
    full = held.dropped[Drop.FULL] + held.dropped[Drop.TOO_LARGE]
    return full, held.dropped[Drop.TOO_OLD]


def test_only_tcp_stays_when_others_are_shed() -> None:
    held = queue()
    held.push(b"call", at(0), datagram())
    held.push(b"syn", at(0), Label("ssh", Kind.CONTROL))
    held.push(b"ask", at(0), Label("dns", Kind.QUERY))
    held.push(b"data", at(0), segment(1))
    held.push(b"ping", at(0), OTHER)
    held.shed()
    assert held.dropped == {Drop.ASLEEP: 3}
    assert held.held_bytes == 7
    assert released(held) == [b"syn", b"data"]
    assert (len(held), held.held_bytes, held.flows) == (0, 0, 0)
    assert held.dropped == {Drop.ASLEEP: 3}


def test_a_sleep_ages_everything_but_tcp() -> None:
    held = HoldQueue(HoldLimits())
    held.push(b"data", at(100), segment(1))
    held.push(b"call", at(100), datagram())
    held.push(b"ping", at(100), OTHER)
    held.slept(Seconds(8 * 3600))
    assert released(held, 101) == [b"data"]
    held.push(b"call", at(101), datagram())
    assert released(held, 102) == [b"call"]


class TestOrder:
    def test_everything_leaves_once_in_the_order_of_arrival(self) -> None:
        held = queue()
        for packet in (b"a", b"b", b"c"):
            held.push(packet, at(0), datagram())
        assert released(held) == [b"a", b"b", b"c"]
        assert released(held) == []
        assert (len(held), held.held_bytes, held.flows, lost(held)) == (0, 0, 0, (0, 0))

    def test_what_was_not_sent_stays_the_first(self) -> None:
        held = queue()
        held.push(b"a", at(0), datagram())
        held.push(b"b", at(0), datagram())
        assert held.first(at(0)) == held.first(at(0)) == b"a"
        held.sent()
        assert held.first(at(0)) == b"b"

    def test_what_starts_connections_again_leaves_first(self) -> None:
        held = queue()
        held.push(b"ping", at(0), OTHER)
        held.push(b"voice", at(0), datagram())
        held.push(b"query", at(0), Label("dns", Kind.QUERY))
        held.push(b"data", at(0), segment(1))
        held.push(b"ack", at(0), acknowledgment(1))
        assert released(held) == [b"ack", b"data", b"query", b"voice", b"ping"]

    def test_the_newest_copy_of_the_same_part_where_it_came(self) -> None:
        held = queue()
        held.push(b"seg 1", at(0), segment(1))
        held.push(b"seg 2", at(0), segment(2))
        held.push(b"SEG 1", at(1), segment(1))
        assert (len(held), held.held_bytes, lost(held)) == (2, 10, (0, 0))
        assert released(held) == [b"seg 2", b"SEG 1"]
        held.push(b"seg 1", at(2), segment(1))
        assert released(held) == [b"seg 1"], "what was released is no copy any more"

    def test_the_same_part_of_two_flows_is_no_copy(self) -> None:
        held = queue()
        held.push(b"one", at(0), segment(1, "ssh"))
        held.push(b"two", at(0), segment(1, "http"))
        assert released(held) == [b"one", b"two"]


class TestFull:
    def test_of_datagrams_the_oldest_go(self) -> None:
        held = queue(max_packets=2)
        for packet in (b"a", b"b", b"c"):
            held.push(packet, at(0), datagram())
        assert released(held) == [b"b", b"c"]
        assert lost(held) == (1, 0)

    def test_of_datagrams_the_newest_go_where_the_operator_wants_the_oldest(self) -> None:
        held = queue(max_packets=2, oldest=True)
        for packet in (b"a", b"b", b"c"):
            held.push(packet, at(0), datagram())
        assert released(held) == [b"a", b"b"]

    def test_as_many_go_as_the_newest_needs_room(self) -> None:
        held = queue(max_bytes=10)
        for packet in (b"aaaa", b"bbbb", b"ccccccc"):
            held.push(packet, at(0), datagram())
        assert released(held) == [b"ccccccc"]
        assert lost(held) == (2, 0)

    def test_of_a_connection_its_first_segment_stays(self) -> None:
        held = queue(flow_bytes=9)
        for number in (7, 5, 6, 8):
            held.push(b"%03d" % number, at(0), segment(number))
        assert released(held) == [b"007", b"005", b"006"]
        held = queue(flow_bytes=3)
        for number in (7, 5, 6, 8):
            held.push(b"%03d" % number, at(0), segment(number))
        assert released(held) == [b"005"]

    def test_sequence_numbers_wrap(self) -> None:
        held = queue(flow_bytes=3)
        for number in (2**32 - 1, 0, 1):
            held.push(b"%03d" % (number % 1000), at(0), segment(number))
        assert released(held) == [b"%03d" % ((2**32 - 1) % 1000)]

    def test_the_flow_that_holds_most_loses(self) -> None:
        held = queue(max_bytes=12)
        held.push(b"quiet", at(0), datagram("quiet"))
        for packet in (b"l1", b"l2", b"l3", b"l4", b"l5"):
            held.push(packet, at(0), datagram("loud"))
        assert released(held) == [b"quiet", b"l3", b"l4", b"l5"]

    def test_a_flow_is_bounded_while_there_is_room_for_others(self) -> None:
        held = queue(flow_bytes=4)
        for packet in (b"l1", b"l2", b"l3"):
            held.push(packet, at(0), datagram("loud"))
        held.push(b"q1", at(0), datagram("quiet"))
        assert released(held) == [b"l2", b"l3", b"q1"]

    def test_a_packet_larger_than_may_be_costs_no_other_its_place(self) -> None:
        held = queue(flow_bytes=10)
        held.push(b"a", at(0), datagram())
        held.push(b"x" * 11, at(0), datagram())
        held.push(b"x" * 9, at(0), datagram())
        assert released(held) == [b"a", b"x" * 9]
        assert lost(held) == (1, 0)


class TestOtherLimits:
    """Given while something is held."""

    def test_what_fits_within_them_stays(self) -> None:
        held = queue()
        for packet in (b"a", b"b", b"c"):
            held.push(packet, at(0), datagram())
        held.change_limits(HoldLimits(max_bytes=3, max_packets=3, flow_bytes=3), at(1))
        assert (len(held), held.dropped) == (3, {})
        assert released(held) == [b"a", b"b", b"c"]

    def test_the_rest_goes_by_the_rules_of_a_full_queue(self) -> None:
        held = queue()
        held.push(b"quiet", at(0), datagram("quiet"))
        for number in (7, 5, 6, 8):
            held.push(b"%03d" % number, at(0), segment(number))
        held.change_limits(HoldLimits(max_bytes=100, max_packets=100, flow_bytes=6), at(1))
        assert held.dropped == {Drop.FULL: 2}
        held.change_limits(HoldLimits(max_bytes=8, max_packets=100, flow_bytes=6), at(1))
        assert released(held) == [b"005", b"quiet"]

    def test_what_is_older_than_it_may_be_now_goes(self) -> None:
        held = queue()
        held.push(b"a", at(0), datagram())
        held.change_limits(HoldLimits(datagram_age=Seconds(5)), at(6))
        assert (len(held), held.dropped) == (0, {Drop.TOO_OLD: 1})


class TestReport:
    def test_since_when_it_holds_something(self) -> None:
        held = queue()
        assert (held.since, held.oldest) == (None, None)
        held.push(b"a", at(1), datagram())
        held.push(b"b", at(2), datagram())
        held.first(at(3))
        held.sent()
        assert (held.since, held.oldest) == (at(1), at(2))
        released(held, 3)
        assert held.since is None
        held.push(b"c", at(4), datagram())
        assert held.since == at(4)

    def test_how_near_it_is_to_whichever_limit_is_nearest(self) -> None:
        held = queue(max_bytes=100, max_packets=10)
        held.push(b"a" * 20, at(0), datagram())
        assert held.fullness == 0.2
        for _ in range(4):
            held.push(b"a", at(0), datagram())
        assert held.fullness == 0.5


class TestAge:
    def test_what_is_too_old_does_not_leave(self) -> None:
        limits = HoldLimits(tcp_age=Seconds(9), datagram_age=Seconds(5), query_age=Seconds(2))
        held = HoldQueue(limits)
        held.push(b"tcp", at(0), segment(1))
        held.push(b"udp", at(0), datagram())
        held.push(b"ping", at(0), OTHER)
        held.push(b"dns", at(0), Label("dns", Kind.QUERY))
        assert held.first(at(2)) == b"tcp"
        assert (len(held), held.oldest) == (4, at(0))
        held.first(at(2.1))
        assert len(held) == 3
        held.first(at(5.1))
        assert (len(held), lost(held)) == (1, (0, 3))
        assert held.first(at(9)) == b"tcp", "exactly as old as allowed"
        assert held.first(at(9.1)) is None
        assert held.oldest is None


class TestStalled:
    def test_the_first_segment_of_each_that_backed_off_is_told(self) -> None:
        held = HoldQueue(ROOMY)
        held.push(b"new", at(0), segment(20))
        held.push(b"first", at(1), segment(10))
        held.push(b"ack", at(1), acknowledgment(30))
        held.push(b"other", at(1), segment(1, "http"))
        held.push(b"voice", at(1), datagram())
        assert held.take_stalled({"ssh", "voice", "nobody"}, at(2)) == (segment(10),)
        assert released(held) == [b"ack", b"other", b"voice"], "its sender sends the rest"
        assert held.take_stalled({"ssh"}, at(2)) == ()


@given(strategies.lists(strategies.binary(max_size=12)))
def test_every_packet_is_released_or_counted(packets: list[bytes]) -> None:
    held = queue(max_bytes=10, max_packets=4, flow_bytes=8)
    for packet in packets:
        held.push(packet, at(0), datagram())
    assert len(released(held)) + sum(lost(held)) == len(packets)


CONNECTIONS = strategies.sampled_from("abc")
LABELS = strategies.one_of(
    strategies.builds(segment, strategies.integers(0, 5), strategies.sampled_from("abc")),
    strategies.builds(
        acknowledgment, strategies.integers(0, 2), strategies.sampled_from("abc")
    ),
    strategies.builds(datagram, strategies.sampled_from("xyz")),
    strategies.just(OTHER),
)


class HeldTraffic(RuleBasedStateMachine):
    """Numbered packets go in at growing times and come out."""

    @initialize(
        max_bytes=strategies.integers(8, 60),
        flow_bytes=strategies.integers(8, 30),
        max_packets=strategies.integers(1, 8),
        age=strategies.floats(0.5, 5),
        oldest=strategies.booleans(),
    )
    def begin(
        self, max_bytes: int, flow_bytes: int, max_packets: int, age: float, oldest: bool
    ) -> None:
        ages = Seconds(age * 2), Seconds(age), Seconds(age / 2)
        limits = HoldLimits(max_bytes, max_packets, flow_bytes, *ages, keep_oldest=oldest)
        self.held = HoldQueue(limits)
        self.now = 0.0
        self.pushed: list[tuple[float, bytes, Label]] = []
        self.copies = 0
        self.stalled = 0
        self.out: list[bytes] = []
        self.waiting: dict[tuple[object, object], bytes] = {}
        """The newest copy of each part, should it still be there."""

    @rule(padding=strategies.integers(0, 12), pause=strategies.floats(0, 2), label=LABELS)
    def a_packet_comes(self, padding: int, pause: float, label: Label) -> None:
        self.now += pause
        packet = len(self.pushed).to_bytes(4, "big") + bytes(padding)
        self.pushed.append((self.now, packet, label))
        before = len(self.held) + lost(self.held)[0] + lost(self.held)[1]
        self.held.push(packet, at(self.now), label)
        after = len(self.held) + lost(self.held)[0] + lost(self.held)[1]
        assert after - before in (0, 1), "a copy takes the place of its like, and no other"
        self.copies += before + 1 - after

    @rule(pause=strategies.floats(0, 2), most=strategies.integers(1, 9))
    def some_are_released(self, pause: float, most: int) -> None:
        self.now += pause
        known = {packet: (then, label) for then, packet, label in self.pushed}
        kinds = []
        for _ in range(most):
            packet = self.held.first(at(self.now))
            if packet is None:
                break
            then, label = known[packet]
            assert self.now - then <= self.held.limits.age(label.kind)
            kinds.append(label.kind)
            self.out.append(packet)
            self.held.sent()
        assert kinds == sorted(kinds)

    @rule(max_bytes=strategies.integers(8, 60), max_packets=strategies.integers(1, 8))
    def the_operator_changes_the_limits(self, max_bytes: int, max_packets: int) -> None:
        limits = replace(self.held.limits, max_bytes=max_bytes, max_packets=max_packets)
        self.held.change_limits(limits, at(self.now))

    @rule(flows=strategies.sets(strategies.sampled_from("abc")))
    def senders_begin_again(self, flows: set[str]) -> None:
        total = len(self.held) + lost(self.held)[1]
        for label in self.held.take_stalled(flows, at(self.now)):
            assert label.flow in flows
            assert label.kind is Kind.SEGMENT
        self.stalled += total - len(self.held) - lost(self.held)[1]

    @invariant()
    def limits_are_never_exceeded(self) -> None:
        assert self.held.held_bytes <= self.held.limits.max_bytes
        assert len(self.held) <= self.held.limits.max_packets
        assert self.held.flows <= len(self.held)

    @invariant()
    def nothing_comes_twice_and_each_flow_keeps_its_order(self) -> None:
        assert len(self.out) == len(set(self.out))
        known = {packet: label for _, packet, label in self.pushed}
        for flow, kind in {(known[packet].flow, known[packet].kind) for packet in self.out}:
            mine = [p for p in self.out if (known[p].flow, known[p].kind) == (flow, kind)]
            assert mine == sorted(mine)

    @invariant()
    def every_packet_is_held_out_or_counted(self) -> None:
        gone = len(self.out) + sum(lost(self.held))
        assert len(self.held) + gone + self.copies + self.stalled == len(self.pushed)


TestHeldTraffic = HeldTraffic.TestCase
