"""Two hosts, a wire between them, and a tunnel in it: where SAs are moved and packets counted.

The device `left` has two outer addresses to move between, and the VIPs on a TUN; `right` has
two outer addresses, the inner addresses that are talked to, and a TUN towards the VIPs. The
SAs are made with `ip xfrm`, not with the code under test. The capture sees every packet that
leaves `left`; on the receiving side a capture would see what was decrypted as well.
"""

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Final, NamedTuple

from orchestrator.adapters.xfrm import Xfrm
from orchestrator.core.kernel import Direction, Policy, Selector, Template, Verdict
from orchestrator.core.quantities import IPAddress, IPNetwork, Reqid, Spi
from tests.kernel.adapters.writing import put
from tests.kernel.netns import Namespace

LEFT: Final = (ip_address("192.0.2.1"), ip_address("192.0.2.2"))
RIGHT: Final = (ip_address("192.0.2.9"), ip_address("192.0.2.10"))
VIP: Final = ip_address("10.99.0.2")
VIP6: Final = ip_address("fd00:99::2")
INNER: Final = ip_address("10.50.0.1")
INNER6: Final = ip_address("fd00:50::1")
REQID: Final = Reqid(0x6F01)
SPI_OUT: Final = Spi(0xA1)
"""From left to right."""
SPI_IN: Final = Spi(0xB1)
PORT: Final = 9000
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_ANY: Final = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_ENCAP_PORT: Final = 4500
_UDP_ENCAP: Final = 100
_UDP_ENCAP_ESPINUDP: Final = 2
_ETH_P_ALL: Final = 3
_CAPTURE_BUFFER: Final = 16 << 20
_RCVBUFFORCE: Final = 33
_PATIENCE: Final = 5.0
"""Seconds for a packet to arrive that must arrive."""

ESN: Final = "replay-window 128 flag esn"
PLAIN: Final = "replay-window 32"


class Esp(NamedTuple):
    """One ESP packet as it was on the wire."""

    source: IPAddress
    destination: IPAddress
    spi: int
    sequence: int
    packet: bytes


class Road:
    def __init__(self, make: Callable[[], Namespace], replay: str = ESN) -> None:
        self.left, self.right = make(), make()
        self._open = contextlib.ExitStack()
        self._build()
        for here in (self.left, self.right):
            here.ip(*_states(replay))
            self._encap(here)
        with self.left.entered():
            self.xfrm = self._open.enter_context(Xfrm())
            self.sender = self.udp(VIP)
            self._capture = socket.socket(
                socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
            )
            self._capture.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _CAPTURE_BUFFER)
            self._capture.bind(("l0", _ETH_P_ALL))
            self._open.callback(self._capture.close)
        with self.right.entered():
            self.right_xfrm = self._open.enter_context(Xfrm())
            self.receiver = self.udp(INNER)
        self.protect(LEFT[0])
        for vip, inner in ((VIP, INNER), (VIP6, INNER6)):
            self._accept(self.right_xfrm, _ANY[vip.version], ip_network(inner))
            self._accept(self.xfrm, _ANY[vip.version], ip_network(vip))

    def close(self) -> None:
        self._open.close()

    def _build(self) -> None:
        self.left.ip(
            f"link add l0 type veth peer name r0 netns {self.right.path}",
            *(f"addr add {address}/24 dev l0" for address in LEFT),
            "link set l0 up",
            "tuntap add vip0 mode tun",
            "link set vip0 mtu 1380 addrgenmode none",
            f"addr add {VIP}/32 dev vip0",
            f"addr add {VIP6}/128 dev vip0 nodad",
            "link set vip0 up",
            f"route add {INNER}/32 dev vip0 src {VIP}",
            f"route add {INNER6}/128 dev vip0 src {VIP6}",
        )
        self.right.ip(
            *(f"addr add {address}/24 dev r0" for address in RIGHT),
            f"addr add {INNER}/32 dev lo",
            f"addr add {INNER6}/128 dev lo nodad",
            "link set r0 up",
            "tuntap add vips0 mode tun",
            "link set vips0 mtu 1380 addrgenmode none",
            "link set vips0 up",
            f"route add {VIP}/32 dev vips0",
            f"route add {VIP6}/128 dev vips0",
        )

    def _encap(self, here: Namespace) -> None:
        """What charon does for ESP in UDP: a socket that hands ESP to XFRM."""
        with here.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._open.callback(sock.close)
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, _UDP_ENCAP_ESPINUDP)
        sock.bind(("0.0.0.0", _ENCAP_PORT))

    def udp(self, address: IPAddress) -> socket.socket:
        """A socket in the namespace that the caller is in; closed with the road."""
        sock = socket.socket(_FAMILY[address.version], socket.SOCK_DGRAM)
        self._open.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _CAPTURE_BUFFER)
        sock.settimeout(_PATIENCE)
        sock.bind((str(address), PORT))
        return sock

    def _accept(self, xfrm: Xfrm, source: IPNetwork, destination: IPNetwork) -> None:
        selector, anywhere = Selector(source, destination), Template(None, None, REQID)
        put(xfrm, Policy(Direction.IN, selector, Verdict.PROTECT, anywhere))

    def _out(self, verdict: Verdict, template: Template | None = None) -> None:
        for vip in (VIP, VIP6):
            selector = Selector(ip_network(vip), _ANY[vip.version])
            put(self.xfrm, Policy(Direction.OUT, selector, verdict, template))

    def protect(
        self, source: IPAddress, destination: IPAddress = RIGHT[0], spi: Spi | None = None
    ) -> None:
        self._out(Verdict.PROTECT, Template(source, destination, REQID, spi))

    def younger(self, spi: Spi) -> None:
        """`left` has a second outbound SA, of which `right` knows nothing yet."""
        self.left.ip(_state(LEFT[0], RIGHT[0], spi, "33" * 20, ESN))

    def second_way_back(self, spi: Spi) -> None:
        """`right` has a second outbound SA, to the other address of `left`, which knows it."""
        for here in (self.left, self.right):
            here.ip(_state(RIGHT[0], LEFT[1], spi, "44" * 20, ESN))

    def protect_answers(self) -> None:
        """The server's side: what is sent to the VIPs takes the tunnel."""
        for vip in (VIP, VIP6):
            selector = Selector(_ANY[vip.version], ip_network(vip))
            template = Template(RIGHT[0], LEFT[0], REQID)
            policy = Policy(Direction.OUT, selector, Verdict.PROTECT, template)
            put(self.right_xfrm, policy)

    def hold(self) -> None:
        self._out(Verdict.ALLOW)

    def send(self, payload: bytes = b"x") -> None:
        self.sender.sendto(payload, (str(INNER), PORT))

    def receive(self) -> bytes:
        """The next payload that arrives inside. Raises TimeoutError."""
        return self.receiver.recv(2048)

    def nothing_arrives(self) -> bool:
        """Whether nothing is there inside; the wire of one machine delivers at once."""
        return not select.select([self.receiver], [], [], 0)[0]

    def replay(self, esp: Esp, destination: IPAddress) -> None:
        """Sends a packet from the capture again, to `destination`."""
        packet = bytearray(esp.packet)
        packet[16:20] = destination.packed
        with (
            self.left.entered(),
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
        ):
            raw.sendto(packet, (str(destination), 0))

    def on_the_wire(self) -> list[bytes]:
        """The IPv4 packets that left `left` since the last call."""
        packets: list[bytes] = []
        while True:
            try:
                packet, (_, protocol, kind, *_) = self._capture.recvfrom(2048)
            except BlockingIOError:
                return packets
            if protocol == 0x0800 and kind == socket.PACKET_OUTGOING:
                packets.append(packet)

    def esp_on_the_wire(self, count: int) -> list[Esp]:
        """The next `count` ESP packets that left `left`. Raises TimeoutError."""
        found: list[Esp] = []
        while len(found) < count:
            found += [_esp(packet) for packet in self.on_the_wire() if packet[9] == 17]
            if len(found) < count and not select.select([self._capture], [], [], _PATIENCE)[0]:
                raise TimeoutError(f"{len(found)} of {count} packets")
        return found

    @contextlib.contextmanager
    def traffic(self) -> Iterator[None]:
        """Sends without a pause meanwhile."""
        stop = threading.Event()

        def work() -> None:
            number = 0
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    self.send(b"%d" % number)
                number += 1

        thread = threading.Thread(target=work, name="traffic")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _esp(packet: bytes) -> Esp:
    return Esp(
        IPv4Address(packet[12:16]),
        IPv4Address(packet[16:20]),
        int.from_bytes(packet[28:32], "big"),
        int.from_bytes(packet[32:36], "big"),
        packet,
    )


def _states(replay: str) -> Iterator[str]:
    """Both hosts have the same two SAs: one sends what the other receives."""
    for source, destination, spi, key in (
        (LEFT[0], RIGHT[0], SPI_OUT, "11" * 20),
        (RIGHT[0], LEFT[0], SPI_IN, "22" * 20),
    ):
        yield _state(source, destination, spi, key, replay)


def _state(source: IPAddress, destination: IPAddress, spi: Spi, key: str, replay: str) -> str:
    return (
        f"xfrm state add src {source} dst {destination} proto esp spi {spi:#x}"
        f" reqid {REQID} mode tunnel {replay} flag af-unspec"
        f" aead rfc4106(gcm(aes)) 0x{key} 128"
        f" encap espinudp {_ENCAP_PORT} {_ENCAP_PORT} 0.0.0.0"
    )
