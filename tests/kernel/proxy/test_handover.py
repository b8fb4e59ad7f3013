"""A worker is replaced while connections run through it; and whoever dies meanwhile."""

import contextlib
import hashlib
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from orchestrator.adapters.fdpass import Channel, ChannelEnded, close_all
from orchestrator.core.flows import ProxyCounters
from orchestrator.core.quantities import Seconds
from orchestrator.core.relay_events import Outcome, Phase
from orchestrator.services import proxy_handover
from orchestrator.services.proxy_client import ProxyClient
from orchestrator.wire.proxy_control import (
    Done,
    Failed,
    Greeting,
    HandOver,
    Hello,
    Inheritance,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from orchestrator.wire.proxy_handover import (
    FORMAT,
    MOST_OCTETS,
    Batch,
    Commit,
    Declined,
    Message,
    Opening,
    Ready,
    Received,
    Taken,
    decode,
    encode,
)
from tests.kernel.proxy.conftest import Proxied
from tests.kernel.proxy.lan import (
    PATIENCE,
    PEER,
    SETTINGS,
    VIP,
    alive,
    connect,
    is_reset,
    limited,
    pair,
    receive,
    serve,
    transfer,
    until,
    worker_command,
)

MIB = 1 << 20
FLOWS = 500
STANDSTILL = 2.0
"""Seconds; some 0.1 on a machine that has nothing else to do."""
STEP = Seconds(5.0)
WHOLE = Seconds(30.0)


# ---- a new worker


@contextlib.contextmanager
def successor(proxied: Proxied, path: Path | None = None) -> Iterator["subprocess.Popen[str]"]:
    """A new worker takes over from the one that is there; it has when it says ready, which it
    does before the block begins, or it ended."""
    ready, its = os.pipe()
    command = [*worker_command(path or proxied.path), "--take-over", "--ready-fd", str(its)]
    with proxied.lan.server.entered():
        process = subprocess.Popen(command, pass_fds=(its,), stderr=subprocess.PIPE, text=True)
    os.close(its)
    try:
        assert os.read(ready, 16) in (b"ready\n", b"")
        yield process
    finally:
        os.close(ready)
        process.terminate()
        process.communicate(timeout=PATIENCE)


@dataclass
class Replaceable:
    """A worker that is replaced now and then."""

    proxied: Proxied
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def replace(self) -> Inheritance:
        process = self.stack.enter_context(successor(self.proxied))
        greeting = self.greeting()
        assert greeting.pid == process.pid
        assert greeting.inheritance is not None
        return greeting.inheritance

    def greeting(self) -> Greeting:
        async def greet(client: ProxyClient) -> Greeting:
            return client.greeting

        return self.proxied.ask(greet)


@pytest.fixture
def replaceable(own_proxied: Proxied) -> Iterator[Replaceable]:
    worker = Replaceable(own_proxied)
    with worker.stack:
        yield worker


class Stream:
    """Sends one way until it is told to stop; the end must have all that was sent, in order."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self._ends = (sender, receiver)
        self._stopped = threading.Event()
        self._sent, self._received = hashlib.sha256(), hashlib.sha256()
        self.sent = 0
        self.received = 0
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def ends_well(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        assert self.received == self.sent
        assert self._received.digest() == self._sent.digest()

    def _send(self) -> None:
        sender, _ = self._ends
        random = os.urandom(1 << 16)
        while not self._stopped.is_set():
            chunk = random[: 1 + self.sent % len(random)]
            sender.sendall(chunk)
            self._sent.update(chunk)
            self.sent += len(chunk)
        sender.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        _, receiver = self._ends
        while part := receiver.recv(1 << 16):
            self._received.update(part)
            self.received += len(part)


@contextlib.contextmanager
def bulk(proxied: Proxied, count: int = 2) -> Iterator[list[Stream]]:
    """Connections in the middle of bulk transfers both ways, which must end well."""
    with serve(proxied.lan.peer, PEER[4]) as listener:
        pairs = [pair(proxied.lan.endpoint, listener, VIP[4]) for _ in range(count)]
    streams = [
        Stream(*ends) for one in pairs for ends in ((one.near, one.far), (one.far, one.near))
    ]
    try:
        yield streams
    finally:
        for stream in streams:
            stream.ends_well()
        for one in pairs:
            one.close()


def all_go_on(streams: list[Stream]) -> None:
    before = [stream.received for stream in streams]
    until(
        lambda: all(
            stream.received > was + MIB for stream, was in zip(streams, before, strict=True)
        )
    )


# ---- what goes over


def test_bulk_both_ways_goes_on_in_the_next_worker_and_the_next(
    replaceable: Replaceable,
) -> None:
    proxied = replaceable.proxied
    with bulk(proxied) as streams:
        all_go_on(streams)
        before = proxied.flows()
        for _ in range(4):
            predecessor = replaceable.greeting().pid
            inheritance = replaceable.replace()
            assert inheritance.predecessor == predecessor
            assert (inheritance.flows, inheritance.lost) == (2, 0)
            all_go_on(streams)
        after = proxied.flows()
        assert [(f.vip, f.peer, f.direction, f.since) for f in after] == [
            (f.vip, f.peer, f.direction, f.since) for f in before
        ]
    until(lambda: proxied.counters().open == 0)
    counters = proxied.counters()
    assert counters.accepted == 2
    assert counters.to_peer + counters.to_endpoint == sum(stream.sent for stream in streams)
    assert proxied.tally()[Outcome.FINISHED] == 2


def test_hundreds_of_flows_go_over_with_what_they_have_queued(
    replaceable: Replaceable,
) -> None:
    proxied = replaceable.proxied
    proxied.configure(limited(octets_per_flow=128 * 1024))
    with contextlib.ExitStack() as stack:
        with serve(proxied.lan.peer, PEER[4]) as listener:
            made = [pair(proxied.lan.endpoint, listener, VIP[4]) for _ in range(FLOWS)]
        for one in made:
            stack.callback(one.close)
        sent = []
        for number, one in enumerate(made):
            one.near.settimeout(0.0)
            octets = hashlib.sha256(str(number).encode()).digest() * 20_000
            sent.append(octets[: one.near.send(octets)])  # nobody reads it yet
        inheritance = replaceable.replace()
        assert (inheritance.flows, inheritance.lost) == (FLOWS, 0)
        assert inheritance.standstill < STANDSTILL
        for number, (one, octets) in enumerate(zip(made, sent, strict=True)):
            assert receive(one.far, len(octets)) == octets, number
            one.far.sendall(b"back")
            one.near.settimeout(PATIENCE)
            assert receive(one.near, 4) == b"back"
    assert len(proxied.flows()) <= FLOWS


def test_a_half_closed_flow_goes_on(replaceable: Replaceable) -> None:
    proxied = replaceable.proxied
    with serve(proxied.lan.peer, PEER[4]) as listener:
        made = pair(proxied.lan.endpoint, listener, VIP[4])
    made.near.sendall(b"request")
    made.near.shutdown(socket.SHUT_WR)
    assert receive(made.far, 100) == b"request"
    assert replaceable.replace().flows == 1
    assert proxied.flows()[0].state is Phase.HALF_CLOSED
    transfer(made.far, made.near, 4 * MIB)
    made.far.close()
    assert made.near.recv(1) == b""
    made.near.close()
    until(lambda: proxied.counters().open == 0)
    assert proxied.tally()[Outcome.FINISHED] == 1


def test_a_dial_goes_on_with_its_deadline(replaceable: Replaceable) -> None:
    proxied = replaceable.proxied
    with serve(proxied.lan.endpoint, VIP[4]) as listener:
        proxied.lan.detach()
        near = connect(proxied.lan.peer, listener.getsockname())
        near.sendall(b"are you there")
        until(lambda: [flow.state for flow in proxied.flows()] == [Phase.DIALING])
        assert replaceable.replace().flows == 1
        assert proxied.flows()[0].state is Phase.DIALING
        proxied.lan.attach()
        far, _ = listener.accept()
        with far, near:
            assert receive(far, 13) == b"are you there"


def test_a_dial_is_given_up_when_it_would_have_been(replaceable: Replaceable) -> None:
    proxied = replaceable.proxied
    proxied.configure(limited(dial_vip_seconds=Seconds(2.0)))
    proxied.lan.detach()
    with connect(proxied.lan.peer, (VIP[4], 9)) as near:
        began = time.monotonic()
        assert replaceable.replace().flows == 1
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        assert time.monotonic() - began < 4.0
    assert proxied.tally()[Outcome.DIAL_FAILED] == 1


def test_what_ended_while_the_endpoint_is_away_waits_in_the_next_worker(
    replaceable: Replaceable,
) -> None:
    """One flow is closing, the other's reset waits behind bytes."""
    proxied = replaceable.proxied
    with serve(proxied.lan.peer, PEER[4]) as listener:
        closing, resetting = (pair(proxied.lan.endpoint, listener, VIP[4]) for _ in range(2))
    closing.near.shutdown(socket.SHUT_WR)
    assert closing.far.recv(1) == b""
    proxied.lan.detach()
    for one in (closing, resetting):
        one.far.sendall(b"y" * (MIB // 8))
    until(lambda: all(flow.to_endpoint == MIB // 8 for flow in proxied.flows()))
    resetting.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    closing.far.close()
    resetting.far.close()
    states = {Phase.CLOSING, Phase.RESETTING}
    until(lambda: {flow.state for flow in proxied.flows()} == states)
    assert replaceable.replace().flows == 2
    assert {flow.state for flow in proxied.flows()} == states
    proxied.lan.attach()
    for one in (closing, resetting):
        assert receive(one.near, MIB // 8) == b"y" * (MIB // 8)
    assert closing.near.recv(1) == b""
    with pytest.raises(ConnectionResetError):
        resetting.near.recv(1)
    until(lambda: proxied.counters().open == 0)
    tally = proxied.tally()
    assert (tally[Outcome.FINISHED], tally[Outcome.RESET_BY_PEER]) == (1, 1)
    closing.near.close()
    resetting.near.close()


def test_a_reset_that_comes_during_the_handover_is_passed_on(replaceable: Replaceable) -> None:
    proxied = replaceable.proxied
    with serve(proxied.lan.peer, PEER[4]) as listener:
        made = pair(proxied.lan.endpoint, listener, VIP[4])
    with Impostor(proxied.path) as impostor:
        impostor.until(Opening)
        made.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.far.close()
    replaceable.replace()
    with pytest.raises(ConnectionResetError):
        made.near.recv(1)
    made.near.close()


def test_the_next_worker_takes_new_connections_with_the_same_settings(
    replaceable: Replaceable,
) -> None:
    proxied = replaceable.proxied
    proxied.configure(limited(flows_per_vip=1))
    with serve(proxied.lan.peer, PEER[4]) as listener:
        made = pair(proxied.lan.endpoint, listener, VIP[4])
        replaceable.replace()
        assert is_reset(proxied.lan.endpoint, listener.getsockname(), VIP[4])
        made.close()
        until(lambda: proxied.counters().open == 0)
        made = pair(proxied.lan.endpoint, listener, VIP[4])
        transfer(made.near, made.far, MIB)
        made.close()


def test_the_last_worker_leaves_no_file_behind(replaceable: Replaceable) -> None:
    replaceable.replace()
    replaceable.stack.close()
    assert list(replaceable.proxied.path.parent.iterdir()) == []


def test_a_second_worker_is_refused_after_a_handover_too(replaceable: Replaceable) -> None:
    replaceable.replace()
    second = subprocess.run(
        worker_command(replaceable.proxied.path), capture_output=True, text=True, check=False
    )
    assert second.returncode == 3


# ---- the new worker dies


class Impostor:
    """Asks for everything as a new worker does, and goes as far as the test wants."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(path))
        self.channel = Channel(self.sock, MOST_OCTETS, Seconds(10.0), WHOLE)
        self.descriptors: list[int] = []
        self.flows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
        close_all(self.descriptors)

    def ask(self, request: Request) -> Reply:
        self.sock.sendall(encode_request(request))
        return decode_reply(self.sock.recv(1 << 16))

    def say(self, message: Message) -> None:
        self.channel.send(encode(message))

    def hear(self) -> Message:
        octets, descriptors = self.channel.receive()
        self.descriptors += descriptors
        message = decode(octets)
        if isinstance(message, Batch):
            self.flows += len(message.flows)
        return message

    def until(self, last: type[Message], batches: int = 1) -> None:
        """Plays along until it has heard this, and answers that no more."""
        assert isinstance(self.ask(HandOver()), Done)
        self.say(Ready())
        while True:
            message = self.hear()
            if isinstance(message, last):
                batches -= isinstance(message, Batch)
                if last is not Batch or not batches:
                    return
            self.say(Received(self.flows))


def gone_before_asking(impostor: Impostor) -> None:
    assert isinstance(impostor.ask(Hello()), Greeting)


def gone_before_listening(impostor: Impostor) -> None:
    assert isinstance(impostor.ask(HandOver()), Done)


def gone_at_the_opening(impostor: Impostor) -> None:
    impostor.until(Opening)


def gone_at_the_first_batch(impostor: Impostor) -> None:
    impostor.until(Batch)


def gone_at_the_last_batch(impostor: Impostor) -> None:
    impostor.until(Batch, 2)


def gone_before_it_took(impostor: Impostor) -> None:
    impostor.until(Commit)


def declines(impostor: Impostor) -> None:
    impostor.until(Batch)
    impostor.say(Declined("I do not like it"))


def makes_no_sense(impostor: Impostor) -> None:
    impostor.until(Opening)
    impostor.channel.send(os.urandom(1000))


def counts_wrongly(impostor: Impostor) -> None:
    impostor.until(Batch)
    impostor.say(Received(impostor.flows + 1))


def speaks_without_end(impostor: Impostor) -> None:
    impostor.until(Opening)
    impostor.sock.sendall(struct.pack("!I", MOST_OCTETS + 1))


def takes_too_early(impostor: Impostor) -> None:
    impostor.until(Opening)
    impostor.say(Taken())


ENDS = (
    gone_before_asking,
    gone_before_listening,
    gone_at_the_opening,
    gone_at_the_first_batch,
    gone_at_the_last_batch,
    gone_before_it_took,
    declines,
    makes_no_sense,
    counts_wrongly,
    speaks_without_end,
    takes_too_early,
)


def test_a_new_worker_that_dies_or_errs_before_it_took_anything_costs_nothing(
    own_proxied: Proxied,
) -> None:
    with contextlib.ExitStack() as idle:
        with serve(own_proxied.lan.peer, PEER[4]) as listener:
            for _ in range(120):  # more than a batch
                idle.callback(pair(own_proxied.lan.endpoint, listener, VIP[4]).close)
        with bulk(own_proxied) as streams:
            all_go_on(streams)
            for end in ENDS:
                with Impostor(own_proxied.path) as impostor:
                    end(impostor)
                assert len(own_proxied.flows()) == 122, end.__name__
                all_go_on(streams)
    until(lambda: own_proxied.counters().open == 0)
    assert own_proxied.tally() == {Outcome.FINISHED: 122} | dict.fromkeys(
        (word for word in own_proxied.tally() if word != Outcome.FINISHED), 0
    )


def test_a_new_worker_that_hangs_is_waited_for_and_cannot_take_anything_then(
    own_proxied: Proxied,
) -> None:
    with bulk(own_proxied) as streams, Impostor(own_proxied.path) as impostor:
        impostor.until(Commit)
        threading.Event().wait(proxy_handover.STEP_SECONDS + 1.0)
        with pytest.raises(ChannelEnded):
            impostor.say(Taken())
        all_go_on(streams)


def test_who_connects_during_the_handover_waits_and_is_served(own_proxied: Proxied) -> None:
    with (
        serve(own_proxied.lan.peer, PEER[4]) as listener,
        Impostor(own_proxied.path) as impostor,
    ):
        impostor.until(Opening)
        near = connect(own_proxied.lan.endpoint, listener.getsockname(), VIP[4])
        near.sendall(b"hello")
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.accept()
        impostor.sock.close()
        listener.settimeout(PATIENCE)
        far, _ = listener.accept()
        with far, near:
            assert receive(far, 5) == b"hello"


def test_only_root_is_given_anything(own_proxied: Proxied) -> None:
    own_proxied.path.chmod(0o666)  # the first lock, open
    for folder in own_proxied.path.parents:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    os.seteuid(65534)
    try:
        impostor = Impostor(own_proxied.path)
    finally:
        os.seteuid(0)
    with impostor:
        assert impostor.ask(HandOver()) == Failed("only root may have what this worker has")
    own_proxied.path.chmod(0o600)


# ---- the old worker dies


class Between:
    """Stands between an old worker and a new one, passes on what they say, and after so many
    messages of the old one kills it."""

    def __init__(self, proxied: Proxied, messages: int) -> None:
        self.path = proxied.path.with_name("between.sock")
        self._proxied = proxied
        self._messages = messages
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        try:
            self._listener.settimeout(PATIENCE)
            new, _ = self._listener.accept()
            old = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with new, old:
                old.connect(str(self._proxied.path))
                for _ in ("hello", "hand-over"):
                    old.sendall(new.recv(1 << 16))
                    new.sendall(old.recv(1 << 16))
                self._pass_on(old, new)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            self.failure = error

    def _pass_on(self, old: socket.socket, new: socket.socket) -> None:
        theirs, its = (Channel(each, MOST_OCTETS, STEP, WHOLE) for each in (old, new))
        for _ in range(self._messages):
            octets, _none = its.receive()
            theirs.send(octets)
            octets, descriptors = theirs.receive()
            its.send(octets, descriptors)
            close_all(descriptors)
        os.kill(self._proxied.pid, signal.SIGKILL)
        until(lambda: not alive(self._proxied.pid))


@pytest.mark.parametrize(
    ("messages", "flows"),
    [(1, 0), (2, 100), (3, 200), (4, 250), (5, 250)],
    ids=["opening", "one batch", "two", "all", "commit"],
)
def test_an_old_worker_that_dies_costs_what_it_had_not_handed_over(
    own_proxied: Proxied, messages: int, flows: int
) -> None:
    with contextlib.ExitStack() as stack:
        with serve(own_proxied.lan.peer, PEER[4]) as listener:
            made = [pair(own_proxied.lan.endpoint, listener, VIP[4]) for _ in range(250)]
        for number, one in enumerate(made):
            stack.callback(one.close)
            one.near.sendall(f"{number:06}".encode())
        until(lambda: sum(flow.to_peer for flow in own_proxied.flows()) == 6 * 250)
        between = stack.enter_context(Between(own_proxied, messages))
        process = stack.enter_context(successor(own_proxied, between.path))
        between._thread.join()
        assert between.failure is None
        replaced = Replaceable(own_proxied)
        greeting = replaced.greeting()
        assert greeting.pid == process.pid
        assert greeting.inheritance is not None
        assert (greeting.inheritance.flows, greeting.inheritance.lost) == (flows, 250 - flows)
        for number, one in enumerate(made[:flows]):
            one.far.sendall(b"back")
            assert receive(one.near, 4) == b"back"
            assert receive(one.far, 6) == f"{number:06}".encode()
        for one in made[flows:]:
            with contextlib.suppress(ConnectionResetError):
                assert one.near.recv(1) == b"", "it must have ended"


# ---- a new worker hears nonsense


COUNTERS = ProxyCounters(0, 0, 0, 0, 0, (), (), (), 0)


def opening(flows: int) -> bytes:
    return encode(Opening(flows, SETTINGS, COUNTERS, ()))


def with_another_format() -> bytes:
    return opening(0).replace(b'"format":%d' % FORMAT, b'"format":9')


Nonsense = Sequence[tuple[bytes, int]]
"""Messages, and how many descriptors go with each."""


def hear_nonsense(path: Path, nonsense: Nonsense) -> list[Message]:
    """Answers once as an old worker does, and says that; what the new one answers."""
    heard: list[Message] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE)
        sock, _ = listener.accept()
    with sock, socket.socket() as some:
        assert isinstance(decode_request(sock.recv(1 << 16)), Hello)
        sock.sendall(encode_reply(Greeting(os.getpid(), "1", None)))
        assert isinstance(decode_request(sock.recv(1 << 16)), HandOver)
        sock.sendall(encode_reply(Done(1)))
        channel = Channel(sock, MOST_OCTETS, STEP, WHOLE)
        heard.append(decode(channel.receive()[0]))
        for octets, descriptors in nonsense:
            channel.send(octets, [some.fileno()] * descriptors)
            heard.append(decode(channel.receive()[0]))
    return heard


@pytest.mark.parametrize(
    ("nonsense", "complaint"),
    [
        ([(b"rubbish", 0)], "a head of"),
        ([(with_another_format(), 2)], "format 9 is not known here"),
        ([(opening(0), 1)], "Opening makes no sense"),
        ([(opening(0), 3)], "Opening makes no sense"),
        ([(encode(Commit()), 0)], "Commit makes no sense"),
        ([(opening(1), 2), (encode(Commit()), 0)], "Commit makes no sense"),
        ([(opening(1), 2), (encode(Batch(())), 2)], "Batch makes no sense"),
        ([(opening(1), 2), (opening(1), 2)], "Opening makes no sense"),
    ],
)
def test_a_new_worker_declines_what_makes_no_sense(
    tmp_path: Path, nonsense: Nonsense, complaint: str
) -> None:
    path = tmp_path / "proxy.sock"
    with ThreadPoolExecutor(1) as thread:
        heard = thread.submit(hear_nonsense, path, nonsense)
        until(path.exists)
        done = subprocess.run(
            [*worker_command(path), "--take-over"], capture_output=True, text=True, check=False
        )
        last = heard.result()[-1]
    assert isinstance(last, Declined)
    assert complaint in last.problem
    assert done.returncode == 1
    assert "nothing was taken over" in done.stderr
    assert complaint in done.stderr


def test_a_new_worker_takes_nothing_from_one_that_gives_up_and_lives(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    nonsense = [(opening(1), 2), (encode(Batch(())), 0)]
    with ThreadPoolExecutor(1) as thread:
        heard = thread.submit(hear_nonsense, path, nonsense)
        until(path.exists)
        done = subprocess.run(
            [*worker_command(path), "--take-over"], capture_output=True, text=True, check=False
        )
        assert heard.result() == [Ready(), Received(0), Received(0)]
    assert done.returncode == 1
    assert "the other process is gone" in done.stderr


def test_without_a_worker_there_is_nothing_to_take_over(tmp_path: Path) -> None:
    done = subprocess.run(
        [*worker_command(tmp_path / "proxy.sock"), "--take-over"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing was taken over" in done.stderr
