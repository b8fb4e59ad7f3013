"""An access network of a test's own: a device with one link, and what answers behind it."""

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.kernel.netns import Namespace

POP, GATEWAY, PAGE = "192.168.10.2", "192.168.10.1", "198.51.100.7"
POP6, GATEWAY6, PAGE6 = "2001:db8:10::2", "2001:db8:10::1", "2001:db8:7::7"
PATIENCE = 30.0
_ARP_IGNORE = Path("/proc/sys/net/ipv4/conf/all/arp_ignore")
ANSWER = b"any answer of the name server"


class _Page(http.server.BaseHTTPRequestHandler):
    """Says who asked, from where the network sees it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        who = self.client_address[0].removeprefix("::ffff:")
        with contextlib.suppress(OSError):  # it has heard enough
            while self.path == "/endless":
                self.wfile.write(b"x" * 65536)
            self.wfile.write(f"{who} {self.path}".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name there
        pass


class _Pages(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6  # and IPv4, mapped: bindv6only is off
    daemon_threads = True


class Network:
    """An access network: pages at any of its addresses, and a name server."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.entered():
            self.pages = [_Pages(("::", port), _Page) for port in (80, 81)]
            self.names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.names.bind((GATEWAY, 53))
        self.asked: list[bytes] = []
        self.threads = [threading.Thread(target=self._answer)]
        self.threads += [threading.Thread(target=page.serve_forever) for page in self.pages]
        for thread in self.threads:
            thread.start()

    def _answer(self) -> None:
        while (query := self.names.recvfrom(4096))[0]:
            self.asked.append(query[0])
            self.names.sendto(query[0][:2] + ANSWER, query[1])

    def close(self) -> None:
        for page in self.pages:
            page.shutdown()
            page.server_close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.names.getsockname())
        for thread in self.threads:
            thread.join(PATIENCE)
        self.names.close()


@contextlib.contextmanager
def attached(device: Namespace, make_namespace: Callable[[], Namespace]) -> Iterator[Network]:
    """The device has a link `wlan0` to it, with the addresses POP and POP6."""
    beyond = make_namespace()
    device.ip(
        f"link add wlan0 type veth peer name ap0 netns {beyond.path}",
        f"addr add {POP}/24 dev wlan0",
        f"addr add {POP6}/64 dev wlan0",
        "link set wlan0 up",
        f"route add default via {GATEWAY}",
        f"route add default via {GATEWAY6}",
    )
    beyond.ip(
        f"addr add {GATEWAY}/24 dev ap0",
        f"addr add {GATEWAY6}/64 dev ap0",
        "link set ap0 up",
        f"addr add {PAGE}/32 dev lo",
        f"addr add {PAGE6}/128 dev lo",
    )
    with beyond.entered():
        # A page is somewhere behind the router: nobody gets there who takes it for a neighbour.
        _ARP_IGNORE.write_text("1")
        made = Network(beyond)
    try:
        yield made
    finally:
        with beyond.entered():
            made.close()
