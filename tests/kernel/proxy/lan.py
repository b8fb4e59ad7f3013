"""Endpoint, server and peer; the tunnel is IPsec, or an interface for kernels without ESP.

    endpoint vip0 ═════ ep0 server lan0 ───── eth0 peer
    10.99.0.7, .8              10.50.0.1       10.50.0.2
    fd00:99::7                 fd00:50::1      fd00:50::2

`ep0` counts as underlay. With an interface, all that comes from it counts as out of an SA.
"""

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

from orchestrator.core.endpoint_state import SERVICE_PORT
from orchestrator.core.firewall import (
    SECPATH,
    ProxyPorts,
    ServerFirewall,
    server_ruleset,
    tunnel_interface,
)
from orchestrator.core.flows import ProxySettings, SourcePolicy
from orchestrator.core.kernel import MARK_MASK, MARK_TPROXY, TABLE_INNER
from tests.kernel.netns import Namespace

VIP: Final = {4: "10.99.0.7", 6: "fd00:99::7"}
OTHER_VIP: Final = "10.99.0.8"
PEER: Final = {4: "10.50.0.2", 6: "fd00:50::2"}
SERVER: Final = {4: "10.50.0.1", 6: "fd00:50::1"}
POOLS: Final = (ip_network("10.99.0.0/24"), ip_network("fd00:99::/64"))
OUTER: Final = {"endpoint": "192.0.2.2", "server": "192.0.2.1"}
PORTS: Final = ProxyPorts(11110, 11111)
SETTINGS: Final = ProxySettings(
    pools=POOLS,
    source=SourcePolicy.VIP,
    ports=PORTS,
    flows_per_vip=1024,
    flows=16384,
    octets_per_flow=1024 * 1024,
    octets_per_vip=1 << 29,
    octets=1 << 30,
)
PROTECTED: Final = (
    ("10.96.0.0/11", "10.50.0.0/16"),
    ("10.96.0.0/11", "192.0.0.8/32"),
    ("10.96.0.0/11", "203.0.113.1/32"),
    ("10.99.0.7/32", "10.99.0.8/32"),
    ("10.99.0.8/32", "10.99.0.7/32"),
    ("fd00:99::/64", "fd00:50::/64"),
)
"""By the endpoint's side and the other."""
PATIENCE: Final = 10.0
"""Seconds for what takes milliseconds, on a busy machine."""
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class Lan:
    def __init__(self, make: Callable[[], Namespace], *, esp: bool) -> None:
        self.firewall = ServerFirewall(
            underlay=["ep0"],
            pools=POOLS,
            service_port=SERVICE_PORT,
            proxy=PORTS,
            services=[ip_address("192.0.0.8")],
            tunnel=SECPATH if esp else tunnel_interface("ep0"),
        )
        self.device_tunnel = SECPATH if esp else tunnel_interface("vip0")
        self.endpoint, self.server, self.peer = make(), make(), make()
        for namespace in (self.endpoint, self.server, self.peer):
            sysctl(namespace, "net/ipv6/conf/default/accept_dad", "0")
        mark = f"fwmark {MARK_TPROXY:#x}/{MARK_MASK:#x} lookup {TABLE_INNER}"
        ip(
            self.server,
            f"link add ep0 type veth peer name vip0 netns {self.endpoint.path}",
            f"link add lan0 type veth peer name eth0 netns {self.peer.path}",
            "link set ep0 up",
            "link set lan0 up",
            f"addr add {OUTER['server']}/32 dev ep0",
            "addr add 192.0.0.8/32 dev lo",
            "-6 addr add fe80::1/64 dev ep0 nodad",
            "addr add 10.50.0.1/24 dev lan0",
            "-6 addr add fd00:50::1/64 dev lan0 nodad",
            f"route add {OUTER['endpoint']} dev ep0",
            "route add 10.99.0.0/24 dev ep0",
            "-6 route add fd00:99::/64 dev ep0",
            f"rule add priority 11100 {mark}",
            f"-6 rule add priority 11100 {mark}",
            f"route add local default dev lo table {TABLE_INNER}",
            f"-6 route add local default dev lo table {TABLE_INNER}",
        )
        ip(
            self.endpoint,
            # A tunnel carries what the VIP sends, and no neighbour's chatter.
            "link set vip0 addrgenmode none",
            "link set vip0 up",
            f"addr add {OUTER['endpoint']}/32 dev vip0",
            "addr add 10.99.0.7/32 dev vip0",
            "addr add 10.99.0.8/32 dev vip0",
            "-6 addr add fd00:99::7/128 dev vip0 nodad",
            f"route add {OUTER['server']} dev vip0",
            "route add default via 192.0.2.1 src 10.99.0.7",
            "-6 route add default via fe80::1 dev vip0 src fd00:99::7",
        )
        ip(
            self.peer,
            "link set eth0 up",
            "addr add 10.50.0.2/24 dev eth0",
            "-6 addr add fd00:50::2/64 dev eth0 nodad",
            "route add default via 10.50.0.1",
            "-6 route add default via fd00:50::1",
        )
        sysctl(self.server, "net/ipv4/ip_forward", "1")
        sysctl(self.server, "net/ipv6/conf/all/forwarding", "1")
        if esp:
            self._protect()

    def _protect(self) -> None:
        """What endpoint, LAN and service say to each other becomes ESP, with well-known keys.
        Nothing else does, so that the firewall alone has to keep it in."""
        for here, names in (
            (self.endpoint, ("endpoint", "server")),
            (self.server, ("server", "endpoint")),
        ):
            own, other = (OUTER[name] for name in names)
            leaving = f"tmpl src {own} dst {other} proto esp reqid 1 mode tunnel"
            arriving = f"tmpl src {other} dst {own} proto esp reqid 1 mode tunnel"
            ip(here, _state(own, other), _state(other, own))
            for inside, outside in PROTECTED:
                towards = (inside, outside) if here is self.endpoint else (outside, inside)
                to = f"src {towards[0]} dst {towards[1]}"
                fro = f"src {towards[1]} dst {towards[0]}"
                family = "-6 " if ":" in inside else ""
                policies = (
                    f"dir out {to} {leaving}",
                    f"dir in {fro} {arriving}",
                    f"dir fwd {fro} {arriving}",
                )
                ip(here, *(f"{family}xfrm policy add {policy}" for policy in policies))

    def load(self, firewall: ServerFirewall | None = None) -> None:
        """The server's ruleset, and no other table."""
        load_rules(self.server, server_ruleset(firewall or self.firewall))

    def detach(self) -> None:
        """The endpoint is out of range: nothing crosses, nobody is told."""
        load_rules(
            self.endpoint,
            "table inet away {\n"
            " chain in { type filter hook prerouting priority raw; iifname vip0 drop; }\n"
            " chain out { type filter hook postrouting priority 400; oifname vip0 drop; }\n}",
        )

    def attach(self) -> None:
        load_rules(self.endpoint, "")


def load_rules(namespace: Namespace, text: str) -> None:
    """These rules and no others."""
    add_rules(namespace, "flush ruleset\n" + text)


def add_rules(namespace: Namespace, text: str) -> None:
    with namespace.entered():
        subprocess.run(("nft", "-f", "-"), input=text, text=True, check=True)


def esp_works() -> bool:
    """Whether this kernel has SAs of the kind that the tunnel is made of."""
    with contextlib.closing(Namespace.create()) as namespace:
        try:
            namespace.run(f"ip {_state(*OUTER.values())}")
        except subprocess.CalledProcessError:
            return False
    return True


def _state(source: str, destination: str) -> str:
    key = "0x000102030405060708090a0b0c0d0e0f10111213"
    return (
        f"xfrm state add src {source} dst {destination} proto esp spi 0x{destination[-1]}00"
        f" reqid 1 mode tunnel flag af-unspec aead rfc4106(gcm(aes)) {key} 128"
    )


def ip(namespace: Namespace, *lines: str) -> None:
    """Commands of `ip`, and then those of `ip -6`, in as few processes as may be."""
    v6 = "-6 "
    for family, own in (
        ("-4", [line for line in lines if not line.startswith(v6)]),
        ("-6", [line.removeprefix(v6) for line in lines if line.startswith(v6)]),
    ):
        if own:
            with namespace.entered():
                batch = ("ip", family, "-batch", "-")
                subprocess.run(batch, input="\n".join(own) + "\n", text=True, check=True)


def sysctl(namespace: Namespace, path: str, value: str) -> None:
    with namespace.entered():
        (Path("/proc/sys") / path).write_text(value)


# ---- programs on either side


def serve(namespace: Namespace, address: str, port: int = 0) -> socket.socket:
    """A listener in the namespace."""
    with namespace.entered():
        family = FAMILY[ip_address(address).version]
        listener = socket.create_server((address, port), family=family)
    listener.settimeout(PATIENCE)
    return listener


def connect(
    namespace: Namespace, to: tuple[str, int], source: str = "", port: int = 0
) -> socket.socket:
    """A connection from the namespace, with Nagle off."""
    with namespace.entered():
        sock = socket.socket(FAMILY[ip_address(to[0]).version], socket.SOCK_STREAM)
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if source or port:
            sock.bind((source, port))
        sock.connect(to)
    except OSError:
        sock.close()
        raise
    return sock


def is_reset(client: Namespace, to: tuple[str, int], source: str = "") -> bool:
    """Whether a connection there is reset, sooner or later."""
    try:
        with connect(client, to, source) as sock:
            return sock.recv(1) == b"no"
    except ConnectionResetError:
        return True


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits for what no event announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.02)


@dataclass(frozen=True, slots=True)
class Pair:
    """The two ends that applications have of one proxied connection."""

    near: socket.socket
    """who connected"""
    far: socket.socket
    """who accepted"""
    seen: tuple[str, int]
    """whom the acceptor believes to talk to"""

    def close(self) -> None:
        self.near.close()
        self.far.close()


def pair(client: Namespace, listener: socket.socket, source: str = "", port: int = 0) -> Pair:
    near = connect(client, listener.getsockname()[:2], source, port)
    far, seen = listener.accept()
    far.settimeout(PATIENCE)
    return Pair(near, far, seen[:2])


def receive(sock: socket.socket, octets: int) -> bytes:
    """Exactly so many octets, unless the end comes first."""
    received = bytearray()
    while len(received) < octets and (part := sock.recv(octets - len(received))):
        received += part
    return bytes(received)


def transfer(sender: socket.socket, receiver: socket.socket, octets: int) -> None:
    """Sends random octets one way and fails unless they all arrive in order."""
    chunk = os.urandom(1 << 16)
    sent = hashlib.sha256()

    def send() -> None:
        left = octets
        while left:
            part = chunk[: min(left, len(chunk))]
            sender.sendall(part)
            sent.update(part)
            left -= len(part)

    thread = threading.Thread(target=send)
    thread.start()
    received, got = hashlib.sha256(), 0
    while got < octets:
        part = receiver.recv(1 << 16)
        assert part, f"the end after {got} of {octets} octets"
        received.update(part)
        got += len(part)
    thread.join()
    assert received.digest() == sent.digest()


# ---- the worker


def worker_command(path: Path) -> list[str]:
    return [sys.executable, "-m", "orchestrator.services.proxy", "--socket", str(path)]


@contextlib.contextmanager
def worker(
    namespace: Namespace, path: Path, program: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A proxy worker in the namespace, a child of this process, until the end of the block; of
    the program that is installed there, else of this one."""
    environment = {**os.environ, "PYTHONPATH": str(program)} if program else None
    ready, its = os.pipe()
    with namespace.entered():
        process = subprocess.Popen(
            [*worker_command(path), "--ready-fd", str(its)],
            pass_fds=(its,),
            cwd=program,
            env=environment,
        )
    os.close(its)
    try:
        assert os.read(ready, 16) == b"ready\n"
        yield process
    finally:
        os.close(ready)
        process.terminate()
        process.wait(PATIENCE)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def limited(settings: ProxySettings = SETTINGS, **changes: object) -> ProxySettings:
    return replace(settings, **changes)  # type: ignore[arg-type]
