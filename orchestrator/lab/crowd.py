"""Many endpoints on one host: what a server sees of them, without a daemon for each.

Hundreds of endpoint daemons with a charon each do not fit into the lab. Here one charon holds
an IKE_SA and a virtual address for each of many identities, and one thread speaks the probes
for all of them, as a daemon would: now and then, and at once when the path has returned.
Nothing is held on this side: what its applications send during an outage is their own kernel's
matter.
"""

import asyncio
import select
import socket
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_interface
from typing import Final

from orchestrator.adapters.charon import Charon as Vici
from orchestrator.adapters.charon import NotNegotiated, ViciValue
from orchestrator.core.endpoint_state import SERVICE, SERVICE_PORT
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.ike import Tunnel
from orchestrator.core.liveness import INITIAL_RTO
from orchestrator.core.quantities import IPAddress, Spi, host_network
from orchestrator.lab import rtnl
from orchestrator.lab.background import Background
from orchestrator.lab.charon import VICI_SOCKET
from orchestrator.lab.host import LOOPBACK_INDEX
from orchestrator.lab.netns import Lab
from orchestrator.lab.product import SECRET, SERVER, STRONGSWAN_CONF
from orchestrator.wire.probe import PROBE_SIZE, Kind, Probe, decode, encode

_SERVER_IDENTITY: Final = "gateway.example.org"
_BEHIND: Final = "10.51.0.0/16"
"""What is reached through the tunnels."""
_FIRST_VIP: Final = ip_address("10.99.0.10")
_AT_ONCE: Final = 2
"""Negotiations at the same time. They come from one address, and with three of them half open
charon at the server wants a cookie from each (charon.cookie_threshold_ip)."""
_INITIATE_LIMIT: Final = 30.0
_LIST_LIMIT: Final = 10.0
_ANSWER_LIMIT: Final = 30.0
PROBE_INTERVAL: Final = 2.0
"""Seconds; that of our endpoint daemon."""
RETRY: Final = INITIAL_RTO
"""Seconds between two probes of one that was not answered, as our endpoint daemon has it."""


def virtual_addresses(count: int) -> Mapping[str, IPAddress]:
    """By the identities of so many endpoints; the lab's pool has room for 245 of them."""
    return {f"crowd-{number}@example.org": _FIRST_VIP + number for number in range(count)}


def server_configuration(count: int) -> str:
    """The lab's, for a server that knows so many endpoints."""
    lines = (f'"{name}" = "{vip}"' for name, vip in virtual_addresses(count).items())
    return "\n".join([SERVER, "[vip.static]", *lines, ""])


class Crowd(Background):
    """So many endpoints, attached; probes are sent from `with` to its end."""

    def __init__(self, lab: Lab, count: int) -> None:
        """The host is attached, and the server serves with `server_configuration`. Raises
        OrchestratorError with charon's own words when one endpoint does not connect."""
        super().__init__("crowd")
        host = lab.host("endpoint")
        lab.start_charon("endpoint", STRONGSWAN_CONF / "endpoint.conf")
        # Sockets below /run are the host's own: whoever speaks to them does so inside.
        tunnels: Sequence[Tunnel] = host.inside(
            asyncio.run, _connect(lab.internet.address("server"), virtual_addresses(count))
        )
        self.vips: Final = tuple(tunnel.given[0] for tunnel in tunnels)
        host.rtnetlink.say(
            *(rtnl.add_address(LOOPBACK_INDEX, ip_interface(vip)) for vip in self.vips)
        )
        self._members = [
            _Member(host.inside(_open, tunnel.given[0]), tunnel.spi_in) for tunnel in tunnels
        ]

    def _close(self) -> None:
        for member in self._members:
            member.socket.close()

    def wait_until_answered(self) -> None:
        """Returns when the server has answered each. Raises OrchestratorError."""
        end = time.monotonic() + _ANSWER_LIMIT
        while silent := sum(member.answered != member.flip for member in self._members):
            if time.monotonic() >= end:
                raise OrchestratorError(f"{silent} of {len(self._members)} are not answered")
            self._stop.wait(RETRY)

    def tell_back(self) -> None:
        """The path has returned: each says so."""
        for member in self._members:
            member.flip += 1
            member.probe()

    def _work(self) -> None:
        with select.epoll() as poll:
            by_descriptor = {member.socket.fileno(): member for member in self._members}
            for descriptor in by_descriptor:
                poll.register(descriptor, select.EPOLLIN)
            while not self._stop.is_set():
                for descriptor, _ in poll.poll(RETRY / 2):
                    by_descriptor[descriptor].hear()
                now = time.monotonic()
                for member in self._members:
                    if now >= member.due:
                        member.probe()


class _Member:
    """What one endpoint's daemon would say to the server."""

    def __init__(self, opened: socket.socket, spi: Spi) -> None:
        self.socket: Final = opened
        self.flip = 1
        self.answered = 0
        """The flip of the latest answer."""
        self.due = 0.0
        self._spi = spi
        self._sequence = 0

    def probe(self) -> None:
        self._sequence += 1
        told = encode(Probe(Kind.REQUEST, self.flip, self._sequence, self._spi))
        patience = PROBE_INTERVAL if self.answered == self.flip else RETRY
        self.due = time.monotonic() + patience
        try:
            self.socket.send(told)
        except OSError:
            return  # no route: as if it was lost

    def hear(self) -> None:
        try:
            self.answered = decode(self.socket.recv(PROBE_SIZE)).flip
        except OSError:
            return
        self.due = max(self.due, time.monotonic() + PROBE_INTERVAL)


async def _connect(server: IPAddress, vips: Mapping[str, IPAddress]) -> Sequence[Tunnel]:
    vici = Vici(VICI_SOCKET)
    await vici.load_shared("psk", SECRET.strip().encode(), [])
    gate = asyncio.Semaphore(_AT_ONCE)

    async def connect(identity: str, vip: IPAddress) -> None:
        async with gate:
            await vici.load_connection(identity, _connection(identity, vip, server))
            outcome = await vici.initiate(identity, "net", _INITIATE_LIMIT)
        if isinstance(outcome, NotNegotiated):
            raise OrchestratorError(f"{identity} does not connect: {outcome.detail}")

    async with asyncio.TaskGroup() as group:
        for identity, vip in vips.items():
            group.create_task(connect(identity, vip), name=identity)
    found: dict[str, Tunnel] = {}
    async with asyncio.timeout(_LIST_LIMIT):
        # charon leaves away those that it is at work on (list-sas with noblock).
        while len(found) < len(vips):
            found |= {tunnel.local_id: tunnel for tunnel in await vici.tunnels()}
    return tuple(found.values())


def _connection(identity: str, vip: IPAddress, server: IPAddress) -> dict[str, ViciValue]:
    return {
        "version": "2",
        "mobike": "no",
        "encap": "yes",
        "dpd_delay": "0s",
        "proposals": ["aes128gcm16-prfsha256-ecp256"],
        "remote_addrs": [str(server)],
        "local": {"auth": "psk", "id": identity},
        "remote": {"auth": "psk", "id": _SERVER_IDENTITY},
        "children": {
            "net": {
                "esp_proposals": ["aes128gcm16-esn"],
                "local_ts": [str(host_network(vip))],
                "remote_ts": [_BEHIND, str(host_network(SERVICE[4]))],
            }
        },
    }


def _open(vip: IPAddress) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((str(vip), SERVICE_PORT))
    opened.connect((str(SERVICE[4]), SERVICE_PORT))
    opened.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return opened
