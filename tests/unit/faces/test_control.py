"""The control socket, over a real one: who is answered, what is kept, what is cut off."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from orchestrator.config.common import Control
from orchestrator.core.errors import CharonError, OrchestratorError
from orchestrator.core.metric import Metric, counter
from orchestrator.core.quantities import Seconds
from orchestrator.faces import client
from orchestrator.faces.control import ControlLimits, ControlServer, Peer
from orchestrator.faces.lock import AlreadyRunning, DaemonLock
from orchestrator.wire.control import NotThisRole, Refused, Request, Verb, encode_request
from tests.unit.faces.waiting import run, until

NOBODY = 65534
GROUP = "daemon"
GID = 1
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, as root")
QUICK = ControlLimits(
    clients=8,
    watchers=2,
    request=Seconds(0.3),
    answer=Seconds(0.3),
    write=Seconds(0.3),
    linger=Seconds(0.2),
)


class FakeWay:
    """Nothing goes this way."""

    terms: Mapping[str, object] = MappingProxyType({"event": "granted"})

    async def events(
        self, listeners: Sequence[socket.socket]
    ) -> AsyncIterator[Mapping[str, object]]:
        assert not listeners, "they were taken"
        yield {}


@dataclass
class FakeDaemon:
    """A daemon that says what it is told to."""

    roamed: list[str | None] = field(default_factory=list)
    watching: set["asyncio.Queue[Mapping[str, object] | None]"] = field(default_factory=set)

    def status(self) -> object:
        return {"role": "endpoint", "vip": [ip_address("10.99.0.2")]}

    def paths(self) -> object:
        return ({"link": "wlan0"}, {"link": "wwan0"})

    def sessions(self) -> object:
        raise NotThisRole("sessions are the server's")

    async def flows(self) -> object:
        await asyncio.sleep(0)
        return []

    async def metrics(self) -> tuple[Metric, ...]:
        return (counter("repairs", "Objects that others changed.", 3),)

    async def roam(self, link: str | None) -> object:
        if link == "wlan9":
            raise Refused("no usable path over wlan9", "choose one of: wlan0, wwan0")
        self.roamed.append(link)
        return {"asked": link}

    @asynccontextmanager
    async def portal(self, link: str | None) -> AsyncIterator["FakeWay"]:
        if link == "wlan9":
            raise Refused("no usable path over wlan9")
        try:
            yield FakeWay()
        finally:
            self.roamed.append(link)

    async def reload(self) -> object:
        raise CharonError("charon does not answer")

    def replace_proxy(self) -> object:
        raise NotThisRole("the proxy is the server's")

    def tell(self, event: str) -> None:
        for queue in self.watching:
            queue.put_nowait({"event": event, "vip": ip_address("10.99.0.2")})

    async def events(self) -> AsyncIterator[Mapping[str, object]]:
        queue: asyncio.Queue[Mapping[str, object] | None] = asyncio.Queue()
        self.watching.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self.watching.discard(queue)


class Chatterbox(FakeDaemon):
    """More events than anybody reads."""

    async def events(self) -> AsyncIterator[Mapping[str, object]]:
        while True:
            yield {"event": "x" * 4096}


class Silent(FakeDaemon):
    async def paths(self) -> object:
        await asyncio.Event().wait()
        return None


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    made = Path(tempfile.mkdtemp(prefix="control-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def _unexpected_stop() -> None:
    raise AssertionError("stopped")


@asynccontextmanager
async def serving(
    folder: Path,
    daemon: FakeDaemon | None = None,
    *,
    group: str | None = None,
    stop: Callable[[], None] = _unexpected_stop,
) -> AsyncIterator[ControlServer]:
    config = Control(folder / "control.sock", group)
    control = ControlServer(config, daemon or FakeDaemon(), stop, QUICK)
    with DaemonLock(config.socket):
        async with control as server:
            yield server


async def send(folder: Path, octets: bytes) -> list[dict[str, Any]]:
    """What the daemon answers to these octets, until it closes."""
    reader, writer = await asyncio.open_unix_connection(folder / "control.sock", limit=2**24)
    writer.write(octets)
    answer = await reader.read(-1)
    await close(writer)
    return [json.loads(line) for line in answer.splitlines()]


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def ask(folder: Path, verb: Verb, link: str | None = None) -> dict[str, Any]:
    (reply,) = await send(folder, encode_request(Request(verb, link)))
    return reply


def as_user(uid: int, groups: list[int], path: Path) -> Callable[[], Any]:
    """A process of another user, asking for the status; call to let it go and have its answer.

    It is made before there is an event loop, and waits.
    """
    go, said = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(go[0], 1)
            os.setgroups(groups[1:])
            os.setgid(groups[0])
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(encode_request(Request(Verb.STATUS)))
                os.write(said[1], client.makefile("rb").read())
        except OSError as error:
            os.write(said[1], json.dumps(type(error).__name__).encode())
        finally:
            os._exit(0)
    os.close(go[0])
    os.close(said[1])

    def answer() -> Any:
        os.write(go[1], b"!")
        with os.fdopen(said[0], "rb") as pipe:
            told = pipe.read()
        os.close(go[1])
        os.waitpid(pid, 0)
        return json.loads(told)

    return answer


class TestSigningIn:
    def test_a_refusal_is_an_answer(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                answer = await ask(folder, Verb.PORTAL, "wlan9")
                assert answer["error"] == "no usable path over wlan9"

        run(story())

    @as_root
    def test_sockets_of_this_host_itself_are_refused(self, folder: Path) -> None:
        def try_it() -> None:
            with (
                socket.socket() as listener,
                client.sign_in(folder / "control.sock", "wlan0") as way,
            ):
                assert way.terms == {"event": "granted"}
                listener.listen()
                way.open([listener])

        async def story() -> None:
            daemon = FakeDaemon()
            async with serving(folder, daemon) as control:
                with pytest.raises(Refused, match="kept apart"):
                    await asyncio.to_thread(try_it)
                await until(lambda: daemon.roamed == ["wlan0"])
                assert control.counters.malformed == 1

        run(story())

    def test_a_client_that_hands_nothing_over_is_let_go(self, folder: Path) -> None:
        async def story() -> None:
            daemon = FakeDaemon()
            async with serving(folder, daemon):
                await ask(folder, Verb.PORTAL, "wlan0")
                await until(lambda: daemon.roamed == ["wlan0"])

        run(story())


class TestAnswers:
    def test_what_the_daemon_says(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                assert await ask(folder, Verb.PATHS) == {
                    "ok": True,
                    "result": [{"link": "wlan0"}, {"link": "wwan0"}],
                }
                assert (await ask(folder, Verb.FLOWS))["result"] == []

        run(story())

    def test_status_has_the_sockets_own_counters(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                await send(folder, b"garbage\n")
                result = (await ask(folder, Verb.STATUS))["result"]
                assert result["vip"] == ["10.99.0.2"]
                assert result["control"]["malformed"] == 1

        run(story())

    def test_roams_where_it_is_told_to(self, folder: Path) -> None:
        async def story() -> None:
            daemon = FakeDaemon()
            async with serving(folder, daemon):
                assert (await ask(folder, Verb.ROAM, "wwan0"))["result"] == {"asked": "wwan0"}
                assert (await ask(folder, Verb.ROAM))["ok"]
                assert daemon.roamed == ["wwan0", None]
                assert await ask(folder, Verb.ROAM, "wlan9") == {
                    "ok": False,
                    "error": "no usable path over wlan9",
                    "remedy": "choose one of: wlan0, wwan0",
                }

        run(story())

    def test_refusals_and_errors_are_sentences(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                assert (await ask(folder, Verb.SESSIONS))[
                    "error"
                ] == "sessions are the server's"
                assert (await ask(folder, Verb.RELOAD))["error"] == "charon does not answer"

        run(story())

    def test_stops_when_it_is_told_to(self, folder: Path) -> None:
        async def story() -> None:
            stopped: list[bool] = []
            async with serving(folder, stop=lambda: stopped.append(True)):
                assert (await ask(folder, Verb.STOP))["ok"]
            assert stopped == [True]

        run(story())

    def test_stops_as_systemd_stops_it(self, folder: Path) -> None:
        async def story() -> None:
            terminated = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
            control = ControlServer(Control(folder / "control.sock"), FakeDaemon())
            async with control:
                await ask(folder, Verb.STOP)
                await terminated.wait()

        run(story())


class TestWho:
    def test_the_socket_is_closed_to_others(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                found = (folder / "control.sock").stat()
                assert stat.S_IMODE(found.st_mode) == 0o600

        run(story())

    @as_root
    def test_the_socket_is_open_to_the_group_alone(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder, group=GROUP):
                found = (folder / "control.sock").stat()
                assert stat.S_IMODE(found.st_mode) == 0o660
                assert (found.st_uid, found.st_gid) == (os.geteuid(), GID)

        run(story())

    @as_root
    @pytest.mark.parametrize("groups", [[GID], [NOBODY, GID]])
    def test_members_of_the_group_are_answered(self, folder: Path, groups: list[int]) -> None:
        client = as_user(NOBODY, groups, folder / "control.sock")

        async def story() -> None:
            async with serving(folder, group=GROUP) as server:
                assert (await asyncio.to_thread(client))["ok"]
                assert server.counters.refused_peer == 0

        run(story())

    @as_root
    def test_others_cannot_even_connect(self, folder: Path) -> None:
        client = as_user(NOBODY, [NOBODY], folder / "control.sock")

        async def story() -> None:
            async with serving(folder, group=GROUP):
                assert await asyncio.to_thread(client) == "PermissionError"

        run(story())

    @as_root
    @pytest.mark.parametrize("group", [None, GROUP])
    def test_others_who_can_connect_are_not_answered(
        self, folder: Path, group: str | None
    ) -> None:
        """The mode of a file is easily changed; the kernel's word on the peer is not."""
        client = as_user(NOBODY, [NOBODY], folder / "control.sock")

        async def story() -> None:
            async with serving(folder, group=group) as server:
                (folder / "control.sock").chmod(0o666)
                answer = await asyncio.to_thread(client)
                assert not answer["ok"]
                assert answer["error"] == f"user {NOBODY} may not administer"
                assert answer["remedy"].startswith("run it as root")
                assert server.counters.refused_peer == 1
                assert server.counters.answered == 0

        run(story())

    @as_root
    def test_without_the_look_at_the_peer_others_would_be_answered(self, folder: Path) -> None:
        """The test above can fail: it is the check that keeps them out."""
        client = as_user(NOBODY, [NOBODY], folder / "control.sock")

        class Careless(ControlServer):
            def may_administer(self, peer: Peer) -> bool:
                return True

        async def story() -> None:
            async with Careless(Control(folder / "control.sock"), FakeDaemon()):
                (folder / "control.sock").chmod(0o666)
                assert (await asyncio.to_thread(client))["ok"]

        run(story())

    def test_an_unknown_group_is_an_error(self, folder: Path) -> None:
        async def story() -> None:
            with pytest.raises(OrchestratorError, match="groupadd"):
                async with serving(folder, group="no-such-group"):
                    pass

        run(story())


class TestBounds:
    def test_garbage_costs_a_counter(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder) as server:
                for octets in (b"\x00\xff\n", b"{}\n", b'{"v":1,"verb":"status"'):
                    reader, writer = await asyncio.open_unix_connection(folder / "control.sock")
                    writer.write(octets)
                    writer.write_eof()
                    assert not json.loads(await reader.read(-1))["ok"]
                    await close(writer)
                assert server.counters.malformed == 3
                assert (await ask(folder, Verb.STATUS))["ok"]

        run(story())

    def test_an_endless_request_is_cut_off(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder) as server:
                (reply,) = await send(folder, b"x" * 5000)
                assert "more than 4096 octets" in reply["error"]
                assert server.counters.malformed == 1

        run(story())

    def test_a_silent_client_is_not_waited_for(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder) as server:
                (reply,) = await send(folder, b'{"v":1,')
                assert "no request within" in reply["error"]
                assert server.counters.timed_out == 1

        run(story())

    def test_a_client_that_leaves_silently_is_nothing(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder) as server:
                _, writer = await asyncio.open_unix_connection(folder / "control.sock")
                await close(writer)
                assert (await ask(folder, Verb.STATUS))["ok"]
                assert server.counters.malformed == 0

        run(story())

    def test_a_daemon_that_does_not_answer_is_told(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder, Silent()):
                reply = await ask(folder, Verb.PATHS)
                assert "did not answer paths within" in reply["error"]

        run(story())

    def test_a_flood_of_clients_is_turned_away(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder, Silent()) as server:
                stalling = [
                    asyncio.create_task(ask(folder, Verb.PATHS)) for _ in range(QUICK.clients)
                ]
                await until(lambda: len(server._clients) == QUICK.clients)
                reply = await ask(folder, Verb.STATUS)
                assert reply["error"] == "too many clients"
                assert server.counters.refused_busy == 1
                await asyncio.gather(*stalling)
                assert (await ask(folder, Verb.STATUS))["ok"]

        run(story())


class Watcher:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def begin(cls, folder: Path) -> "Watcher":
        watcher = cls(*await asyncio.open_unix_connection(folder / "control.sock"))
        watcher.writer.write(encode_request(Request(Verb.WATCH)))
        return watcher

    async def next(self) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(await self.reader.readline())
        return reply

    async def leave(self) -> None:
        await close(self.writer)


class TestWatching:
    def test_every_event_from_the_first_reply_on(self, folder: Path) -> None:
        async def story() -> None:
            daemon = FakeDaemon()
            async with serving(folder, daemon):
                watcher = await Watcher.begin(folder)
                assert (await watcher.next())["result"] == {"event": "watching"}
                for event in ("detached", "moving", "attached"):
                    daemon.tell(event)
                for event in ("detached", "moving", "attached"):
                    told = (await watcher.next())["result"]
                    assert told == {"event": event, "vip": "10.99.0.2"}
                await watcher.leave()

        run(story())

    def test_a_watcher_that_leaves_is_forgotten(self, folder: Path) -> None:
        async def story() -> None:
            daemon = FakeDaemon()
            async with serving(folder, daemon) as server:
                watcher = await Watcher.begin(folder)
                await watcher.next()
                await watcher.leave()
                await until(lambda: not server._clients)
                assert not daemon.watching
                assert server.counters.slow_watchers == 0

        run(story())

    def test_a_slow_watcher_is_told_and_dropped(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder, Chatterbox()) as server:
                watcher = await Watcher.begin(folder)
                await until(lambda: server.counters.slow_watchers)
                told = (await watcher.reader.read(-1)).splitlines()
                assert json.loads(told[-1])["error"].startswith("this watcher is too slow")
                await watcher.leave()
                assert (await ask(folder, Verb.STATUS))["ok"]

        run(story())

    def test_a_watcher_that_never_reads_again_costs_nothing_for_long(
        self, folder: Path
    ) -> None:
        async def story() -> None:
            async with serving(folder, Chatterbox()) as server:
                watcher = await Watcher.begin(folder)
                await until(lambda: server.counters.slow_watchers and not server._clients)
                await watcher.leave()

        run(story())

    def test_a_watcher_for_whom_the_daemon_dropped_events_is_told(self, folder: Path) -> None:
        async def story() -> None:
            daemon = FakeDaemon()
            async with serving(folder, daemon):
                watcher = await Watcher.begin(folder)
                await watcher.next()
                for queue in daemon.watching:
                    queue.put_nowait(None)
                assert "too slow" in (await watcher.next())["error"]
                await watcher.leave()

        run(story())

    def test_watchers_leave_room_for_questions(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                watchers = [await Watcher.begin(folder) for _ in range(QUICK.watchers)]
                for watcher in watchers:
                    await watcher.next()
                assert (await ask(folder, Verb.WATCH))["error"] == "too many watchers"
                assert (await ask(folder, Verb.STATUS))["ok"]
                for watcher in watchers:
                    await watcher.leave()

        run(story())

    def test_the_end_of_the_daemon_is_the_end_of_the_watch(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                watcher = await Watcher.begin(folder)
                await watcher.next()
            assert await watcher.reader.read(-1) == b""
            await watcher.leave()

        run(story())


class TestOneDaemon:
    def test_a_second_one_is_refused_and_the_first_goes_on(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                with pytest.raises(AlreadyRunning, match=f"process {os.getpid()} has"):
                    async with serving(folder):
                        pass
                assert (await ask(folder, Verb.STATUS))["ok"]

        run(story())

    def test_a_socket_left_by_a_dead_daemon_is_replaced(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / "control.sock"))

        async def story() -> None:
            async with serving(folder):
                assert (await ask(folder, Verb.STATUS))["ok"]

        run(story())

    def test_nothing_but_the_lock_file_stays(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                pass

        for _ in range(2):
            run(story())
            assert [path.name for path in folder.iterdir()] == ["control.sock.lock"]

    def test_a_place_where_no_socket_can_be_is_an_error(self, folder: Path) -> None:
        (folder / "control.sock").mkdir()

        async def story() -> None:
            with pytest.raises(OrchestratorError, match="cannot serve"):
                async with serving(folder):
                    pass
            (folder / "control.sock").rmdir()
            async with serving(folder):
                pass  # the lock was given back

        run(story())
