"""Kernel WireGuard between the same two hosts: what we are compared with.

As its documentation has it: wg-quick(8) with a configuration file on either side, a virtual
address for the endpoint, and the keepalive that wg(8) advises behind NAT. Nothing in it is
tuned down; roaming is its own.
"""

import threading
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.quantities import IPAddress
from orchestrator.lab.host import Host
from orchestrator.lab.netns import Lab

VIP: Final = ip_address("10.99.0.2")
PORT: Final = 51820
DEVICE: Final = "wg0"
KEEPALIVE: Final = 25
"""Seconds; wg(8), PersistentKeepalive: "a sensible interval that works with a wide variety of
firewalls is 25 seconds"."""
_BEHIND: Final = "10.50.0.0/15"
"""What is reached through the tunnel."""
_HANDSHAKE_LIMIT: Final = 20.0
"""Seconds: four tries."""
_POLL: Final = 0.05

_SERVER: Final = """\
[Interface]
PrivateKey = {private}
ListenPort = {port}

[Peer]
PublicKey = {public}
AllowedIPs = {vip}/32
"""
_ENDPOINT: Final = """\
[Interface]
PrivateKey = {private}
Address = {vip}/32

[Peer]
PublicKey = {public}
Endpoint = {server}:{port}
AllowedIPs = {behind}
PersistentKeepalive = {keepalive}
"""


class WireGuardTunnel:
    """Both sides configured and their first handshake done; it lives as long as the lab."""

    def __init__(self, lab: Lab) -> None:
        """The endpoint must be attached. Raises OrchestratorError if no handshake succeeds."""
        self.vip: IPAddress = VIP
        server, endpoint = lab.host("server"), lab.host("endpoint")
        server.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        keys = {host: _key(host) for host in (server, endpoint)}
        for host, other, template in (
            (server, endpoint, _SERVER),
            (endpoint, server, _ENDPOINT),
        ):
            text = template.format(
                private=keys[host][0],
                public=keys[other][1],
                port=PORT,
                vip=VIP,
                server=lab.internet.address("server"),
                behind=_BEHIND,
                keepalive=KEEPALIVE,
            )
            file = lab.folder / host.name / f"{DEVICE}.conf"
            _write(file, text)
            host.run(["wg-quick", "up", str(file)])
        _wait_for_handshake(endpoint)


def _key(host: Host) -> tuple[str, str]:
    """A private key and its public one, in base64."""
    private = host.run(["wg", "genkey"]).stdout
    return private.strip(), host.run(["wg", "pubkey"], input=private).stdout.strip()


def _write(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def _wait_for_handshake(host: Host) -> None:
    pause = threading.Event()
    end = time.monotonic() + _HANDSHAKE_LIMIT
    while time.monotonic() < end:
        shown = host.run(["wg", "show", DEVICE, "latest-handshakes"]).stdout.split()
        if shown and int(shown[-1]):  # seconds of the epoch; 0: none yet
            return
        pause.wait(_POLL)
    raise OrchestratorError("WireGuard does not connect: no handshake was answered")
