"""Questions over one link and no other way, to resolvers that answer, do not, or lie."""

import asyncio
import contextlib
import json
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import dns.message
import dns.rcode
import pytest
from dbus_fast import DBusError, PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusInt32, DBusObjectPath, DBusSignature
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property

from orchestrator.adapters.dns import NoAnswer, ask
from orchestrator.adapters.outside import opened
from orchestrator.adapters.resolvers import resolvers_of
from orchestrator.core.kernel import MARK_UNDERLAY
from orchestrator.core.lookups import Answer
from orchestrator.core.quantities import IPAddress, LinkIndex, Seconds
from orchestrator.lab.dns import LIVES, READY, Zone, answer
from tests.kernel.netns import Namespace
from tests.logind import BUS_CONFIG

WIFI = 3
WIFI_PATH = "/org/freedesktop/resolve1/link/_33"
NAME = "vpn.example.org"
ZONE: Zone = {NAME: ["203.0.113.10", "2001:db8:113::10"]}
OURS, THEIRS = ip_address("192.0.2.2"), ip_address("192.0.2.1")
OURS6, THEIRS6 = ip_address("2001:db8::2"), ip_address("2001:db8::1")
SECOND = ip_address("192.0.2.3")
ELSEWHERE = ip_address("198.51.100.9")
ELSEWHERE_ZONE: Zone = {NAME: [str(ELSEWHERE)], "other.example.org": [str(ELSEWHERE)]}
SERVER = Answer((ip_address("203.0.113.10"),), Seconds(LIVES))
SHORT = Seconds(0.5)
LONG = Seconds(10.0)


@pytest.fixture
def network(make_namespace: Callable[[], Namespace], tmp_path: Path) -> Iterator[Namespace]:
    """The test is on wlan0 of one host; the other, on the link, has a resolver."""
    here, there = make_namespace(), make_namespace()
    here.ip(
        f"link add wlan0 type veth peer name lan0 netns {there.path}",
        "link set wlan0 up",
        f"addr add {OURS}/24 dev wlan0",
        f"addr add {OURS6}/64 dev wlan0",
        f"route add default via {THEIRS}",
    )
    there.ip(
        "link set lan0 up",
        f"addr add {THEIRS}/24 dev lan0",
        f"addr add {SECOND}/24 dev lan0",
        f"addr add {THEIRS6}/64 dev lan0",
    )
    zone = tmp_path / "zone"
    zone.write_text(json.dumps(ZONE))
    command = [sys.executable, "-u", "-m", "orchestrator.lab.dns", str(zone), "-"]
    with there.entered():
        resolver = subprocess.Popen(
            [*command, str(THEIRS), str(THEIRS6)], stdout=subprocess.PIPE
        )
    assert resolver.stdout is not None
    with resolver:
        assert resolver.stdout.readline() == READY
        with here.entered():
            yield there
        resolver.kill()


def asked(
    *resolvers: IPAddress,
    name: str = NAME,
    version: int = 4,
    link: str = "wlan0",
    pops: tuple[IPAddress, ...] = (OURS, OURS6),
    limit: Seconds = LONG,
) -> Answer:
    open_at = partial(opened, socket.SOCK_DGRAM, link)
    return asyncio.run(ask(name, version, resolvers, open_at, pops, limit))


@contextlib.contextmanager
def liar(
    network: Namespace,
    tell: Callable[[bytes], list[bytes]],
    ports: "queue.Queue[int] | None" = None,
) -> Iterator[None]:
    """At SECOND, a resolver that tells this when it is asked; `ports` gets whence."""
    with network.entered():
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((str(SECOND), 53))

    def lie() -> None:
        packet, source = opened.recvfrom(4096)
        if ports is not None:
            ports.put(source[1])
        for told in tell(packet):
            opened.sendto(told, source)

    thread = threading.Thread(target=lie, name="liar", daemon=True)
    thread.start()
    yield
    thread.join(LONG)
    opened.close()


@pytest.mark.parametrize("resolver", [THEIRS, THEIRS6])
def test_either_family_is_asked_for_either(network: Namespace, resolver: IPAddress) -> None:
    assert asked(resolver) == SERVER
    assert asked(resolver, version=6).addresses == (ip_address("2001:db8:113::10"),)


def test_there_is_no_such_name(network: Namespace) -> None:
    assert asked(THEIRS, name="gone.example.org").addresses == ()


def test_who_answers_counts_and_who_does_not_costs_nothing(network: Namespace) -> None:
    assert asked(SECOND, ELSEWHERE, THEIRS) == SERVER


def test_nobody_answers(network: Namespace) -> None:
    for resolvers in ((SECOND,), ()):
        with pytest.raises(NoAnswer, match="no answer from"):
            asked(*resolvers, limit=SHORT)


def other_number(query: bytes) -> bytes:
    return bytes([query[0] ^ 0xFF]) + answer(query, ELSEWHERE_ZONE, None)[1:]


def other_question(query: bytes) -> bytes:
    other = dns.message.make_query("other.example.org", "A", id=int.from_bytes(query[:2]))
    return answer(other.to_wire(), ELSEWHERE_ZONE, None)


def refusal(query: bytes) -> bytes:
    response = dns.message.make_response(dns.message.from_wire(query))
    response.set_rcode(dns.rcode.REFUSED)
    return response.to_wire()


def test_what_is_no_answer_to_the_question_is_none(network: Namespace) -> None:
    def lies(query: bytes) -> list[bytes]:
        return [b"", b"nonsense", query, query[:5], other_number(query), other_question(query)]

    with liar(network, lies), pytest.raises(NoAnswer):
        asked(SECOND, limit=SHORT)
    with liar(network, lambda query: [*lies(query), answer(query, ZONE, None)]):
        assert asked(SECOND) == SERVER


def test_a_resolver_that_was_not_asked_is_not_heard(network: Namespace) -> None:
    """Whoever knows of the question, but does not have the resolver's address."""
    with network.entered():
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind((str(THEIRS), 5353))

    def from_elsewhere(query: bytes) -> list[bytes]:
        other.sendto(answer(query, ELSEWHERE_ZONE, None), (str(OURS), heard.get()))
        return []

    heard: queue.Queue[int] = queue.Queue()
    with (
        contextlib.closing(other),
        liar(network, from_elsewhere, heard),
        pytest.raises(NoAnswer),
    ):
        asked(SECOND, limit=SHORT)


def test_who_refuses_need_not_be_waited_for(network: Namespace) -> None:
    began = time.monotonic()
    with liar(network, lambda query: [refusal(query)]), pytest.raises(NoAnswer):
        asked(SECOND)
    assert time.monotonic() - began < LONG
    with liar(network, lambda query: [refusal(query)]):
        assert asked(SECOND, THEIRS) == SERVER


def test_a_name_does_not_lead_to_ourselves_or_everybody(network: Namespace) -> None:
    nowhere: Zone = {NAME: ["127.0.0.1", "224.0.0.1", "0.0.0.0", "203.0.113.10"]}
    with liar(network, lambda query: [answer(query, nowhere, None)]):
        assert asked(SECOND) == SERVER


@pytest.mark.parametrize(
    ("link", "pop"), [("wlan0", ELSEWHERE), ("wlan7", OURS)], ids=["address", "link"]
)
def test_our_address_or_link_is_gone(network: Namespace, link: str, pop: IPAddress) -> None:
    with pytest.raises(NoAnswer):
        asked(THEIRS, link=link, pops=(pop,))


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".org"])
def test_a_name_that_is_none_has_no_answer(network: Namespace, name: str) -> None:
    with pytest.raises(NoAnswer):
        asked(THEIRS, name=name)


def test_the_question_is_bound_to_its_link_and_marked(network: Namespace) -> None:
    """Whatever routes say, and with the mark that keeps it out of the tunnel."""
    here = Namespace.current()
    here.ip(
        "link add tunnel type veth peer name nowhere",
        "link set tunnel up",
        "link set nowhere up",
        "route add 192.0.2.0/25 dev tunnel",
    )
    assert asked(THEIRS, limit=LONG) == SERVER
    here.ip(f"rule add not fwmark {MARK_UNDERLAY:#x}/0xff000000 table 77 priority 10")
    here.ip("route add unreachable default table 77")
    assert asked(THEIRS, limit=LONG) == SERVER
    # The control: what has no mark does not get out.
    unmarked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.closing(unmarked), pytest.raises(OSError, match="No route to host"):
        unmarked.sendto(b"", (str(THEIRS), 53))


def test_lists_of_resolvers(network_namespace: Namespace, tmp_path: Path) -> None:
    stub, real, last = tmp_path / "stub", tmp_path / "real", tmp_path / "last"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    real.write_text(
        "# by somebody\nsearch example.org\nnameserver 192.0.2.1\nnameserver nonsense\n"
        "nameserver fe80::1%wlan0\nnameserver 192.0.2.1\n"
    )
    last.write_text("nameserver 198.51.100.9\n")

    def found(name: str, *files: Path) -> list[str]:
        link = LinkIndex(3)
        return [str(each) for each in asyncio.run(resolvers_of(link, name, files))]

    assert found("wlan0", stub, tmp_path / "missing", real, last) == [
        "192.0.2.1",
        "fe80::1%wlan0",
    ]
    assert found("wwan0", real) == ["192.0.2.1"]
    assert found("wwan0", stub) == []


class Manager(ServiceInterface):
    def __init__(self) -> None:
        super().__init__("org.freedesktop.resolve1.Manager")

    @dbus_method()
    def GetLink(self, number: DBusInt32) -> DBusObjectPath:  # noqa: N802 - D-Bus's name
        if number != WIFI:
            raise DBusError("org.freedesktop.resolve1.NoSuchLink", "no such link")
        return WIFI_PATH


class Link(ServiceInterface):
    def __init__(self) -> None:
        super().__init__("org.freedesktop.resolve1.Link")

    @dbus_property(access=PropertyAccess.READ)
    def DNS(self) -> Annotated[list[list[int | bytes]], DBusSignature("a(iay)")]:  # noqa: N802
        return [[2, THEIRS.packed], [10, THEIRS6.packed], [2, bytes([127, 0, 0, 53])]]


def test_resolved_knows_those_of_each_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is not installed")
    at, config = tmp_path / "bus", tmp_path / "bus.conf"
    config.write_text(BUS_CONFIG.format(socket=at))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={at}")
    others = tmp_path / "resolv.conf"
    others.write_text(f"nameserver {ELSEWHERE}\n")

    async def work() -> list[tuple[IPAddress, ...]]:
        found = [await resolvers_of(LinkIndex(WIFI), "wlan0", (others,))]
        bus = await MessageBus(bus_address=f"unix:path={at}").connect()
        bus.export("/org/freedesktop/resolve1", Manager())
        bus.export(WIFI_PATH, Link())
        await bus.request_name("org.freedesktop.resolve1")
        links = map(LinkIndex, (WIFI, WIFI + 1))
        found += [await resolvers_of(link, "wlan0", (others,)) for link in links]
        bus.disconnect()
        return found

    command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()  # it listens
        found = asyncio.run(work())
        daemon.kill()
    assert found == [(ELSEWHERE,), (THEIRS, THEIRS6), (ELSEWHERE,)]
