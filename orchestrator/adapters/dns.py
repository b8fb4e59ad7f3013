"""Asks resolvers for the addresses of a name.

Over which link, whoever opens the sockets decides (`adapters.outside`: nothing goes into the
tunnel). All resolvers are asked at once, over UDP (RFC 1035); the first that knows an address
is believed. A wrong answer costs an attempt to reach the server, which has to prove who it is.

dnspython writes and reads the messages. Of one that is cut short, what is there is taken.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from ipaddress import IPv6Address, ip_address
from typing import Final

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA

from orchestrator.core.errors import OrchestratorError, PeerError
from orchestrator.core.lookups import Answer
from orchestrator.core.quantities import IPAddress, Seconds

PORT: Final = 53
_PAYLOAD: Final = 1232
"""Octets of the largest answer that crosses any IPv6 network in one piece (RFC 8200, 5)."""
_READ: Final = 4096
_TYPES: Final = {4: dns.rdatatype.A, 6: dns.rdatatype.AAAA}


class NoAnswer(OrchestratorError):
    """Nobody told whether the name has such addresses."""


async def ask(
    name: str,
    version: int,
    resolvers: Sequence[IPAddress],
    open_at: Callable[[IPAddress], socket.socket],
    pops: Iterable[IPAddress],
    limit: Seconds,
    port: int = PORT,
) -> Answer:
    """The addresses of one family. `pops` are ours on one link; the first of each family is
    asked from, with a socket for datagrams that `open_at` opens there. Raises NoAnswer, after
    `limit` or as soon as nobody is left who might answer.
    """
    try:
        query = dns.message.make_query(name, _TYPES[version], payload=_PAYLOAD)
    except dns.exception.DNSException as error:
        raise NoAnswer(f"{name}: {error}") from error
    with ExitStack() as stack:
        sockets: dict[int, socket.socket] = {}
        for pop in pops:
            if pop.version not in sockets:
                try:
                    opened = stack.enter_context(open_at(pop))
                except OSError as error:  # the link, or our address on it, is gone
                    raise NoAnswer(f"{name}: from {pop}: {error.strerror}") from error
                sockets[pop.version] = opened
        inquiry = _Inquiry(query, version, sockets, resolvers, port)
        for opened in sockets.values():
            loop = asyncio.get_running_loop()
            loop.add_reader(opened, inquiry.hear, opened)
            stack.callback(loop.remove_reader, opened)
        inquiry.send()
        await asyncio.wait((inquiry.outcome,), timeout=limit)
    outcome = inquiry.outcome.result() if inquiry.outcome.done() else inquiry.nothing
    if outcome is None:
        raise NoAnswer(f"{name}: no answer from {', '.join(map(str, resolvers))}")
    return outcome


class _Inquiry:
    """One question to several resolvers."""

    def __init__(
        self,
        query: dns.message.Message,
        version: int,
        sockets: dict[int, socket.socket],
        resolvers: Iterable[IPAddress],
        port: int,
    ) -> None:
        self.outcome: asyncio.Future[Answer | None] = asyncio.Future()
        """None: nobody is left who might answer."""
        self.nothing: Answer | None = None
        """That there is no such address, by one of them."""
        self._query = query
        self._packet = query.to_wire()
        self._version = version
        self._sockets = sockets
        self._port = port
        self._waiting = [each for each in resolvers if each.version in sockets]

    def send(self) -> None:
        for resolver in tuple(self._waiting):
            opened = self._sockets[resolver.version]
            try:
                opened.sendto(self._packet, _endpoint(resolver, self._port, opened))
            except OSError:
                self._waiting.remove(resolver)  # the link does not lead there
        self._settle()

    def hear(self, opened: socket.socket) -> None:
        try:
            packet, source = opened.recvfrom(_READ)
        except OSError:
            return
        known = [each for each in self._waiting if _is(each, source, self._port)]
        if not known:
            return
        try:
            found = read(self._query, packet, self._version)
        except PeerError:
            return  # the true answer may be on its way
        self._waiting.remove(known[0])
        if found is not None and found.addresses:
            if not self.outcome.done():
                self.outcome.set_result(found)
            return
        self.nothing = found or self.nothing
        self._settle()

    def _settle(self) -> None:
        if not self._waiting and not self.outcome.done():
            self.outcome.set_result(self.nothing)


def read(query: dns.message.Message, packet: bytes, version: int) -> Answer | None:
    """What the packet answers; None: that the resolver could not find out. Raises PeerError: it
    is no answer to the query.
    """
    try:
        message = dns.message.from_wire(packet)
        if not isinstance(message, dns.message.QueryMessage) or not query.is_response(message):
            raise PeerError("dns: an answer to something else")
        if message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return None
        result = message.resolve_chaining()
    except (dns.exception.DNSException, ValueError) as error:
        raise PeerError(f"dns: {error or type(error).__name__}") from error
    records = result.answer or ()
    found = tuple(
        ip_address(record.address)
        for record in records
        if isinstance(record, dns.rdtypes.IN.A.A | dns.rdtypes.IN.AAAA.AAAA)
    )
    return Answer(
        tuple(address for address in found if _can_be_a_host(address, version)),
        Seconds(float(result.minimum_ttl)),
    )


def _can_be_a_host(address: IPAddress, version: int) -> bool:
    """Elsewhere than here: a name may not send us to ourselves, or to everybody."""
    nowhere = address.is_loopback or address.is_multicast or address.is_unspecified
    return address.version == version and not nowhere and not address.is_link_local


def _endpoint(
    resolver: IPAddress, port: int, opened: socket.socket
) -> tuple[str, int] | tuple[str, int, int, int]:
    """As the socket wants it; a link-local address is one on the socket's device."""
    if not isinstance(resolver, IPv6Address):
        return (str(resolver), port)
    device = opened.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
    scope = socket.if_nametoindex(device.rstrip(b"\0").decode()) if resolver.scope_id else 0
    return (str(resolver).partition("%")[0], port, 0, scope)


def _is(resolver: IPAddress, source: tuple[str, int], port: int) -> bool:
    address = ip_address(source[0].partition("%")[0])
    return (address.packed, port) == (resolver.packed, source[1])
