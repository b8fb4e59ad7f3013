"""A network that lets nobody through before a sign-in: what the router of a hotel does.

    with CaptivePortal(lab.host("ap1"), "wlan0"), OpenPage(lab.host("internet")):
        …

Whoever has not signed in gets the sign-in page instead of any page of plain HTTP, and nothing
else of theirs is forwarded; the router's name server answers every name with the router. A GET
of SIGN_IN signs in whoever asks. Run as a module it is the page, or what is behind it.
"""

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Self

from orchestrator.core.errors import OrchestratorError
from orchestrator.lab.host import Host

SIGN_IN: Final = "/sign-in"
WELCOME: Final = "welcome"
PLEASE: Final = "please sign in"
HTTP_PORT: Final = 80
DNS_PORT: Final = 53
_READY: Final = b"ready\n"
_DATAGRAM: Final = 512
_ANSWER: Final = bytes.fromhex("c00c 0001 0001 00000000 0004")
"""The name asked for, A, IN, not to be kept, four octets (RFC 1035, 4.1.3)."""
_QUESTION: Final = 12
_TYPE_A: Final = b"\x00\x01"


class _Served:
    """A process of this module on a host, which serves from `with` to its end."""

    def __init__(self, host: Host, *arguments: str) -> None:
        self._host = host
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = self._host.spawn_python(
            __name__, *self._arguments, stdout=subprocess.PIPE
        )
        told = self._process.stdout.readline() if self._process.stdout is not None else b""
        if told != _READY:
            raise OrchestratorError(f"{self._host.name} serves no page; see its log")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()


class OpenPage(_Served):
    """Answers every GET with 204, at every address of the host."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, "open")


class CaptivePortal(_Served):
    """On an access router, for those behind `device`, whose address there is `address`."""

    def __init__(self, router: Host, device: str, address: str) -> None:
        super().__init__(router, "portal", address)
        self._router = router
        self._device = device

    def __enter__(self) -> Self:
        self._router.run(["nft", "-f", "-"], input=_rules(self._device))
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._router.run(["nft", "delete", "table", "ip", "captive"])
        super().__exit__(kind, error, trace)

    def forget_everybody(self) -> None:
        """They have to sign in again: a day is over."""
        self._router.run(["nft", "flush", "set", "ip", "captive", "signed_in"])


def _rules(device: str) -> str:
    stranger = f'iifname "{device}" ip saddr != @signed_in'
    return f"""
        table ip captive {{
            set signed_in {{
                type ipv4_addr
            }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                {stranger} tcp dport {HTTP_PORT} redirect to :{HTTP_PORT}
            }}
            chain forward {{
                type filter hook forward priority filter;
                {stranger} drop
            }}
        }}
    """


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Nobody reads it."""

    def answer(self, status: int, body: str = "") -> None:
        self.send_response(status)
        if body:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())


class _Open(_Quiet):
    def do_GET(self) -> None:
        self.answer(204)


class _SignIn(_Quiet):
    def do_GET(self) -> None:
        if self.path != SIGN_IN:
            self.answer(200, PLEASE)
            return
        who = self.client_address[0]
        element = f"add element ip captive signed_in {{ {who} }}"
        subprocess.run(["nft", element], check=True)
        self.answer(200, WELCOME)


def _answer_names(address: str) -> None:
    """Every name has this address, and no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names:
        names.bind((address, DNS_PORT))
        while True:
            query, who = names.recvfrom(_DATAGRAM)
            end = query.index(0, _QUESTION) + 5
            found = query[end - 4 : end - 2] == _TYPE_A
            head = query[:2] + b"\x81\x80\x00\x01" + bytes((0, found)) + bytes(4)
            record = _ANSWER + socket.inet_aton(address) if found else b""
            names.sendto(head + query[_QUESTION:end] + record, who)


def main(kind: str, address: str = "") -> None:
    pages = ThreadingHTTPServer(("", HTTP_PORT), _SignIn if kind == "portal" else _Open)
    pages.daemon_threads = True
    if address:
        threading.Thread(target=_answer_names, args=(address,), daemon=True).start()
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    pages.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
