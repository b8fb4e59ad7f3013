"""Both daemons' part in sending twice, joined without a network."""

from ipaddress import ip_address

from orchestrator.core.quantities import Instant, IPAddress
from orchestrator.core.redundancy import BURST
from orchestrator.services.copies import Copies
from orchestrator.services.journal import Journal
from orchestrator.wire.packets import parse_ip

VIP = ip_address("10.99.0.7")
OTHER = ip_address("10.99.0.8")
PEER = ip_address("10.51.1.2")
UDP, TCP = 17, 6
TOO_LARGE = 100


def packet(
    source: IPAddress = VIP, destination: IPAddress = PEER, protocol: int = UDP
) -> bytes:
    ends = source.packed + destination.packed
    return bytes([0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0]) + ends + bytes(8)


class Pair:
    """An endpoint's and a server's; what one sends is for the test to bring to the other."""

    def __init__(self, *marks: int) -> None:
        self.sent: list[tuple[bytes, int]] = []
        self.delivered: list[bytes] = []
        self.journal = Journal()

        def clock() -> Instant:
            return Instant(0.0)

        def send(_: IPAddress, octets: bytes, mark: int) -> bool:
            self.sent.append((octets, mark))
            return len(octets) < TOO_LARGE

        self.endpoint = Copies(
            lambda _: marks,
            send,
            self.delivered.append,
            lambda header: header.destination,
            clock,
            self.journal,
        )
        self.server = Copies(
            lambda _: marks,
            send,
            self.delivered.append,
            lambda header: header.source,
            clock,
            self.journal,
        )

    def says(self, octets: bytes) -> bool:
        return self.endpoint.takes(VIP, parse_ip(octets), octets)


def test_each_copy_has_the_mark_of_a_tunnel() -> None:
    pair = Pair(0x6D000001)
    assert pair.says(packet())
    assert [mark for _, mark in pair.sent] == [0, 0x6D000001]
    assert len({octets for octets, _ in pair.sent}) == 1


def test_the_first_copy_arrives_and_no_other() -> None:
    pair = Pair(1)
    pair.says(packet())
    for octets, _ in pair.sent:
        pair.server.received(VIP, octets)
    assert pair.delivered == [packet()]
    assert pair.journal.counters["duplicates-removed"] == 1


def test_without_a_second_tunnel_it_is_left_to_others() -> None:
    pair = Pair()
    assert not pair.says(packet())
    assert pair.sent == []


def test_tcp_is_left_to_others() -> None:
    assert not Pair(1).says(packet(protocol=TCP))


def test_beyond_the_rate_of_calls_it_goes_once() -> None:
    pair = Pair(1)
    for _ in range(2 * round(BURST)):
        pair.says(packet())
    assert len(pair.sent) == 3 * round(BURST)
    assert pair.journal.counters["copies-beyond-rate"] == round(BURST)


def test_what_the_way_does_not_carry_is_counted_and_goes_round_no_more() -> None:
    pair = Pair(1)
    assert pair.endpoint.takes(VIP, parse_ip(packet()), packet() + bytes(TOO_LARGE))
    assert pair.journal.counters["copies-too-large"] == 1
    assert len(pair.sent) == 1


def test_nobody_speaks_for_another_address() -> None:
    pair = Pair(1)
    pair.endpoint.takes(VIP, parse_ip(packet(OTHER)), packet(OTHER))
    pair.server.received(VIP, pair.sent[0][0])
    assert pair.delivered == []
    assert pair.journal.counters["foreign-copy"] == 1


def test_nothing_but_udp_comes_out() -> None:
    pair = Pair(1)
    pair.says(packet())
    octets = pair.sent[0][0].replace(packet(), packet(protocol=TCP))
    pair.server.received(VIP, octets)
    assert pair.delivered == []


def test_what_is_malformed_costs_a_counter() -> None:
    pair = Pair(1)
    pair.says(packet())
    for octets in (pair.sent[0][0][:5], pair.sent[0][0][:20], b""):
        pair.server.received(VIP, octets)
    assert pair.journal.counters["malformed-copy"] == 3


def test_who_has_gone_is_forgotten() -> None:
    pair = Pair(1)
    pair.says(packet())
    pair.server.received(VIP, pair.sent[0][0])
    pair.server.keep(())
    pair.server.received(VIP, pair.sent[0][0])
    assert len(pair.delivered) == 2
