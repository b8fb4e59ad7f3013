"""That what was held leaves as if just sent: routed, protected, otherwise untouched.

Into a TUN it works on any kernel; through a tunnel where there is ESP.
"""

import contextlib
import errno
import select
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from orchestrator.adapters.inject import Injector
from orchestrator.adapters.tun import TunDevice
from orchestrator.core.errors import KernelError
from orchestrator.core.quantities import IPAddress
from tests.checksums import checksum
from tests.kernel.adapters.devices import wait_until_awake
from tests.kernel.adapters.road import (
    INNER,
    INNER6,
    PORT,
    RIGHT,
    SPI_OUT,
    VIP,
    VIP6,
    Road,
)
from tests.kernel.netns import Namespace

pytestmark = pytest.mark.usefixtures("needs_tun")

STRANGER, STRANGER6 = ip_address("10.51.1.2"), ip_address("2001:db8:51::2")
DONT_FRAGMENT, MORE_FRAGMENTS = 0x4000, 0x2000
UDP = 17
FRAGMENT6 = 44


def datagram(source: IPAddress, destination: IPAddress, payload: bytes) -> bytes:
    """A UDP datagram with its checksum, without an IP header."""
    length = (8 + len(payload)).to_bytes(2, "big")
    port = PORT.to_bytes(2, "big")
    pseudo = source.packed + destination.packed + bytes([0, UDP]) + length
    proof = checksum(pseudo + port + port + length + b"\0\0" + payload)
    return port + port + length + proof.to_bytes(2, "big") + payload


def ip4(source: IPAddress, destination: IPAddress, body: bytes, fragment: int = 0) -> bytes:
    total = (20 + len(body)).to_bytes(2, "big")
    head = b"\x45\x00" + total + b"\x12\x34" + fragment.to_bytes(2, "big") + bytes([64, UDP])
    ends = source.packed + destination.packed
    proof = checksum(head + b"\0\0" + ends).to_bytes(2, "big")
    return head + proof + ends + body


def ip6(source: IPAddress, destination: IPAddress, body: bytes, following: int = UDP) -> bytes:
    # Traffic class 0x28 and flow label 0xbeef0: they are to stay.
    length = len(body).to_bytes(2, "big")
    head = b"\x62\x8b\xee\xf0" + length + bytes([following, 64])
    return head + source.packed + destination.packed + body


def packet(source: IPAddress, destination: IPAddress, payload: bytes) -> bytes:
    body = datagram(source, destination, payload)
    return (ip4 if source.version == 4 else ip6)(source, destination, body)


@contextlib.contextmanager
def adopted(name: str) -> Iterator[TunDevice]:
    with TunDevice.open(name) as tun:
        wait_until_awake(name)
        yield tun


def read(tun: TunDevice) -> bytes:
    select.select([tun], [], [], 5.0)
    found = tun.read()
    assert found is not None
    return found


@pytest.fixture
def injector(network_namespace: Namespace) -> Iterator[Injector]:
    with Injector() as opened:
        yield opened


@pytest.fixture
def tun(network_namespace: Namespace) -> Iterator[TunDevice]:
    with TunDevice.open("vip0") as opened:
        network_namespace.run(
            "ip link set vip0 mtu 1380 addrgenmode none",
            "ip link set vip0 up",
            f"ip addr add {VIP}/32 dev vip0",
            f"ip addr add {VIP6}/128 dev vip0 nodad",
            f"ip route add {INNER}/32 dev vip0",
            f"ip route add {INNER6}/128 dev vip0",
        )
        yield opened


ENDS = [(VIP, INNER), (VIP6, INNER6), (STRANGER, INNER), (STRANGER6, INNER6)]
NONSENSE = [b"", b"\x45" + bytes(18), b"\x60" + bytes(38), b"\x55" * 60]


@pytest.mark.parametrize(
    ("source", "destination"), ENDS, ids=["4", "6", "foreign 4", "foreign 6"]
)
def test_a_packet_leaves_octet_for_octet(
    tun: TunDevice, injector: Injector, source: IPAddress, destination: IPAddress
) -> None:
    sent = packet(source, destination, b"held")
    assert injector.send(sent)
    assert read(tun) == sent


@pytest.mark.parametrize("fragment", [DONT_FRAGMENT, MORE_FRAGMENTS, 185])
def test_fragment_fields_stay_as_they_are(
    tun: TunDevice, injector: Injector, fragment: int
) -> None:
    sent = ip4(VIP, INNER, bytes(1352), fragment)
    injector.send(sent)
    assert read(tun) == sent


def test_fragments_pass_connection_tracking_one_by_one(
    tun: TunDevice, injector: Injector, network_namespace: Namespace
) -> None:
    network_namespace.run(
        "nft add table inet t",
        'nft add chain inet t o "{ type filter hook output priority 0; }"',
        "nft add rule inet t o ct state new counter",
    )
    whole = datagram(VIP, INNER, bytes(range(256)) * 8)
    first = ip4(VIP, INNER, whole[:1360], MORE_FRAGMENTS)
    second = ip4(VIP, INNER, whole[1360:], 1360 // 8)
    injector.send(second)
    injector.send(first)
    assert [read(tun), read(tun)] == [second, first]


def test_the_source_chooses_the_route(
    tun: TunDevice, injector: Injector, network_namespace: Namespace
) -> None:
    network_namespace.run(
        "ip link add other type veth peer name end",
        "ip link set other up",
        "ip link set end up",
        f"ip route del {INNER}/32 dev vip0",
        "ip route add 10.50.0.0/16 dev other",
        "ip route add default dev vip0 table 11100",
        f"ip rule add from {VIP} lookup 11100",
    )
    sent = packet(VIP, INNER, b"by the rule")
    injector.send(sent)
    assert read(tun) == sent


def test_says_that_a_packet_is_too_long(tun: TunDevice, injector: Injector) -> None:
    with pytest.raises(KernelError) as caught:
        injector.send(packet(VIP, INNER, bytes(1400)))
    assert caught.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("destination", [ip_address("192.0.2.77"), ip_address("2001:db8::77")])
def test_says_that_there_is_no_way(
    tun: TunDevice, injector: Injector, destination: IPAddress
) -> None:
    source = VIP if destination.version == 4 else VIP6
    with pytest.raises(KernelError) as caught:
        injector.send(packet(source, destination, b"x"))
    assert caught.value.errno == errno.ENETUNREACH


@pytest.mark.parametrize(
    "octets", [b"", b"\x45" + bytes(18), b"\x60" + bytes(38), b"\x55" * 60]
)
def test_refuses_what_is_no_packet(injector: Injector, octets: bytes) -> None:
    with pytest.raises(KernelError, match="not an IP packet") as caught:
        injector.send(octets)
    assert caught.value.errno == errno.EINVAL


# Through the tunnel


@pytest.mark.parametrize(("vip", "inner"), [(VIP, INNER), (VIP6, INNER6)], ids=["4", "6"])
def test_what_was_held_arrives_through_the_tunnel(
    road: Road, vip: IPAddress, inner: IPAddress
) -> None:
    with road.right.entered():
        receiver = road.receiver if inner == INNER else road.udp(inner)
    with road.left.entered(), adopted("vip0") as tun, Injector() as injector:
        sender = road.sender if vip == VIP else road.udp(vip)
        road.hold()
        for number in range(3):
            sender.sendto(b"%d" % number, (str(inner), PORT))
        held = [read(tun) for _ in range(3)]
        assert road.on_the_wire() == []
        for one in held:
            injector.send(one)
        assert [read(tun) for _ in range(3)] == held  # still held: they come back, none leaks
        assert road.on_the_wire() == []
        road.protect(ip_address("192.0.2.1"))
        for one in held:
            injector.send(one)
        assert [receiver.recvfrom(100)[0] for _ in range(3)] == [b"0", b"1", b"2"]
        assert tun.read() is None
        assert [esp.sequence for esp in road.esp_on_the_wire(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("source", "vip"), [(STRANGER, VIP), (STRANGER6, VIP6)], ids=["4", "6"]
)
def test_what_a_peer_sent_arrives_through_the_tunnel(
    road: Road, source: IPAddress, vip: IPAddress
) -> None:
    with road.left.entered():
        receiver = road.sender if vip == VIP else road.udp(vip)
    with road.right.entered(), adopted("vips0") as tun, Injector() as injector:
        held = packet(source, vip, b"from a peer")
        injector.send(held)
        assert read(tun) == held
        road.protect_answers()
        injector.send(held)
        assert receiver.recvfrom(100)[:2][1][0] == str(source)
        assert tun.read() is None


def test_a_burst_waits_for_a_slow_way_and_loses_nothing(road: Road) -> None:
    road.left.run("tc qdisc add dev l0 root tbf rate 2mbit burst 10k limit 4mb")
    count, waited = 300, 0
    with road.left.entered(), Injector() as injector:
        for number in range(count):
            held = packet(VIP, INNER, b"%d" % number + bytes(1200))
            while not injector.send(held):
                waited += 1
                assert select.select([], [injector.fileno(4)], [], 5.0)[1]
    assert waited > 0
    assert [int(road.receive()[:-1200]) for _ in range(count)] == list(range(count))


def test_without_an_sa_a_packet_is_lost_without_a_word(road: Road) -> None:
    # Why a policy gets its template only when the SA is there.
    road.xfrm.drop_state(RIGHT[0], SPI_OUT)
    with road.left.entered(), adopted("vip0") as tun, Injector() as injector:
        assert injector.send(packet(VIP, INNER, b"gone"))
        assert tun.read() is None
    assert road.nothing_arrives()
    assert road.on_the_wire() == []


def _decrypted(road: Road) -> socket.socket:
    """A capture where `right` receives: it sees what was decrypted as well."""
    with road.right.entered():
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        capture.bind(("r0", 0x0800))
    capture.settimeout(5.0)
    return capture


def test_fragments_are_joined_at_the_other_end_only(road: Road) -> None:
    payload = bytes(range(256)) * 8
    whole = datagram(VIP, INNER, payload)
    fragments = [
        ip4(VIP, INNER, whole[:1352], MORE_FRAGMENTS),
        ip4(VIP, INNER, whole[1352:], 1352 // 8),
    ]
    with _decrypted(road) as capture, road.left.entered(), Injector() as injector:
        for fragment in fragments:
            injector.send(fragment)
        assert road.receive() == payload
        inner: list[bytes] = []
        while len(inner) < 2:
            seen = capture.recv(2048)
            if seen[12:16] == VIP.packed:
                inner.append(seen)
    assert inner == fragments


def test_ipv6_fragments_arrive_too(road: Road) -> None:
    payload = bytes(range(256)) * 8
    whole = datagram(VIP6, INNER6, payload)

    def fragment(offset: int, body: bytes, *, more: bool) -> bytes:
        head = bytes([UDP, 0]) + (offset | more).to_bytes(2, "big") + b"\0\0\x12\x34"
        return ip6(VIP6, INNER6, head + body, FRAGMENT6)

    with road.right.entered():
        receiver = road.udp(INNER6)
    with road.left.entered(), Injector() as injector:
        injector.send(fragment(0, whole[:1328], more=True))
        injector.send(fragment(1328, whole[1328:], more=False))
    assert receiver.recv(4096) == payload


def test_a_packet_that_must_not_be_cut_is_refused_rather(road: Road) -> None:
    sent = ip4(VIP, INNER, datagram(VIP, INNER, bytes(1440)), DONT_FRAGMENT)
    with road.left.entered(), Injector() as injector, pytest.raises(KernelError) as caught:
        injector.send(sent)
    assert caught.value.errno == errno.EMSGSIZE
