"""A peer that sends to an endpoint until nothing is taken any more."""

import fcntl
import socket
import struct
import termios

from orchestrator.lab.serve import content
from tests.scenarios.world import LIMIT, World

PORT = 7071
POURED = 3 << 20
STANDSTILL = 2.0
"""Seconds without progress, after which a sender has met the limit."""


class Pouring:
    """A peer that sends to the endpoint without waiting for it."""

    def __init__(self, world: World, port: int = PORT) -> None:
        vip = str(world.vip)
        listener = world.endpoint.host.inside(socket.create_server, (vip, port))
        with listener:
            self.peer: socket.socket = world.lab.host("peer1").inside(
                socket.create_connection, (vip, port), LIMIT
            )
            self.endpoint, _ = listener.accept()
        self.sent = 0

    def pour(self) -> None:
        """Sends until nothing is taken any more."""
        octets = content(POURED)
        self.peer.settimeout(STANDSTILL)
        try:
            while self.sent < POURED:
                self.sent += self.peer.send(octets[self.sent :])
        except TimeoutError:
            return

    def acknowledged(self) -> int:
        """Octets that the peer's TCP knows to have arrived (tcp(7), SIOCOUTQ)."""
        waiting = fcntl.ioctl(self.peer, termios.TIOCOUTQ, bytes(4))
        return self.sent - int(struct.unpack("i", waiting)[0])

    def received(self) -> bytes:
        """All that reaches the endpoint, until it has as much as was sent."""
        self.endpoint.settimeout(LIMIT)
        octets = b""
        while len(octets) < self.sent:
            octets += self.endpoint.recv(1 << 20)
        return octets

    def goes_on(self) -> None:
        """Both ways, behind all that was sent."""
        self.peer.settimeout(LIMIT)
        self.peer.sendall(b"and on")
        assert self.endpoint.recv(6, socket.MSG_WAITALL) == b"and on"
        self.endpoint.sendall(b"and back")
        assert self.peer.recv(8, socket.MSG_WAITALL) == b"and back"

    def close(self) -> None:
        self.peer.close()
        self.endpoint.close()
