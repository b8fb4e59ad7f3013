"""Datagrams between hosts of the lab, from sockets that this process holds on both."""

import socket
import time
from types import TracebackType
from typing import Self

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.host import Host

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class Line:
    """One socket here, one there, that is bound and knows who sent."""

    def __init__(self, sender: Host, receiver: Host, destination: IPAddress) -> None:
        family = _FAMILY[destination.version]
        self.outgoing = sender.inside(socket.socket, family, socket.SOCK_DGRAM)
        self.incoming = receiver.inside(socket.socket, family, socket.SOCK_DGRAM)
        self.incoming.bind((str(destination), 0))
        self._target = (str(destination), self.incoming.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.outgoing.close()
        self.incoming.close()

    def send(self, payload: bytes = b"x") -> None:
        self.outgoing.sendto(payload, self._target)

    def source_of_next(self, seconds: float = 5.0) -> str | None:
        """Who sent what arrives next, as the receiver sees it; None if nothing does."""
        self.incoming.settimeout(seconds)
        try:
            return str(self.incoming.recvfrom(2048)[1][0])
        except TimeoutError:
            return None

    def milliseconds(self) -> float:
        """How long one datagram takes."""
        began = time.monotonic()
        self.send()
        assert self.source_of_next() is not None
        return (time.monotonic() - began) * 1000
