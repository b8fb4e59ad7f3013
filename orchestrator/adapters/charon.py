"""Talks to strongSwan's charon over VICI, without threads.

The codec is strongSwan's own (`vici.protocol`); the transport is asyncio's. One connection
listens for events for as long as charon lives, commands go over short connections of their
own, so that an `initiate` that takes seconds never delays a flip.

Formats: src/libcharon/plugins/vici/README.md in strongSwan.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network, summarize_address_range
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vici.exception import DeserializationException
from vici.protocol import Message, Packet

from orchestrator.core.errors import CharonError
from orchestrator.core.ike import (
    CharonUp,
    IkeDown,
    IkeEvent,
    IkeFailure,
    IkeMoved,
    IkeRekeyed,
    Tunnel,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.quantities import IPAddress, IPNetwork, Reqid, Spi, UniqueId

ViciValue = str | bytes | Sequence["ViciValue"] | Mapping[str, "ViciValue"]
ViciMessage = Mapping[str, ViciValue]
"""What we send: sections, lists and strings, as swanctl.conf has them."""
Section = dict[str, "bytes | list[bytes] | Section"]
"""What we receive: vici's ordered dictionaries of octet strings."""

SEGMENT_LIMIT: Final = 512 * 1024
"""The longest VICI message, octets (vici.protocol.Transport.MAX_SEGMENT)."""
COMMAND_TIMEOUT: Final = 5.0
"""Seconds for a command that only changes charon's tables; it takes some milliseconds."""
INITIATE_GRACE: Final = 2.0
"""Seconds we wait beyond the limit that charon itself was given for an initiate."""
EVENTS: Final = ("child-updown", "child-rekey", "ike-updown", "ike-rekey", "ike-update")

_ESTABLISHED: Final = (b"INSTALLED", b"UPDATING", b"REKEYING")
"""States of a CHILD_SA that is used. REKEYING has no successor yet; REKEYED has one, and goes
without a word when it has drained (child_sa.h, child_delete.c)."""
ANSWER: Final = "parsed IKE_SA_INIT response"
"""In charon's control log: the first that a server says (libcharon, encoding/message.c)."""

_FAILURES: Final[tuple[tuple[str, IkeFailure], ...]] = (
    ("subject certificate invalid", IkeFailure.CERTIFICATE),
    ("certificate was revoked", IkeFailure.CERTIFICATE),
    ("no trusted", IkeFailure.CERTIFICATE),
    ("no issuer certificate", IkeFailure.CERTIFICATE),
    ("AUTHENTICATION_FAILED", IkeFailure.AUTHENTICATION),
    ("AUTH_FAILED", IkeFailure.AUTHENTICATION),
    ("NO_PROPOSAL_CHOSEN", IkeFailure.NO_PROPOSAL),
    ("TS_UNACCEPTABLE", IkeFailure.SELECTORS),
    ("INTERNAL_ADDRESS_FAILURE", IkeFailure.POOL_EXHAUSTED),
    ("FAILED_CP_REQUIRED", IkeFailure.MUST_ASK),
    ("error writing to socket", IkeFailure.UNREACHABLE),
    ("timed out", IkeFailure.SILENT),
    ("giving up after", IkeFailure.SILENT),
    ("retransmit", IkeFailure.SILENT),
)
"""Words of charon's control log, most telling first, and what they mean."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """charon established the CHILD_SA; the tunnel itself comes as an event."""


@dataclass(frozen=True, slots=True)
class NotNegotiated:
    why: IkeFailure
    detail: str
    """charon's own last words."""


class _Connection:
    """One VICI connection: packets in, packets out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, socket: Path) -> Self:
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(str(socket))
        except (OSError, TimeoutError) as error:
            raise CharonError(f"charon does not answer at {socket}: {error}") from error
        return cls(reader, writer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def send(self, packet: bytes) -> None:
        self._writer.write(struct.pack("!I", len(packet)) + packet)

    async def receive(self) -> tuple[int, str, Section]:
        """The next packet: its type, the event's name if it is one, and its content."""
        try:
            (length,) = struct.unpack("!I", await self._reader.readexactly(4))
            if length > SEGMENT_LIMIT:
                raise CharonError(f"charon announces a message of {length} octets")
            packet = Packet.parse(await self._reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise CharonError("charon closed the VICI connection") from error
        kind = packet.response_type
        name = packet.event_type.decode() if kind == Packet.EVENT else ""
        if kind not in (Packet.EVENT, Packet.CMD_RESPONSE):
            return kind, name, {}
        try:
            return kind, name, Message.deserialize(packet.payload)
        except DeserializationException as error:
            raise CharonError("charon sent a malformed VICI message") from error

    async def register(self, event: str) -> None:
        self.send(Packet.register_event(event))
        while (answer := (await self.receive())[0]) == Packet.EVENT:
            pass
        if answer != Packet.EVENT_CONFIRM:
            raise CharonError(f"this charon has no event {event}: strongSwan 5.9 is needed")

    async def command(
        self,
        name: str,
        message: ViciMessage | None,
        on_event: Callable[[Section], None] | None = None,
    ) -> Section:
        """Sends a command; returns its response, having passed every event to `on_event`."""
        try:
            payload = None if message is None else Message.serialize(message)
        except struct.error as error:
            raise CharonError(f"{name}: a name or a value is too long for VICI") from error
        self.send(Packet.request(name, payload))
        while True:
            kind, _, content = await self.receive()
            if kind == Packet.CMD_RESPONSE:
                return content
            if kind != Packet.EVENT:
                raise CharonError(f"this charon has no command {name}")
            if on_event is not None:
                on_event(content)


class Charon:
    """charon, reached through the VICI socket at `socket`."""

    def __init__(self, socket: Path, on_malformed: Callable[[], object] = lambda: None) -> None:
        """`on_malformed` is called for each event and SA that makes no sense to us; it is left
        away, whoever negotiated it."""
        self._socket = socket
        self._on_malformed = on_malformed

    async def _command(self, name: str, message: ViciMessage | None = None) -> Section:
        async with _soon(name), await _Connection.open(self._socket) as connection:
            answer = await connection.command(name, message)
        if answer.get("success", b"yes") != b"yes":
            raise CharonError(f"charon refused {name}: {_text(answer, 'errmsg')}")
        return answer

    async def version(self) -> str:
        return _text(await self._command("version"), "version")

    async def load_connection(self, name: str, connection: ViciMessage) -> None:
        await self._command("load-conn", {name: connection})

    async def unload_connection(self, name: str) -> None:
        await self._command("unload-conn", {"name": name})

    async def connections(self) -> tuple[str, ...]:
        return tuple(item.decode() for item in _list(await self._command("get-conns"), "conns"))

    async def load_shared(self, name: str, secret: bytes, owners: Sequence[str]) -> None:
        """Gives charon a pre-shared key for the identities `owners`."""
        await self._command(
            "load-shared",
            {"id": name, "type": "IKE", "data": secret, "owners": list(owners)},
        )

    async def unload_shared(self, name: str) -> None:
        await self._command("unload-shared", {"id": name})

    async def shared(self) -> tuple[str, ...]:
        """The names of the pre-shared keys that came over VICI with one."""
        return tuple(
            item.decode(errors="replace")
            for item in _list(await self._command("get-shared"), "keys")
        )

    async def load_key(self, pem: bytes) -> None:
        await self._command("load-key", {"type": "any", "data": pem})

    async def load_certificate(self, pem: bytes, *, authority: bool) -> None:
        flag = "CA" if authority else "NONE"
        await self._command("load-cert", {"type": "X509", "flag": flag, "data": pem})

    async def load_pool(self, name: str, addresses: str) -> None:
        await self._command("load-pool", {name: {"addrs": addresses}})

    async def unload_pool(self, name: str) -> None:
        await self._command("unload-pool", {"name": name})

    async def pools(self) -> tuple[str, ...]:
        return tuple(await self._command("get-pools", {"leases": "no"}))

    async def terminate(self, ike: UniqueId) -> None:
        """Deletes the IKE_SA, telling the other side once, and waiting for no answer."""
        message = {"ike-id": str(ike), "force": "yes", "timeout": "-1"}
        await self._command("terminate", message)

    async def abandon(self, connection: str) -> None:
        """Gives up whatever is being negotiated under this connection name."""
        try:
            await self._command(
                "terminate", {"ike": connection, "force": "yes", "timeout": "-1"}
            )
        except CharonError:
            return  # nothing matched: it is over already

    async def initiate(
        self,
        connection: str,
        child: str,
        limit: float,
        on_answer: Callable[[], object] = lambda: None,
    ) -> Negotiated | NotNegotiated:
        """Negotiates `child`; returns charon's verdict after `limit` seconds at most.

        `on_answer` is called when the server says something, again if it says that again.
        Raises CharonError only if charon itself went away.
        """
        log: list[str] = []

        def hear(line: Section) -> None:
            log.append(_text(line, "msg"))
            if ANSWER in log[-1]:
                on_answer()

        message = {
            "ike": connection,
            "child": child,
            "timeout": str(round(limit * 1000)),
            "init-limits": "no",
            "loglevel": "1",
        }
        try:
            async with asyncio.timeout(limit + INITIATE_GRACE):
                async with await _Connection.open(self._socket) as vici:
                    await vici.register("control-log")
                    answer = await vici.command("initiate", message, hear)
        except TimeoutError:
            return NotNegotiated(IkeFailure.SILENT, f"no answer within {limit:g} s")
        if answer.get("success") == b"yes":
            return Negotiated()
        return verdict(log, _text(answer, "errmsg"))

    async def tunnels(self) -> tuple[Tunnel, ...]:
        found: list[Tunnel] = []
        async with _soon("list-sas"), await _Connection.open(self._socket) as connection:
            await connection.register("list-sa")
            await connection.command(
                "list-sas", {"noblock": "yes"}, lambda sa: found.extend(self._read(sa))
            )
        return tuple(found)

    def _read(self, content: Section) -> list[Tunnel]:
        try:
            return _tunnels(content)
        except (ValueError, TypeError):
            self._on_malformed()
            return []

    async def events(self) -> AsyncGenerator[IkeEvent, None]:
        """CharonUp with everything established, then the news, until charon goes away.

        Raises CharonError when charon is absent or goes away; the caller decides when to
        try again.
        """
        async with await _Connection.open(self._socket) as connection:
            async with _soon("register"):
                for event in EVENTS:
                    await connection.register(event)
            yield CharonUp(await self.version(), await self.tunnels())
            while True:
                _, name, content = await connection.receive()
                try:
                    events = parse_event(name, content)
                except (ValueError, TypeError):
                    self._on_malformed()
                    continue
                for news in events:
                    yield news


@contextlib.asynccontextmanager
async def _soon(name: str) -> AsyncIterator[None]:
    """Raises CharonError when what is done in here takes longer than COMMAND_TIMEOUT."""
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT):
            yield
    except TimeoutError as error:
        raise CharonError(
            f"charon did not answer {name} within {COMMAND_TIMEOUT:g} s"
        ) from error


def parse_event(name: str, content: Section) -> tuple[IkeEvent, ...]:
    """What a VICI event says, in our words; nothing for what does not concern us."""
    match name:
        case "child-updown":
            up = content.get("up") == b"yes"
            return tuple(
                TunnelUp(tunnel) if up else TunnelDown(tunnel.ike, tunnel.child)
                for tunnel in _tunnels(content, established_only=up)
            )
        case "child-rekey":
            return tuple(
                TunnelRekeyed(_unique_id(_section(pair, "old")), _tunnel(name, ike, new))
                for name, ike in _sections(content)
                for _, pair in _sections(_section(ike, "child-sas"))
                if (new := _section(pair, "new"))
            )
        case "ike-updown" if content.get("up") != b"yes":
            return tuple(IkeDown(_unique_id(ike)) for _, ike in _sections(content))
        case "ike-rekey":
            return tuple(
                IkeRekeyed(_unique_id(_section(pair, "old")), _unique_id(_section(pair, "new")))
                for _, pair in _sections(content)
            )
        case "ike-update":
            return tuple(
                IkeMoved(
                    _unique_id(ike),
                    _address(_text(content, "local-host")),
                    int(_text(content, "local-port")),
                    _address(_text(content, "remote-host")),
                    int(_text(content, "remote-port")),
                )
                for _, ike in _sections(content)
            )
    return ()


def verdict(log: Sequence[str], errmsg: str) -> NotNegotiated:
    """What charon's control log and its error message say about a failed negotiation."""
    for words, why in _FAILURES:
        for line in log:
            if words in line:
                return NotNegotiated(why, line)
    silent = "not established after" in errmsg
    why = IkeFailure.SILENT if silent else IkeFailure.OTHER
    return NotNegotiated(why, log[-1] if log else errmsg)


def _tunnels(content: Section, *, established_only: bool = True) -> list[Tunnel]:
    found = []
    for name, ike in _sections(content):
        for _, child in _sections(_section(ike, "child-sas")):
            established = child.get("state") in _ESTABLISHED
            if "spi-in" in child and (established or not established_only):
                found.append(_tunnel(name, ike, child))
    return found


def _tunnel(name: str, ike: Section, child: Section) -> Tunnel:
    return Tunnel(
        ike=_unique_id(ike),
        child=_unique_id(child),
        connection=name,
        local=_address(_text(ike, "local-host")),
        local_port=int(_text(ike, "local-port")),
        remote=_address(_text(ike, "remote-host")),
        remote_port=int(_text(ike, "remote-port")),
        local_id=_text(ike, "local-id"),
        # With EAP the person is known by the identity inside it (RFC 7296, 2.16).
        remote_id=_text(ike, "remote-eap-id") or _text(ike, "remote-id"),
        reqid=Reqid(int(_text(child, "reqid") or "0")),
        spi_in=Spi(int(_text(child, "spi-in"), 16)),
        spi_out=Spi(int(_text(child, "spi-out") or "0", 16)),
        local_ts=_networks(child, "local-ts"),
        remote_ts=_networks(child, "remote-ts"),
        local_vips=tuple(_address(item.decode()) for item in _list(ike, "local-vips")),
    )


def _networks(section: Section, key: str) -> tuple[IPNetwork, ...]:
    """Traffic selectors; ports and protocols, which we never propose, are left away.

    A peer may propose any range of addresses (RFC 7296, 3.13.1): "192.0.2.1..192.0.2.5".
    """
    found: list[IPNetwork] = []
    for item in _list(section, key):
        first, dots, last = item.decode(errors="replace").partition("[")[0].partition("..")
        if dots:
            found += summarize_address_range(ip_address(first), ip_address(last))
        else:
            found.append(ip_network(first))
    return tuple(found)


def _address(text: str) -> IPAddress:
    return ip_address(text.partition("%")[0])


def _unique_id(section: Section) -> UniqueId:
    return UniqueId(int(_text(section, "uniqueid")))


def _text(section: Section, key: str) -> str:
    value = section.get(key, b"")
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _list(section: Section, key: str) -> list[bytes]:
    value = section.get(key, [])
    return value if isinstance(value, list) else []


def _section(section: Section, key: str) -> Section:
    value = section.get(key, {})
    return value if isinstance(value, dict) else {}


def _sections(section: Section) -> list[tuple[str, Section]]:
    return [(key, value) for key, value in section.items() if isinstance(value, dict)]
