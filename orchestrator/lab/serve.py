"""The servers of a peer, in one process: HTTP for one file, and an echo over TCP and UDP.

Run as a module with the file's path; prints READY when all of them listen, and goes on.
"""

import shutil
import socket
import sys
import threading
from collections.abc import Callable
from hashlib import shake_128
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer, UDPServer
from typing import Final

HTTP_PORT: Final = 80
ECHO_PORT: Final = 7
READY: Final = b"ready\n"
_SEED: Final = b"the file of the lab"


def content(length: int) -> bytes:
    """The same octets on every machine, and no two stretches of them alike."""
    return shake_128(_SEED).digest(length)


class _File(BaseHTTPRequestHandler):
    """GET anything is the file, whole."""

    protocol_version = "HTTP/1.1"
    path_on_disk: Path

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(self.path_on_disk.stat().st_size))
        self.end_headers()
        with self.path_on_disk.open("rb") as file:
            shutil.copyfileobj(file, self.wfile, 1 << 16)


class _EchoStream(BaseRequestHandler):
    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while received := self.request.recv(1 << 16):
            self.request.sendall(received)


class _EchoDatagram(BaseRequestHandler):
    def handle(self) -> None:
        datagram, answers = self.request
        answers.sendto(datagram, self.client_address)


class _Http(ThreadingHTTPServer):
    address_family = socket.AF_INET6  # and IPv4, mapped: bindv6only is off
    request_queue_size = 128


class _StreamServer(ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class _DatagramServer(UDPServer):
    address_family = socket.AF_INET6


def main(file: str) -> None:
    _File.path_on_disk = Path(file)
    servers: list[Callable[[], None]] = [
        _Http(("::", HTTP_PORT), _File).serve_forever,
        _StreamServer(("::", ECHO_PORT), _EchoStream).serve_forever,
        _DatagramServer(("::", ECHO_PORT), _EchoDatagram).serve_forever,
    ]
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    *others, last = servers
    for server in others:
        threading.Thread(target=server, daemon=True).start()
    last()


if __name__ == "__main__":
    main(sys.argv[1])
