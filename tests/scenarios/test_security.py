"""The security invariants, each with what happens when its protection is taken away.

1. No packet of a VIP crosses the underlay in clear, whatever state the daemons are in.
2. IKE and ESP never enter the tunnel.
3. An endpoint cannot send from, or receive for, a VIP that its identity was not given.
4. Root and one group ask the daemon; the service inside the tunnel answers what is inside.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.endpoint_state import SERVICE, SERVICE_PORT
from orchestrator.core.quantities import IPAddress, Spi
from orchestrator.lab.capture import Capture
from orchestrator.lab.host import Host
from orchestrator.lab.product import ENDPOINT
from orchestrator.wire.probe import Kind, Probe, decode, encode
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import (
    LIMIT,
    PEER,
    SERVER_ADDRESS,
    Side,
    World,
    eventually,
    for_a_while,
)

PORT = 7071
TRIES = 15
BETWEEN_TRIES = 0.1
WIFI = "wlan0"
SO_BINDTODEVICE = socket.SO_BINDTODEVICE
IP_TRANSPARENT = 19
"""include/uapi/linux/in.h"""
GROUP = "games"
"""A group that every Debian has, and root is not in."""
NOBODY = "65534"

UNLOCK = """\
while :; do
    nft delete table inet orchestrator
    for vips in {vip}/32 10.99.0.0/24; do
        ip xfrm policy delete src $vips dst 0.0.0.0/0 dir in
    done
    sleep 0.3
done
"""
"""Again and again: a slow machine is repaired before it is open."""
DAVE = ENDPOINT.replace("carol@", "dave@") + (
    # He lives on a router of the lab, whose own traffic shall not go into his tunnel.
    '[tunnel]\nmode = "split"\nprefixes = ["10.51.0.0/16"]\n'
)
ADMINISTERED = ENDPOINT + f'[control]\ngroup = "{GROUP}"\n'


@pytest.fixture(scope="module")
def make_world() -> Callable[..., World]:
    return partial(World, endpoint=ADMINISTERED)


def datagram_socket(host: Host, address: IPAddress | str, port: int = 0) -> socket.socket:
    """A UDP socket on a host, bound to an address whether the host has it or not."""
    opened: socket.socket = host.inside(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((str(address), port))
    opened.settimeout(BETWEEN_TRIES)
    return opened


def send(sender: socket.socket, target: IPAddress | str, port: int = PORT) -> None:
    try:
        sender.sendto(b"in clear?", (str(target), port))
    except OSError:
        return  # refused on its way out: it does not get there, which is what counts


def arrives(sender: socket.socket, target: IPAddress, receiver: socket.socket) -> bool:
    """Whether any of some datagrams does."""
    for _ in range(TRIES):
        send(sender, target, receiver.getsockname()[1])
        try:
            receiver.recv(64)
        except TimeoutError:
            continue
        return True
    return False


def leaked(world: World, vip: IPAddress, device: str | None) -> int:
    """How many datagrams of the VIP an application gets onto the underlay in clear.

    With `device` it insists on that one, whatever the routes say.
    """
    before = world.capture.in_clear
    with datagram_socket(world.endpoint.host, vip) as sender:
        if device is not None:
            sender.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode())
        for _ in range(TRIES):
            send(sender, PEER)
            for_a_while(0.01)
    return world.capture.in_clear - before


def counter(side: Side, name: str) -> int:
    """A counter of our nft table."""
    words = side.run("nft", "list", "counter", "inet", "orchestrator", name).split()
    return int(words[words.index("packets") + 1])


def xfrm_errors(side: Side, *names: str) -> int:
    """The sum of some counters of /proc/net/xfrm_stat."""
    text = side.host.inside(Path("/proc/thread-self/net/xfrm_stat").read_text)
    found = dict(line.split() for line in text.splitlines())
    return sum(int(found[name]) for name in names)


def test_nothing_leaks_while_detached_or_while_a_silent_server_is_asked(world: World) -> None:
    vip = world.vip
    with world.nothing_in_clear():
        world.nowhere()
        assert leaked(world, vip, None) == 0
        held = world.endpoint.status()["held"]["packets"]
        assert held >= TRIES, "the datagrams must have been held"
        world.lab.link("wan").cut()
        world.lab.roam("lte")
        eventually(world.endpoint.paths, bool)
        stopped = counter(world.endpoint, "leak_stopped")
        for device in (None, "wwan0", None, "wwan0"):
            assert leaked(world, vip, device) == 0
        world.endpoint.wait_for("detached")
        assert leaked(world, vip, "wwan0") == 0
        assert counter(world.endpoint, "leak_stopped") >= stopped + TRIES


def test_an_earlier_run_leaks_nothing_and_each_lock_holds_alone(world: World) -> None:
    vip, endpoint = world.vip, world.endpoint
    world.nowhere()
    endpoint.kill()
    endpoint.kill_charon()
    world.lab.link("wifi").attach()
    try:
        assert leaked(world, vip, None) == 0
        assert leaked(world, vip, WIFI) == 0
        # Without the routing, the firewall alone holds.
        for priority in ("11150", "11170"):
            endpoint.run("ip", "rule", "del", "priority", priority)
        assert leaked(world, vip, None) == 0
        # Without the firewall as well, nothing does: the capture is able to see it.
        endpoint.run("nft", "delete", "table", "inet", "orchestrator")
        assert leaked(world, vip, None) > 0
        assert leaked(world, vip, WIFI) > 0
        # The policies of an attached endpoint hold alone, too.
        endpoint.start_charon()
        endpoint.start()
        world.attached("wifi")
        endpoint.kill()
        endpoint.kill_charon()
        for priority in ("11150", "11170"):
            endpoint.run("ip", "rule", "del", "priority", priority)
        endpoint.run("nft", "delete", "table", "inet", "orchestrator")
        assert leaked(world, vip, WIFI) == 0
        endpoint.run("ip", "xfrm", "state", "flush")
        assert leaked(world, vip, WIFI) == 0
        endpoint.run("ip", "xfrm", "policy", "flush")
        assert leaked(world, vip, WIFI) > 0
    finally:
        endpoint.kill()


def test_kill_9_of_daemon_and_charon_while_attached_leaks_nothing(world: World) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.endpoint.kill()
        world.endpoint.kill_charon()
        world.endpoint.run("ip", "xfrm", "state", "flush")
        talk.stays_silent(1.0)
        world.lab.link("wifi").readdress("192.168.10.3")
        talk.stays_silent(1.0)
        world.endpoint.start_charon()
        world.endpoint.start()
        talk.goes_on()
        talk.ends_well()


def test_nothing_unprotected_is_accepted_for_the_vip(world: World) -> None:
    vip, router = world.vip, world.lab.host("ap1")
    router.run(["ip", "route", "add", f"{vip}/32", "via", "192.168.10.2"])
    with (
        datagram_socket(world.endpoint.host, vip, PORT) as receiver,
        datagram_socket(router, "192.168.10.1") as sender,
    ):
        dropped = counter(world.endpoint, "clear_dropped")
        assert not arrives(sender, vip, receiver)
        assert counter(world.endpoint, "clear_dropped") >= dropped + TRIES
        world.endpoint.kill()
        world.endpoint.run("nft", "delete", "table", "inet", "orchestrator")
        blocked = xfrm_errors(world.endpoint, "XfrmInNoPols", "XfrmInTmplMismatch")
        assert not arrives(sender, vip, receiver), "the policies must hold alone"
        assert xfrm_errors(world.endpoint, "XfrmInNoPols", "XfrmInTmplMismatch") > blocked
        world.endpoint.run("ip", "xfrm", "policy", "flush")
        assert arrives(sender, vip, receiver), "the control: it can arrive"
    router.run(["ip", "route", "del", f"{vip}/32"])


def test_ike_and_esp_never_enter_the_tunnel(world: World) -> None:
    inside = Capture([(world.endpoint.host, "vip0")], (ip_network("10.99.0.0/24"),))
    with Conversation.open(world.endpoint.host, PEER) as talk:
        for link in ("lte", "wifi2"):
            world.lab.roam(link)
            talk.goes_on()
        world.lab.link("wan").cut()
        world.endpoint.wait_for("detached")
        for_a_while(3.0)  # charon repeats itself
        world.lab.link("wan").mend()
        talk.goes_on()
        talk.ends_well()
    assert inside.in_clear > 0, "the capture must see what is held"
    assert inside.protected == 0, inside.examples()
    world.home()
    for mark, device in (("0x6f000000", WIFI), ("0", "vip0")):
        route = world.endpoint.run("ip", "route", "get", str(SERVER_ADDRESS), "mark", mark)
        assert f"dev {device} " in route
    # The control: a charon that does not mark its packets sends them into the tunnel.
    world.endpoint.kill_charon()
    world.endpoint.start_charon({"charon.plugins.socket-default.fwmark": "0x0"})
    try:
        eventually(lambda: inside.protected, bool, 30.0)
    finally:
        inside.close()
        world.endpoint.kill_charon()


@contextmanager
def another_endpoint(world: World) -> Iterator[Side]:
    """Dave, with an identity and a VIP of his own, attached."""
    dave = Side(world.lab, "endpoint", DAVE, {}, host="ap2")
    dave.daemon.configure()
    dave.start_charon()
    dave.start()
    dave.wait_for("attached")
    yield dave
    dave.kill()
    dave.kill_charon()


@contextmanager
def forged(side: Side, foreign: IPAddress, pop: str) -> Iterator[socket.socket]:
    """A socket that sends from a foreign VIP through the endpoint's own SA."""
    template = f"tmpl src {pop} dst {SERVER_ADDRESS} proto esp reqid 0x6f01 mode tunnel"
    policy = f"src {foreign}/32 dst {PEER}/32 dir out"
    side.run("ip", "address", "add", f"{foreign}/32", "dev", "vip0")
    side.run("ip", "rule", "add", "from", str(foreign), "lookup", "11100", "priority", "90")
    side.run(*f"ip xfrm policy add {policy} priority 1 {template}".split())
    with datagram_socket(side.host, foreign) as opened:
        yield opened
    side.run(*f"ip xfrm policy delete {policy}".split(), check=False)
    side.run("ip", "rule", "del", "priority", "90")
    side.run("ip", "address", "del", f"{foreign}/32", "dev", "vip0")


def test_an_endpoint_cannot_use_the_vip_of_another(world: World) -> None:
    server, endpoint = world.server, world.endpoint
    pop = world.endpoint.status()["active_path"]["pop"]
    errors = partial(
        xfrm_errors, server, "XfrmInTmplMismatch", "XfrmInPolBlock", "XfrmInNoPols"
    )
    with (
        another_endpoint(world) as dave,
        datagram_socket(world.lab.host("peer1"), PEER, PORT) as peer,
    ):
        vip = ip_address(dave.status()["vip"][0])
        assert vip != world.vip
        with datagram_socket(dave.host, vip) as own:
            assert arrives(own, PEER, peer), "its owner may send"
        with datagram_socket(endpoint.host, world.vip) as own:
            assert arrives(own, PEER, peer), "the SA that is abused below works"
        endpoint.kill()  # it would take the forged policy away
        for foreign in (vip, ip_address("10.99.0.77")):
            with forged(endpoint, foreign, pop) as forger:
                before = errors()
                assert not arrives(forger, PEER, peer), f"{foreign} is not carol's"
                assert errors() >= before + TRIES
        # The control: with policies that take any SA for good, as if all had one reqid.
        server.kill()
        server.run("ip", "xfrm", "policy", "flush")
        for direction in ("in", "fwd"):
            selector = f"src {vip}/32 dst 0.0.0.0/0 dir {direction}"
            any_sa = "tmpl src 0.0.0.0 dst 0.0.0.0 proto esp mode tunnel"
            server.run(*f"ip xfrm policy add {selector} {any_sa}".split())
        with forged(endpoint, vip, pop) as forger:
            assert arrives(forger, PEER, peer)


def test_the_control_socket_answers_root_and_the_group_only(world: World) -> None:
    def ask(*identity: str) -> Any:
        return world.endpoint.host.run(
            ["setpriv", *identity, "orchestrator", "status", "--json"], check=False
        )

    stranger = ask("--reuid", NOBODY, "--regid", NOBODY, "--clear-groups")
    assert stranger.returncode == 1
    assert "may not" in stranger.stdout
    # The mode of the socket is one lock; who asks is looked at all the same.
    world.endpoint.run("chmod", "0777", "/run/orchestrator", "/run/orchestrator/control.sock")
    stranger = ask("--reuid", NOBODY, "--regid", NOBODY, "--clear-groups")
    assert stranger.returncode == 1
    assert "attached" not in stranger.stdout
    member = ask("--reuid", NOBODY, "--regid", NOBODY, "--groups", GROUP)
    assert member.returncode == 0
    assert "attached" in member.stdout


def test_no_application_of_an_endpoint_speaks_for_its_daemon(world: World) -> None:
    spi = Spi(int(world.attached()["active_path"]["spi_in"], 16))
    to, far_ahead = (str(SERVICE[4]), SERVICE_PORT), 1 << 30

    def counted(name: str) -> int:
        return int(world.server.status()["counters"].get(name, 0))

    strays, asleep = counted("stray-probe"), counted("asleep")
    with datagram_socket(world.endpoint.host, world.vip) as application:
        for kind in (Kind.ASLEEP, Kind.REQUEST):
            application.sendto(encode(Probe(kind, far_ahead, 7, spi)), to)
    eventually(lambda: counted("stray-probe"), lambda now: now == strays + 2)
    (session,) = (s for s in world.server.sessions() if str(world.vip) in s["vip"])
    assert session["state"] == "attached"
    assert counted("asleep") == asleep


def test_the_service_inside_answers_only_what_came_out_of_an_sa(world: World) -> None:
    spi = Spi(int(world.attached()["active_path"]["spi_in"], 16))
    probe = encode(Probe(Kind.REQUEST, 0, 7, spi))
    service, vip, lan = str(SERVICE[4]), world.vip, world.lab.host("lan")
    routes = {"internet": "203.0.113.10", "lan": "10.50.0.1"}
    for name, gateway in routes.items():
        world.lab.host(name).run(["ip", "route", "add", f"{service}/32", "via", gateway])
    world.endpoint.kill()  # its port is ours now: there the answers go

    def answered(sender: socket.socket, receiver: socket.socket) -> bool:
        for _ in range(10 * TRIES):
            sender.sendto(probe, (service, SERVICE_PORT))
            try:
                return decode(receiver.recv(64)).kind is Kind.REPLY
            except TimeoutError:
                continue
        return False

    with datagram_socket(world.endpoint.host, vip, SERVICE_PORT) as receiver:
        receiver.settimeout(BETWEEN_TRIES / 10)
        assert answered(receiver, receiver)
        for name, own in (("internet", "203.0.113.1"), ("lan", "10.50.0.2")):
            host = world.lab.host(name)
            with datagram_socket(host, own, SERVICE_PORT) as outsider:
                outsider.settimeout(BETWEEN_TRIES / 10)
                assert not answered(outsider, outsider)
            with datagram_socket(host, vip, SERVICE_PORT) as forger:
                assert not answered(forger, receiver)
        # The control: in the moment until our daemon repairs it, the forged one is answered.
        with datagram_socket(lan, vip, SERVICE_PORT) as forger:
            unlock = world.server.host.popen(["sh", "-c", UNLOCK.format(vip=vip)])
            try:
                assert answered(forger, receiver)
            finally:
                unlock.kill()
                unlock.wait(LIMIT)
    for name in routes:
        world.lab.host(name).run(["ip", "route", "del", f"{service}/32"])
