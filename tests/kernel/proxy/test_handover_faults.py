"""Whoever dies, errs or lies in the middle of a handover, and what it costs."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from orchestrator.adapters.fdpass import Channel, ChannelEnded, close_all
from orchestrator.core.flows import Kept, ProxyCounters
from orchestrator.core.quantities import Seconds
from orchestrator.core.relay_events import Outcome
from orchestrator.services import proxy_handover
from orchestrator.wire.proxy_control import (
    Done,
    Failed,
    Greeting,
    HandOver,
    Hello,
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
from tests.kernel.proxy.handing import Replaceable, all_go_on, bulk, successor
from tests.kernel.proxy.lan import (
    PATIENCE,
    PEER,
    SETTINGS,
    VIP,
    alive,
    connect,
    pair,
    receive,
    serve,
    until,
    worker_command,
)

STEP = Seconds(5.0)
WHOLE = Seconds(30.0)


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


def test_a_reset_that_comes_during_the_handover_is_passed_on(own_proxied: Proxied) -> None:
    with serve(own_proxied.lan.peer, PEER[4]) as listener:
        made = pair(own_proxied.lan.endpoint, listener, VIP[4])
    with Impostor(own_proxied.path) as impostor:
        impostor.until(Opening)
        made.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.far.close()
    with successor(own_proxied), pytest.raises(ConnectionResetError):
        made.near.recv(1)
    made.near.close()


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


NOTHING = Kept(0, 0, 0, None, ())
COUNTERS = ProxyCounters(0, 0, 0, 0, 0, (), (), (), 0, NOTHING, NOTHING, 0, 0, None)


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
