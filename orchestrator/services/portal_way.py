"""The way to sign in: carries what one program sends, to the network that we are attached to.

The program runs in a network of its own, which leads nowhere (`adapters.enclosure`); whoever
started it handed us the sockets that listen there. What arrives at them is carried on by
sockets of ours, which have the mark of the underlay, are bound to the link and to our address
there (`adapters.outside`). So no rule, no policy and no firewall is opened: other applications
stay where they are, and when this process ends, however it does, so does the way.

1. TCP goes to the address and port that the program wanted, if that port is allowed and the
   address is somebody else's; TCP and UDP to port 53 go to the network's own name servers.
2. At most `MOST_CONNECTIONS` and `MOST_QUERIES` at a time; what is beyond is closed, or not
   answered.
3. `close` ends every connection at once.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from orchestrator.adapters import enclosure, outside
from orchestrator.core.portal_events import OpenWay, PortalReason
from orchestrator.core.quantities import IPAddress

MOST_CONNECTIONS: Final = 128
"""A browser opens some six to each server."""
MOST_QUERIES: Final = 64
CHUNK: Final = 64 * 1024
"""Octets that a connection keeps in each direction."""
DATAGRAM: Final = 4096
"""Octets of a DNS message; what resolvers announce is less (RFC 6891)."""
DIAL_SECONDS: Final = 15.0
RETRY_SECONDS: Final = 0.1
QUERY_SECONDS: Final = 5.0
"""As long as a resolver waits before it asks again (resolv.conf(5))."""

_ABORT: Final = struct.pack("ii", 1, 0)
"""struct linger: close() sends RST, so that the program sees that it failed."""


@dataclass(slots=True)
class Carried:
    octets: int = 0
    connections: int = 0
    queries: int = 0
    refused: int = 0
    """Connections to where the way does not lead, and what was too much."""

    def counted(self) -> dict[str, float]:
        return {name: float(count) for name, count in asdict(self).items()}


class Way:
    """An open one; `events` carries, until `close` or until whoever reads them stops."""

    def __init__(
        self,
        order: OpenWay,
        ports: Collection[int],
        not_outside: Callable[[], Collection[IPAddress]],
        carried: Carried,
    ) -> None:
        """`not_outside` are the virtual addresses."""
        self.number = order.number
        self.limit = order.limit
        self.link: Final = order.paths[0].link
        self.link_name: Final = order.paths[0].link_name
        self._paths = {path.pop.version: path for path in order.paths}
        self._nameservers: list[IPAddress] = []
        self._ports = frozenset(ports)
        self._not_outside = not_outside
        self._carried = carried
        self._closed: asyncio.Future[PortalReason] = asyncio.Future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = asyncio.Semaphore(MOST_CONNECTIONS)
        self._queries = asyncio.Semaphore(MOST_QUERIES)

    @property
    def terms(self) -> dict[str, object]:
        """What whoever asked has to know."""
        return {
            "event": "granted",
            "link": self.link_name,
            "limit_s": self.limit,
            "ports": sorted(self._ports),
            "versions": sorted(self._paths),
        }

    def look_names_up_at(self, resolvers: Sequence[IPAddress]) -> None:
        """At these, which the link's network has given, and at its gateways."""
        gateways = [path.gateway for path in self._paths.values() if path.gateway is not None]
        asked = dict.fromkeys((*resolvers, *gateways))
        self._nameservers = [each for each in asked if each.version in self._paths]

    def close(self, why: PortalReason) -> None:
        if not self._closed.done():
            self._closed.set_result(why)

    async def events(
        self, listeners: Sequence[socket.socket]
    ) -> AsyncIterator[Mapping[str, object]]:
        """That it is open, and, at the end, why it closed. The sockets are closed with it."""
        try:
            for sock in listeners:
                sock.settimeout(0)
                stream = sock.type == socket.SOCK_STREAM
                self._begin(self._accept(sock) if stream else self._answer(sock))
            yield {"event": "open"}
            yield {"event": "closed", "reason": str(await asyncio.shield(self._closed))}
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for sock in listeners:
                sock.close()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="portal way")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # TCP

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                inner, _ = await loop.sock_accept(listener)
            except OSError:  # it ended before it was accepted, or there is no descriptor left
                await asyncio.sleep(RETRY_SECONDS)
                continue
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            if self._connections.locked():
                self._refuse(inner)
                continue
            await self._connections.acquire()
            self._begin(self._carry(inner))

    async def _carry(self, inner: socket.socket) -> None:
        with contextlib.closing(inner):
            try:
                outer = await self._dialled(inner)
                if outer is None:
                    self._refuse(inner)
                    return
                self._carried.connections += 1
                with contextlib.closing(outer):
                    async with asyncio.TaskGroup() as both:
                        both.create_task(self._pour(inner, outer))
                        both.create_task(self._pour(outer, inner))
                # Ended well: what is still on its way arrives.
                inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
            except (OSError, TimeoutError, ExceptionGroup):
                return
            finally:
                self._connections.release()

    async def _dialled(self, inner: socket.socket) -> socket.socket | None:
        """Rule 1. None: that is not allowed."""
        host, port = inner.getsockname()[:2]
        address = ip_address(host)
        if port == enclosure.DNS_PORT:
            if not self._nameservers:
                return None
            address = self._nameservers[0]
        elif port not in self._ports or not self._is_outside(address):
            return None
        path = self._paths.get(address.version)
        if path is None:
            return None
        async with asyncio.timeout(DIAL_SECONDS):
            return await outside.connected(path, socket.SOCK_STREAM, address, port)

    def _is_outside(self, address: IPAddress) -> bool:
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            return False
        nobody = (
            address.is_loopback
            or address.is_multicast
            or address.is_unspecified
            or address.is_link_local
            or address.is_reserved
        )
        own = {path.pop for path in self._paths.values()}
        return not nobody and address not in own and address not in self._not_outside()

    def _refuse(self, inner: socket.socket) -> None:
        self._carried.refused += 1
        inner.close()

    async def _pour(self, source: socket.socket, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while chunk := await loop.sock_recv(source, CHUNK):
            await loop.sock_sendall(sink, chunk)
            self._carried.octets += len(chunk)
        with contextlib.suppress(OSError):  # the other side is gone already
            sink.shutdown(socket.SHUT_WR)

    # DNS

    async def _answer(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                query, who = await loop.sock_recvfrom(sock, DATAGRAM)
            except OSError:  # of an answer that nobody waited for
                continue
            if self._queries.locked():
                self._carried.refused += 1
                continue
            await self._queries.acquire()
            self._begin(self._look_up(sock, query, who))

    async def _look_up(self, sock: socket.socket, query: bytes, who: object) -> None:
        """All name servers are asked; the first answer is the answer."""
        loop = asyncio.get_running_loop()
        self._carried.queries += 1
        asked = [
            asyncio.create_task(self._asked(server, query)) for server in self._nameservers
        ]
        try:
            async with asyncio.timeout(QUERY_SECONDS):
                for first in asyncio.as_completed(asked):
                    answer = await first
                    if answer is not None:
                        await loop.sock_sendto(sock, answer, who)  # type: ignore[arg-type]
                        return
        except (OSError, TimeoutError):
            return
        finally:
            for task in asked:
                task.cancel()
            self._queries.release()

    async def _asked(self, server: IPAddress, query: bytes) -> bytes | None:
        """Of a socket of its own, whose port nobody can guess, and which hears nobody else."""
        try:
            path = self._paths[server.version]
            sock = await outside.connected(path, socket.SOCK_DGRAM, server, enclosure.DNS_PORT)
            with contextlib.closing(sock):
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, query)
                while True:
                    answer = await loop.sock_recv(sock, DATAGRAM)
                    if answer[:2] == query[:2]:
                        return answer
        except OSError:
            return None
