"""TCP through an outage: real sockets on a TUN, whose packets a holder keeps.

The application has the virtual address; its peer is in a namespace of its own, behind a veth.
During an outage the route of the virtual address leads into the TUN, afterwards to the peer, as
the policies of an endpoint have it; like those, an inbound policy accepts nothing that comes
unprotected from outside.
"""

import asyncio
import contextlib
import errno
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import pytest

from orchestrator.adapters import clock
from orchestrator.adapters.tun import TunDevice
from orchestrator.core.hold import HoldPolicy
from orchestrator.core.kernel import MARK_TO_SENDERS
from orchestrator.core.quantities import IPAddress
from orchestrator.services.freezer import Freezer
from orchestrator.services.hold import Holder
from orchestrator.services.journal import Journal
from orchestrator.services.senders import restart_applications
from tests.kernel.netns import Namespace

pytestmark = pytest.mark.usefixtures("needs_tun")

PORT: Final = 7
OUTAGE: Final = 3.5
"""Seconds. The sender tries after 0.2, 0.6, 1.4 and 3 s, and then after 6.2 s again."""
SOON: Final = 1.5
"""Seconds; before its timer would have it try again."""
TUN: Final = "vip0"


@dataclass(frozen=True)
class Ends:
    vip: IPAddress
    peer: IPAddress
    link: IPAddress

    @property
    def length(self) -> int:
        return self.vip.max_prefixlen

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.vip.version == 4 else socket.AF_INET6

    @property
    def at_once(self) -> str:
        """The kernel's own duplicate address detection is a piece of work for later, even if
        it is to do nothing."""
        return "" if self.vip.version == 4 else " nodad"


V4: Final = Ends(ip_address("10.99.0.2"), ip_address("10.51.1.2"), ip_address("10.51.1.1"))
V6: Final = Ends(ip_address("fd00:99::2"), ip_address("fd00:51::2"), ip_address("fd00:51::1"))


class Outage:
    """An endpoint and a peer, and the way between them."""

    def __init__(self, ends: Ends, policy: HoldPolicy, rto_min_ms: int) -> None:
        self.ends = ends
        self._rto_min_ms = rto_min_ms
        self.journal = Journal()
        self.attached = True
        self.endpoint = Namespace.create()
        self.peer = Namespace.create()
        self._build()
        with self.endpoint.entered():
            self._tun = TunDevice.open(TUN)
            self.endpoint.run(f"ip link set {TUN} up")
            address = f"{ends.vip}/{ends.length} dev {TUN} noprefixroute"
            self.endpoint.run(f"ip addr add {address}{ends.at_once}")
            self.holder = Holder(
                lambda header: header.source,
                lambda _: self.attached,
                lambda _: policy,
                clock.now,
                self.journal,
                MARK_TO_SENDERS,
            )
            self.holder.hold("test", (ends.vip,))
            self.holder.start(self._tun)
        self.return_path()
        self.listener = self._listen()
        self._opened = [self.listener]
        self.connect()  # of a neighbour that was not known yet the round trip is a long one

    def _build(self) -> None:
        ends, width = self.ends, 24 if self.ends.vip.version == 4 else 64
        self.endpoint.run(f"ip link add out0 type veth peer name in0 netns {self.peer.path}")
        for namespace, device, address in (
            (self.endpoint, "out0", ends.link),
            (self.peer, "in0", ends.peer),
        ):
            namespace.run(f"ip addr add {address}/{width} dev {device}{ends.at_once}")
            namespace.run(f"ip link set {device} up")
        self.peer.run(f"ip route add {ends.vip}/{ends.length} via {ends.link}")
        # What comes through the link stands for what comes out of an SA: it has a mark.
        inbound = f"dir in src {'0.0.0.0/0' if width == 24 else '::/0'} dst {ends.vip}"
        self.endpoint.run(
            "nft add table inet link",
            "nft add chain inet link in { type filter hook prerouting priority raw ; }",
            "nft add rule inet link in iifname out0 meta mark set 1",
            f"ip xfrm policy add {inbound} priority 100 mark 1",
            f"ip xfrm policy add {inbound} priority 100 mark {MARK_TO_SENDERS:#x}",
            f"ip xfrm policy add {inbound} priority 200 tmpl proto esp mode tunnel reqid 7",
        )

    def _listen(self) -> socket.socket:
        with self.peer.entered():
            listener = socket.create_server(
                (str(self.ends.peer), PORT), family=self.ends.family
            )
        listener.settimeout(5)
        return listener

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """The application's end and the peer's."""
        with self.endpoint.entered():
            application = socket.socket(self.ends.family, socket.SOCK_STREAM)
            application.bind((str(self.ends.vip), 0))
            self._opened.append(application)
            application.settimeout(5)
            application.connect((str(self.ends.peer), PORT))
        return application, self.accept()

    def accept(self) -> socket.socket:
        peer, _ = self.listener.accept()
        self._opened.append(peer)
        peer.settimeout(20)
        return peer

    def lose_path(self) -> None:
        self.attached = False
        self._route(f"dev {TUN}")

    def return_path(self) -> None:
        self._route("dev out0")
        self.attached = True

    def _route(self, way: str) -> None:
        ends = self.ends
        self.endpoint.run(
            f"ip route replace {ends.peer}/{ends.length} {way} src {ends.vip}"
            f" rto_min {self._rto_min_ms}ms"
        )

    def close(self) -> None:
        self.holder.stop()
        self._tun.close()
        for sock in self._opened:
            sock.close()
        self.endpoint.close()
        self.peer.close()


@contextlib.asynccontextmanager
async def outage(
    ends: Ends, *, freeze: bool = True, rto_min_ms: int = 200
) -> AsyncIterator[Outage]:
    made = Outage(ends, replace(HoldPolicy(), freeze=freeze), rto_min_ms)
    try:
        with made.endpoint.entered():
            yield made
    finally:
        made.close()


async def waited(peer: socket.socket) -> float:
    """How long until something arrives, in seconds."""
    began = time.monotonic()
    assert await asyncio.to_thread(peer.recv, 100)
    return time.monotonic() - began


class TestRestart:
    @pytest.mark.parametrize(
        ("ends", "restarted"),
        [(V4, True), (V6, True), (V4, False)],
        ids=["v4", "v6", "control"],
    )
    def test_what_was_sent_in_an_outage_arrives_at_its_end(
        self, ends: Ends, *, restarted: bool
    ) -> None:
        async def story() -> float:
            async with outage(ends) as made:
                application, peer = made.connect()
                made.lose_path()
                application.send(b"x" * 100)
                await asyncio.sleep(OUTAGE)
                made.return_path()
                if restarted:
                    assert restart_applications(made.holder, (ends.vip,)) == 1
                    assert made.holder.release((ends.vip,)) == 0, "the sender has it"
                return await waited(peer)

        taken = asyncio.run(story())
        assert taken < SOON if restarted else taken > SOON

    def test_what_was_not_repeated_yet_is_released(self) -> None:
        async def story() -> None:
            async with outage(V4, rto_min_ms=60_000) as made:
                application, peer = made.connect()
                made.lose_path()
                application.send(b"x" * 100)
                await asyncio.sleep(0.05)
                made.return_path()
                assert restart_applications(made.holder, (V4.vip,)) == 0
                assert made.holder.release((V4.vip,)) >= 1
                assert await asyncio.to_thread(peer.recv, 200) == b"x" * 100

        asyncio.run(story())


KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class TestProbes:
    @pytest.mark.parametrize(
        ("ends", "freeze"), [(V4, True), (V6, True), (V4, False)], ids=["v4", "v6", "control"]
    )
    def test_a_keepalive_does_not_end_a_connection(self, ends: Ends, *, freeze: bool) -> None:
        async def story() -> None:
            async with outage(ends, freeze=freeze) as made:
                application, peer = made.connect()
                for option in KEEPALIVE:
                    application.setsockopt(*option)
                made.lose_path()
                await asyncio.sleep(7)
                made.return_path()
                if not freeze:
                    with pytest.raises(TimeoutError):
                        application.send(b"a")
                    return
                assert made.journal.counters["probe-answered"] >= 3
                made.holder.release((ends.vip,))
                application.send(b"still here")
                assert await asyncio.to_thread(peer.recv, 100) == b"still here"

        asyncio.run(story())

    @pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
    def test_a_closed_window_stays_closed_until_it_is_opened(self, ends: Ends) -> None:
        """The probes are answered, nothing is acknowledged, and all arrives once."""

        async def story() -> None:
            async with outage(ends) as made:
                application, peer = made.connect()
                application.settimeout(0)
                sent = 0
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sent += application.send(b"z" * 65536)
                await asyncio.sleep(1)  # until the peer's window is closed
                made.lose_path()
                await asyncio.sleep(6)
                assert made.journal.counters["probe-answered"] >= 1
                made.return_path()
                made.holder.release((ends.vip,))
                application.shutdown(socket.SHUT_WR)
                arrived = 0
                while octets := await asyncio.to_thread(peer.recv, 1 << 20):
                    assert octets.count(b"z") == len(octets)
                    arrived += len(octets)
                assert arrived == sent

        asyncio.run(story())


APPLICATION: Final = f"""
import socket, sys, time
version, vip, peer, limit = sys.argv[1:]
sock = socket.socket(socket.AF_INET6 if version == "6" else socket.AF_INET)
sock.bind((vip, 0))
sock.connect((peer, {PORT}))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limit))
print("connected", flush=True)
for line in sys.stdin:
    try:
        sock.send(line.encode())
        print(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""
LIMIT_MS: Final = 2000


class TestPatience:
    @pytest.mark.parametrize(
        ("ends", "frozen"), [(V4, True), (V6, True), (V4, False)], ids=["v4", "v6", "control"]
    )
    def test_an_applications_limit_is_lifted_for_the_outage(
        self, ends: Ends, tmp_path: Path, *, frozen: bool
    ) -> None:
        words = [str(ends.vip.version), str(ends.vip), str(ends.peer), str(LIMIT_MS)]

        async def story() -> None:
            async with outage(ends) as made:
                application = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", APPLICATION, *words),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
                try:
                    await talk(made, application, tmp_path / "frozen.json", frozen=frozen)
                finally:
                    application.kill()
                    await application.wait()

        asyncio.run(story())


async def talk(
    made: Outage, application: asyncio.subprocess.Process, record: Path, *, frozen: bool
) -> None:
    vip = made.ends.vip

    async def say(word: str) -> int:
        assert application.stdin is not None
        assert application.stdout is not None
        application.stdin.write(f"{word}\n".encode())
        return int(await application.stdout.readline())

    assert application.stdout is not None
    assert await application.stdout.readline() == b"connected\n"
    peer = made.accept()
    freezer = Freezer(record, lambda: (vip,), made.journal)
    running = asyncio.create_task(freezer.run())
    made.lose_path()
    if frozen:
        freezer.freeze()
    assert await say("one") == LIMIT_MS
    await asyncio.sleep(5)
    if not frozen:
        assert await say("two") == errno.ETIMEDOUT
    else:
        assert freezer.lifted == 1
        assert await say("two") > LIMIT_MS
        assert Freezer(record, lambda: (vip,), made.journal).lifted == 1, "a successor knows"
        made.return_path()
        restart_applications(made.holder, (vip,))
        made.holder.release((vip,))
        assert await asyncio.to_thread(peer.recv, 100) in (b"one\n", b"one\ntwo\n")
        freezer.thaw()
        for _ in range(50):
            await asyncio.sleep(0.1)
            if not freezer.lifted:
                break
        assert await say("three") == LIMIT_MS, "it has its limit back"
        assert not Freezer(record, lambda: (vip,), made.journal).lifted
    running.cancel()
