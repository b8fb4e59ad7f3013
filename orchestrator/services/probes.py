"""Sends and answers the probes inside the tunnel, on UDP sockets of the virtual addresses.

A probe reaches the server only out of an SA, so that nobody outside can speak here. Inside,
both ends speak from the service's port, which is the daemon's alone while it runs: no
application of an endpoint can send its device to sleep, or elsewhere. What is malformed all the
same costs a counter.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from struct import Struct
from typing import Final

from orchestrator.core.endpoint_state import SERVICE, SERVICE_PORT
from orchestrator.core.errors import PeerError
from orchestrator.core.kernel import MARK_PROBE
from orchestrator.core.mobility_events import ProbeAnswered, SendProbe
from orchestrator.core.quantities import IPAddress, Seconds
from orchestrator.core.session_events import AnswerProbe, Heard, HeardWarm
from orchestrator.services.journal import Journal
from orchestrator.wire.copy import is_copy
from orchestrator.wire.probe import PROBE_SIZE, Kind, Probe, decode, encode
from orchestrator.wire.stalled import is_stalled

READS_PER_WAKEUP: Final = 64
LARGEST: Final = 9000
"""Octets of a probe, or of a copy: `[tunnel] mtu` is not larger."""
_WHOLE_ONLY: Final = {
    4: (socket.IPPROTO_IP, 10, 2),
    6: (socket.IPPROTO_IPV6, 23, 2),
}
"""IP_MTU_DISCOVER and IPV6_MTU_DISCOVER, *_PMTUDISC_DO (include/uapi/linux/in.h, in6.h): what
would have to be cut is refused. A padded probe is to tell what is carried in one piece."""
_HEADERS: Final = {4: 28, 6: 48}
"""Octets of IP and UDP."""
Copied = Callable[[IPAddress, bytes], None]
"""Takes what came for, or from, this virtual address (`wire.copy`)."""
_MARK: Final = Struct("=I")
"""SO_MARK as ancillary data: __sock_cmsg_send in net/core/sock.c."""
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class _ProbeSockets:
    """Sockets bound to the given addresses; each address that cannot be bound yet is tried
    again at the next `bind`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._sockets: dict[IPAddress, socket.socket] = {}

    def bind(self, addresses: Iterable[IPAddress]) -> None:
        wanted = frozenset(addresses)
        for address in self._sockets.keys() - wanted:
            self._close(address)
        for address in wanted - self._sockets.keys():
            sock = socket.socket(_FAMILY[address.version], socket.SOCK_DGRAM)
            sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
            try:
                sock.setsockopt(*_WHOLE_ONLY[address.version])
                sock.bind((str(address), SERVICE_PORT))
            except OSError:
                sock.close()
                continue
            self._sockets[address] = sock
            asyncio.get_running_loop().add_reader(sock.fileno(), self._read, sock)

    def close(self) -> None:
        for address in tuple(self._sockets):
            self._close(address)

    def _close(self, address: IPAddress) -> None:
        sock = self._sockets.pop(address)
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()

    def _read(self, sock: socket.socket) -> None:
        for _ in range(READS_PER_WAKEUP):
            try:
                octets, sender = sock.recvfrom(LARGEST)
            except OSError:
                return
            host, port = sender[:2]
            if port != SERVICE_PORT:
                self._journal.count("stray-probe")
                continue
            if is_copy(octets):
                self._copied(sock, octets, ip_address(host))
                continue
            if is_stalled(octets):
                self._stalled(octets, ip_address(host))
                continue
            try:
                self._received(sock, decode(octets), ip_address(host))
            except PeerError:
                self._journal.count("malformed-probe")

    def _received(self, sock: socket.socket, probe: Probe, sender: IPAddress) -> None:
        raise NotImplementedError

    def _copied(self, sock: socket.socket, octets: bytes, sender: IPAddress) -> None:
        raise NotImplementedError

    def _stalled(self, octets: bytes, sender: IPAddress) -> None:
        raise NotImplementedError

    def _send(self, sock: socket.socket, octets: bytes, to: IPAddress, mark: int) -> bool:
        """False: the kernel knows that the way does not carry it. No route, no buffer: an
        unanswered probe says the same."""
        marked = [(socket.SOL_SOCKET, socket.SO_MARK, _MARK.pack(mark))] if mark else []
        try:
            sock.sendmsg((octets,), marked, 0, (str(to), SERVICE_PORT))
        except OSError as error:
            return error.errno != errno.EMSGSIZE
        return True


class EndpointProbes(_ProbeSockets):
    """The asking side."""

    def __init__(
        self, answered: Callable[[ProbeAnswered], None], copied: Copied, journal: Journal
    ) -> None:
        super().__init__(journal)
        self._answered = answered
        self._take_copy = copied

    def send(self, order: SendProbe) -> bool:
        """One probe over the first virtual address; a lost one is repeated by the machine.

        False: the kernel knows that the way does not carry its size.
        """
        for vip, sock in self._sockets.items():
            kind, mark = Kind.ASLEEP if order.asleep else Kind.REQUEST, 0
            if order.slot is not None:
                mark = MARK_PROBE | order.slot
            if order.slot is not None or order.size:
                kind = Kind.FLOWS if order.carries else Kind.WARM
            probe = Probe(
                kind,
                order.flip,
                order.sequence,
                order.spi,
                _milliseconds(order.within),
                order.limit,
                max(order.size - _HEADERS[vip.version] - PROBE_SIZE, 0),
            )
            return self._send(sock, encode(probe), SERVICE[vip.version], mark)
        return True

    def _copied(self, sock: socket.socket, octets: bytes, sender: IPAddress) -> None:
        if sender == SERVICE[sender.version]:
            self._take_copy(ip_address(sock.getsockname()[0]), octets)

    def _stalled(self, octets: bytes, sender: IPAddress) -> None:
        self._journal.count("stray-probe")  # telling is our part

    def send_beside(self, vip: IPAddress, octets: bytes, mark: int = 0) -> bool:
        """What is no probe, to the server's daemon; 0: over the active tunnel. False: it is too
        large."""
        sock = self._sockets.get(vip)
        return sock is None or self._send(sock, octets, SERVICE[vip.version], mark)

    def _received(self, sock: socket.socket, probe: Probe, sender: IPAddress) -> None:
        if probe.kind is Kind.REPLY and sender == SERVICE[sender.version]:
            self._answered(ProbeAnswered(probe.sequence, _seconds(probe.within_ms)))


class ServerProbes(_ProbeSockets):
    """The answering side."""

    def __init__(
        self,
        heard: Callable[[Heard | HeardWarm], None],
        copied: Copied,
        stalled: Copied,
        journal: Journal,
    ) -> None:
        super().__init__(journal)
        self._heard = heard
        self._take_copy = copied
        self._take_stalled = stalled

    def _copied(self, sock: socket.socket, octets: bytes, sender: IPAddress) -> None:
        self._take_copy(sender, octets)

    def _stalled(self, octets: bytes, sender: IPAddress) -> None:
        self._take_stalled(sender, octets)

    def send_copy(self, vip: IPAddress, octets: bytes, mark: int) -> bool:
        """To the endpoint's daemon; 0: over the active tunnel. False: it is too large."""
        sock = self._sockets.get(SERVICE[vip.version])
        return sock is None or self._send(sock, octets, vip, mark)

    def _received(self, sock: socket.socket, probe: Probe, sender: IPAddress) -> None:
        within = _seconds(probe.within_ms)
        match probe.kind:
            case Kind.REQUEST | Kind.ASLEEP:
                asleep = probe.kind is Kind.ASLEEP
                told = probe.flip, probe.spi, probe.sequence, asleep, within, probe.limit
                self._heard(Heard(sender, *told))
            case Kind.WARM | Kind.FLOWS:
                asked = probe.flip, probe.spi, probe.sequence, probe.padding, within
                carries = probe.kind is Kind.FLOWS
                self._heard(HeardWarm(sender, *asked, carries))
            case Kind.REPLY:
                pass  # answering is our part

    def answer(self, order: AnswerProbe) -> None:
        """Its SO_MARK, which takes CAP_NET_ADMIN, is on this one packet."""
        heard = order.probe
        sock = self._sockets.get(SERVICE[heard.vip.version])
        if sock is None:
            return
        agreed = _milliseconds(order.agreed)
        padding = heard.padding if isinstance(heard, HeardWarm) else 0
        probe = Probe(
            Kind.REPLY, heard.flip, heard.sequence, heard.spi, agreed, padding=padding
        )
        self._send(sock, encode(probe), heard.vip, order.mark)


def _milliseconds(time: Seconds | None) -> int:
    """On the wire: 0 is none, and no time is 0."""
    return 0 if time is None else max(1, round(time * 1000))


def _seconds(milliseconds: int) -> Seconds | None:
    return Seconds(milliseconds / 1000) if milliseconds else None
