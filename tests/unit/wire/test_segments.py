"""What is read of a held segment, and made of it. At work: `tests/kernel/services`."""

from ipaddress import ip_address
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.hold import Kind
from orchestrator.core.quantities import IPAddress
from orchestrator.wire.labels import Flow, label
from orchestrator.wire.packets import parse_ip
from orchestrator.wire.segments import (
    ACK,
    FIN,
    RST,
    SYN,
    TCP,
    Data,
    Segment,
    data_segment,
    parse_segment,
    probe_answer,
    unreachable,
    without_echo,
)
from tests.checksums import checksum

VIP, PEER = ip_address("10.99.0.2"), ip_address("10.51.1.2")
VIP6, PEER6 = ip_address("fd00:99::2"), ip_address("fd00:51::2")
STAMPS: Final = b"\x01\x01\x08\x0a" + (70_000).to_bytes(4, "big") + (80_001).to_bytes(4, "big")
PORTS: Final = (40_000).to_bytes(2, "big") + (22).to_bytes(2, "big")


def packet(source: IPAddress, destination: IPAddress, protocol: int, body: bytes) -> bytes:
    ends = source.packed + destination.packed
    if source.version == 6:
        head = b"\x60\0\0\0" + len(body).to_bytes(2, "big") + bytes([protocol, 64])
        return head + ends + body
    head = b"\x45\0" + (20 + len(body)).to_bytes(2, "big") + bytes(4) + bytes([64, protocol])
    return head + checksum(head + ends).to_bytes(2, "big") + ends + body


def pseudo(found: bytes) -> bytes:
    """What the checksum of a transport header counts beside it."""
    header = parse_ip(found)
    length = (len(found) - header.payload).to_bytes(4, "big")
    return header.source + header.destination + length + bytes([0, 0, 0, header.protocol])


def is_intact(found: bytes) -> bool:
    """Whether every checksum in it is right."""
    header = parse_ip(found)
    outer = header.version == 6 or not checksum(found[: header.payload])
    counted = b"" if header.protocol == 1 else pseudo(found)
    return outer and not checksum(counted + found[header.payload :])


def tcp(
    sequence: int = 1000,
    flags: int = ACK,
    payload: bytes = b"",
    options: bytes = STAMPS,
    ends: tuple[IPAddress, IPAddress] = (VIP, PEER),
) -> bytes:
    """A segment with the right checksum."""
    offset = (20 + len(options)) // 4 << 4
    numbers = sequence.to_bytes(4, "big") + (5_000).to_bytes(4, "big")
    head = PORTS + numbers + bytes([offset, flags]) + (512).to_bytes(2, "big")
    blank = packet(*ends, TCP, head + bytes(4) + options + payload)
    body = blank[parse_ip(blank).payload :]
    proof = checksum(pseudo(blank) + body).to_bytes(2, "big")
    return packet(*ends, TCP, head + proof + bytes(2) + options + payload)


def read(found: bytes) -> Segment:
    segment = parse_segment(found, parse_ip(found))
    assert segment is not None
    return segment


class TestReading:
    def test_reads_what_there_is(self) -> None:
        assert read(tcp(payload=b"abc")) == Segment(
            40_000, 22, 1000, 5000, ACK, 512, 3, (70_000, 80_001), 20 + 20 + 8
        )

    @pytest.mark.parametrize(
        "options",
        [
            b"",
            b"\x01\x01\x01\x00",
            b"\x00" + STAMPS[1:],
            b"\x02\x04\x05\xb4",
            b"\x08\x04\x05\xb4",
            b"\x05\x00\x01\x01",
            b"\x05\x0a\x01\x01",
            b"\x01\x01\x01\x08",
        ],
    )
    def test_finds_no_timestamps_where_there_are_none(self, options: bytes) -> None:
        assert read(tcp(options=options)).timestamps is None

    def test_finds_timestamps_behind_other_options(self) -> None:
        found = read(tcp(options=b"\x02\x04\x05\xb4" + STAMPS))
        assert (found.timestamps, found.echo_at) == ((70_000, 80_001), 20 + 20 + 12)

    def test_what_occupies_no_sequence_number_is_not_repeated(self) -> None:
        assert [read(tcp(flags=f)).occupies for f in (ACK, RST, ACK | FIN, SYN)] == [
            False,
            False,
            True,
            True,
        ]
        assert read(tcp(payload=b"a")).occupies

    @pytest.mark.parametrize(
        "found",
        [
            packet(VIP, PEER, 17, tcp()[20:]),
            tcp()[:6] + b"\x20" + tcp()[7:],
            tcp()[:6] + b"\x00\x10" + tcp()[8:],
            packet(VIP, PEER, TCP, bytes(8)),
            packet(VIP, PEER, TCP, tcp()[20:32] + b"\x40" + tcp()[33:]),
            packet(VIP, PEER, TCP, tcp()[20:32] + b"\xf0" + tcp()[33:]),
        ],
        ids=["udp", "first fragment", "later one", "cut off", "offset small", "offset large"],
    )
    def test_everything_else_is_none(self, found: bytes) -> None:
        assert parse_segment(found, parse_ip(found)) is None

    @given(st.binary(max_size=60))
    def test_bears_any_octets(self, body: bytes) -> None:
        found = packet(VIP, PEER, TCP, body)
        segment = parse_segment(found, parse_ip(found))
        if segment is not None:
            assert len(without_echo(found, parse_ip(found), segment)) == len(found)


class TestEcho:
    @pytest.mark.parametrize("ends", [(VIP, PEER), (VIP6, PEER6)], ids=["v4", "v6"])
    @pytest.mark.parametrize("shift", [b"", b"\x01", b"\x01\x01\x01"], ids=["even", "odd", "3"])
    def test_goes_and_the_checksum_stays_right(
        self, ends: tuple[IPAddress, IPAddress], shift: bytes
    ) -> None:
        options = shift + STAMPS
        found = tcp(payload=b"abc", options=options + bytes(-len(options) % 4), ends=ends)
        assert is_intact(found)
        changed = without_echo(found, parse_ip(found), read(found))
        assert is_intact(changed)
        assert read(changed) == read(found)._replace(timestamps=(70_000, 0))

    def test_without_timestamps_nothing_changes(self) -> None:
        found = tcp(options=b"")
        assert without_echo(found, parse_ip(found), read(found)) == found


@pytest.mark.parametrize("ends", [(VIP, PEER), (VIP6, PEER6)], ids=["v4", "v6"])
class TestMade:
    def test_an_answer_to_a_probe(self, ends: tuple[IPAddress, IPAddress]) -> None:
        probe = tcp(sequence=2**32 - 1, ends=ends)
        made = probe_answer(parse_ip(probe), read(probe))
        assert is_intact(made)
        header = parse_ip(made)
        assert (header.source, header.destination) == (ends[1].packed, ends[0].packed)
        assert read(made)[:8] == (22, 40_000, 5000, 0, ACK, 0, 0, (80_001, 70_000))

    def test_an_answer_without_timestamps(self, ends: tuple[IPAddress, IPAddress]) -> None:
        probe = tcp(options=b"", ends=ends)
        made = probe_answer(parse_ip(probe), read(probe))
        assert is_intact(made)
        assert read(made)[:8] == (22, 40_000, 5000, 1001, ACK, 0, 0, None)

    def test_an_unreachable_destination(self, ends: tuple[IPAddress, IPAddress]) -> None:
        made = unreachable(ends[0].packed, 40_000, ends[1].packed, 22, 77)
        assert is_intact(made)
        header = parse_ip(made)
        assert (header.source, header.destination) == (ends[1].packed, ends[0].packed)
        kind = (1, b"\x03\x01") if header.version == 4 else (58, b"\x01\x00")
        assert (header.protocol, made[header.payload :][:2]) == kind
        quoted = made[header.payload + 8 :]
        assert quoted.endswith(PORTS + (77).to_bytes(4, "big"))
        assert quoted[-8 - 2 * len(ends[0].packed) : -8] == ends[0].packed + ends[1].packed


class TestLabels:
    def of(self, found: bytes) -> tuple[object, object]:
        header = parse_ip(found)
        named = label(found, header, parse_segment(found, header), {53})
        return named.kind, named.flow

    def test_tcp(self) -> None:
        flow = Flow(TCP, VIP.packed, 40_000, PEER.packed, 22)
        assert self.of(tcp(payload=b"a")) == (Kind.SEGMENT, flow)
        assert self.of(tcp(flags=ACK | FIN)) == (Kind.SEGMENT, flow)
        for flags in (ACK, SYN, RST):
            assert self.of(tcp(flags=flags)) == (Kind.CONTROL, flow)

    def test_copies_have_the_same_part_and_nothing_else_has(self) -> None:
        said = [tcp(flags=flags) for flags in (ACK, SYN, RST)]
        said += [tcp(payload=b"a"), tcp(sequence=1001, payload=b"a"), tcp(sequence=1001)]
        labels = [label(p, parse_ip(p), read(p), ()) for p in said]
        assert len({named.part for named in labels}) == len(said)
        again = tcp(payload=b"ab")
        assert label(again, parse_ip(again), read(again), ()) == labels[3]

    def test_udp(self) -> None:
        def to(port: int) -> bytes:
            return packet(VIP, PEER, 17, (40_000).to_bytes(2, "big") + port.to_bytes(2, "big"))

        ends = VIP.packed, 40_000, PEER.packed
        assert self.of(to(53)) == (Kind.QUERY, Flow(17, *ends, 53))
        assert self.of(to(5060)) == (Kind.DATAGRAM, Flow(17, *ends, 5060))

    def test_the_rest(self) -> None:
        rest = Flow(1, VIP.packed, 0, PEER.packed, 0)
        assert self.of(packet(VIP, PEER, 1, b"\x08\x00")) == (Kind.OTHER, rest)
        fragment = bytearray(packet(VIP, PEER, 17, bytes(16)))
        fragment[7] = 1  # eight octets into a datagram
        assert self.of(bytes(fragment))[0] is Kind.OTHER
        assert self.of(packet(VIP, PEER, 17, b"\0"))[0] is Kind.OTHER


@given(octets=st.binary(max_size=1400), time=st.none() | st.integers(0, 2**32 - 1))
def test_a_segment_that_is_sent_again_is_whole(octets: bytes, time: int | None) -> None:
    for source, destination in ((PEER, VIP), (PEER6, VIP6)):
        sent = Data(2**32 - 1, 5_000, 512, time, octets)
        found = data_segment(source.packed, 22, destination.packed, 40_000, sent)
        assert is_intact(found)
        assert found.endswith(octets)
        again = read(found)
        assert again[:6] == (22, 40_000, 2**32 - 1, 5_000, ACK, 512)
        assert again.carried == len(octets)
        assert again.timestamps == (None if time is None else (time, 0))
