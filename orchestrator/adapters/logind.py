"""Hears from systemd-logind that the device goes to sleep, and makes it wait for us a moment.

A lock of mode "delay" is held while the device is awake; logind announces a sleep, waits until
the lock is given up (5 s at most, logind.conf(5), InhibitDelayMaxSec), suspends, and announces
the end. Interface: org.freedesktop.login1(5); https://systemd.io/INHIBITOR_LOCKS.

Whoever is on the system bus may send us a signal: only logind's own count.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

from orchestrator.core.errors import OrchestratorError

LOGIND: Final = "org.freedesktop.login1"
PATH: Final = "/org/freedesktop/login1"
MANAGER: Final = "org.freedesktop.login1.Manager"
BUS: Final = "org.freedesktop.DBus"
BUS_PATH: Final = "/org/freedesktop/DBus"
MATCHES: Final = (
    f"type='signal',sender='{LOGIND}',interface='{MANAGER}',member='PrepareForSleep'",
    f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{LOGIND}'",
)
ANSWER_SECONDS: Final = 10.0
"""logind answers in milliseconds; this is a bus that hangs."""
GOODBYE_SECONDS: Final = 1.0
QUEUED: Final = 16
"""Announcements not looked at yet: more is nonsense, and is not kept."""
FAILURES: Final = (OSError, EOFError, TimeoutError, ValueError)
"""What the library raises of a bus that is not there, goes away, or makes no sense."""


class LogindError(OrchestratorError):
    """There is no system bus, no logind on it, or it does not do as asked."""


class Logind:
    """A connection to it, made by `connected`."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._owner: str | None = None
        """logind's own name on the bus."""
        self._lock: int | None = None
        self._announced: asyncio.Queue[bool] = asyncio.Queue(QUEUED)
        self._gone = asyncio.Event()

    async def delay(self) -> None:
        """From now on it waits for us before it suspends. Raises LogindError."""
        if self._lock is not None:
            return
        reply = await self._call(
            LOGIND, "Inhibit", "sleep", "orchestrator", "tells the mobility server", "delay"
        )
        if not reply.unix_fds:
            raise LogindError("logind gave no lock")
        self._lock = reply.unix_fds[0]

    def let_go(self) -> None:
        """It need not wait for us any longer."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def sleeps(self) -> AsyncIterator[bool]:
        """True: the device is about to sleep; False: it is awake again, or did not sleep.

        Raises LogindError when logind, or the bus, goes away.
        """
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            while True:
                following = asyncio.ensure_future(self._announced.get())
                await asyncio.wait((following, gone), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    raise LogindError("logind went away")
                yield following.result()
        finally:
            gone.cancel()

    async def follow(self) -> None:
        """Hears its announcements from now on. Raises LogindError."""
        for rule in MATCHES:
            await self._call(BUS, "AddMatch", rule)
        owner = await self._call(BUS, "GetNameOwner", LOGIND)
        self._owner = str(owner.body[0])
        self._bus.add_message_handler(self._hear)

    def goes(self, connection: "asyncio.Future[None]") -> None:
        """The bus is gone."""
        if not connection.cancelled():
            connection.exception()  # that it ended is all there is to know
        self._gone.set()

    def _hear(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == BUS and message.member == "NameOwnerChanged":
            self._gone.set()
        elif message.sender == self._owner and message.member == "PrepareForSleep":
            with contextlib.suppress(asyncio.QueueFull):
                self._announced.put_nowait(bool(message.body[0]))

    async def _call(self, service: str, method: str, *arguments: str) -> Message:
        path, interface = (PATH, MANAGER) if service == LOGIND else (BUS_PATH, BUS)
        call = Message(
            destination=service,
            path=path,
            interface=interface,
            member=method,
            signature="s" * len(arguments),
            body=list(arguments),
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reply = await self._bus.call(call)
        except FAILURES as error:
            raise LogindError(f"{method}: {error or type(error).__name__}") from error
        if reply is None or reply.message_type is MessageType.ERROR:
            why = "no answer" if reply is None else f"{reply.error_name}: {reply.body}"
            raise LogindError(f"{method}: {why}")
        return reply


@contextlib.asynccontextmanager
async def connected() -> AsyncGenerator[Logind, None]:
    """logind, until the end of the block, where its lock is given up. Raises LogindError.

    The bus is where DBUS_SYSTEM_BUS_ADDRESS says, or at the standard place.
    """
    try:
        bus = MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
        async with asyncio.timeout(ANSWER_SECONDS):
            await bus.connect()
    except FAILURES as error:
        raise LogindError(f"no system bus: {error or type(error).__name__}") from error
    logind = Logind(bus)
    end = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
    end.add_done_callback(logind.goes)
    try:
        await logind.follow()
        yield logind
    finally:
        logind.let_go()
        bus.disconnect()
        await asyncio.wait((end,), timeout=GOODBYE_SECONDS)
        end.cancel()
