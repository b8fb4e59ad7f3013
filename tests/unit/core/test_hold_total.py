"""All sessions of a server together: within the total, and whoever holds most pays."""

import tracemalloc
from ipaddress import ip_address

from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.core.hold import Drop, HoldLimits, HoldQueue, Kind, Label
from orchestrator.core.hold_total import PACKET_COST, Account, HoldTotal
from orchestrator.core.quantities import Seconds
from orchestrator.wire.labels import Flow
from tests.unit.core.builders import at

ROOMY = HoldLimits(max_bytes=1_000_000, max_packets=1000, flow_bytes=1_000_000)
UDP = 17


def cost(*sizes: int) -> int:
    return sum(sizes) + PACKET_COST * len(sizes)


class World:
    """Sessions with some queues each."""

    def __init__(self, limit: int, limits: HoldLimits = ROOMY) -> None:
        self.total = HoldTotal(limit)
        self.accounts: dict[str, Account] = {}
        self.queues: dict[tuple[str, int], HoldQueue] = {}
        self.limits = limits

    def queue(self, session: str, vip: int = 0) -> HoldQueue:
        if (session, vip) not in self.queues:
            account = self.accounts.setdefault(session, Account(self.total))
            self.queues[session, vip] = HoldQueue(self.limits, account)
        return self.queues[session, vip]

    def push(self, session: str, size: int, vip: int = 0, now: float = 0) -> None:
        self.queue(session, vip).push(bytes(size), at(now), Label("a flow", Kind.DATAGRAM))

    def held(self, session: str) -> int:
        return sum(len(queue) for (name, _), queue in self.queues.items() if name == session)

    def lost(self, session: str) -> int:
        mine = [queue for (name, _), queue in self.queues.items() if name == session]
        return sum(queue.dropped[Drop.TOTAL] for queue in mine)


def test_while_there_is_room_nobody_loses() -> None:
    world = World(cost(1000, 1000, 10))
    world.push("large", 1000)
    world.push("large", 1000)
    world.push("small", 10)
    assert (world.lost("large"), world.lost("small")) == (0, 0)
    assert world.total.octets == cost(1000, 1000, 10)
    assert world.total.sessions == 2


def test_who_holds_most_gives_first() -> None:
    world = World(cost(1000, 1000, 10))
    world.push("large", 1000)
    world.push("large", 1000)
    world.push("small", 10)
    world.push("small", 10)
    assert (world.lost("large"), world.lost("small")) == (1, 0)
    assert (world.held("large"), world.held("small")) == (1, 2)


def test_a_session_with_two_addresses_counts_once() -> None:
    world = World(cost(60, 60, 100))
    world.push("two", 60, vip=4)
    world.push("two", 60, vip=6)
    world.push("one", 100)
    world.push("one", 1)
    assert (world.lost("two"), world.lost("one")) == (1, 0)


def test_small_packets_count_what_they_cost() -> None:
    world = World(10 * PACKET_COST)
    for _ in range(100):
        world.push("flood", 1)
    assert world.held("flood") == 9


def test_a_lower_total_takes_from_the_largest() -> None:
    world = World(cost(1000, 1000, 1000, 10))
    for session in ("large", "large", "large", "small"):
        world.push(session, 1000 if session == "large" else 10)
    world.total.change_limit(cost(1000, 10))
    assert (world.held("large"), world.held("small")) == (1, 1)


def test_an_ended_session_makes_room() -> None:
    world = World(cost(100, 100))
    world.push("gone", 100)
    world.queue("gone").end()
    assert (world.total.octets, world.total.sessions) == (0, 0)
    assert world.queue("gone").dropped == {Drop.ENDED: 1}
    world.push("here", 100)
    world.push("here", 100)
    assert world.lost("here") == 0


def test_what_a_packet_costs_is_counted_at_least() -> None:
    """Of those that cost most: the smallest, each the only one of its flow."""
    packets = [ip_address(0x0A000000 + number).packed * 10 for number in range(2000)]
    peer = ip_address("192.0.2.1").packed
    tracemalloc.start()
    try:
        world = World(2**40)
        held = HoldQueue(HoldLimits(2**30, 2**20, 2**30), Account(world.total))
        before, _ = tracemalloc.get_traced_memory()
        for number, packet in enumerate(packets):
            source = ip_address(0x0A000000 + number).packed
            flow = Flow(UDP, source, 1000 + number, peer, 2000 + number)
            part = (Kind.SEGMENT, 2**20 + number, 0)
            held.push(
                bytes(bytearray(packet)), at(number / 1e6), Label(flow, Kind.SEGMENT, part)
            )
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= held.weight <= 2 * taken


class ManySessions(RuleBasedStateMachine):
    """Whatever arrives, expires, leaves, ends: the total holds, and the smallest are safe."""

    @initialize(limit=strategies.integers(2, 20), max_packets=strategies.integers(1, 12))
    def begin(self, limit: int, max_packets: int) -> None:
        limits = HoldLimits(2000, max_packets, 1000, Seconds(3), Seconds(3), Seconds(3))
        self.world = World(limit * PACKET_COST, limits)
        self.now = 0.0
        self.arrived = 0
        self.left = 0

    @rule(
        session=strategies.sampled_from("abcde"),
        vip=strategies.sampled_from((4, 6)),
        flow=strategies.integers(0, 3),
        size=strategies.integers(1, 1000),
        pause=strategies.floats(0, 1),
    )
    def a_packet_comes(
        self, session: str, vip: int, flow: int, size: int, pause: float
    ) -> None:
        self.now += pause
        self.arrived += 1
        queue = self.world.queue(session, vip)
        accounts = self.world.accounts
        before = {name: (accounts[name].weight, self.world.lost(name)) for name in accounts}
        queue.push(bytes(size), at(self.now), Label(flow, Kind.DATAGRAM))
        heaviest = max(account.weight for account in accounts.values())
        for name, (weight, lost) in before.items():
            if self.world.lost(name) > lost:
                # What it had lies above what everybody has now, but for the last packet given.
                had = weight + (cost(size) if name == session else 0)
                assert had >= heaviest

    @rule(session=strategies.sampled_from("abcde"), vip=strategies.sampled_from((4, 6)))
    def one_leaves(self, session: str, vip: int) -> None:
        queue = self.world.queue(session, vip)
        if queue.first(at(self.now)) is not None:
            queue.sent()
            self.left += 1

    @rule(session=strategies.sampled_from("abcde"), vip=strategies.sampled_from((4, 6)))
    def an_address_is_given_up(self, session: str, vip: int) -> None:
        queue = self.world.queue(session, vip)
        queue.end()
        del self.world.queues[session, vip]
        self.left += queue.dropped.total()

    @rule(limit=strategies.integers(2, 20))
    def the_operator_changes_the_total(self, limit: int) -> None:
        self.world.total.change_limit(limit * PACKET_COST)

    @invariant()
    def the_total_is_never_exceeded(self) -> None:
        assert self.world.total.octets <= self.world.total.limit

    @invariant()
    def the_total_is_what_the_queues_hold(self) -> None:
        queues, accounts = self.world.queues, self.world.accounts
        assert self.world.total.octets == sum(queue.weight for queue in queues.values())
        assert self.world.total.octets == sum(each.weight for each in accounts.values())
        assert self.world.total.sessions == sum(each.weight > 0 for each in accounts.values())

    @invariant()
    def every_packet_is_held_out_or_counted(self) -> None:
        queues = self.world.queues.values()
        known = sum(len(queue) + queue.dropped.total() for queue in queues)
        assert known + self.left == self.arrived


TestManySessions = ManySessions.TestCase
