"""Finds the session that a piece of news from charon or the kernel is about.

An inbound SA is known by its SPI, which our charon chose; an outbound one by its SPI and our
reqid, because endpoints choose those SPIs, and may choose the same.
"""

from orchestrator.core.ike import Tunnel
from orchestrator.core.quantities import Reqid, Spi, UniqueId
from orchestrator.core.session import Session


class TunnelIndex:
    def __init__(self) -> None:
        self.by_ike: dict[UniqueId, Session] = {}
        self.inbound: dict[Spi, Session] = {}
        self.outbound: dict[tuple[Reqid, Spi], Session] = {}

    def add(self, session: Session, tunnel: Tunnel) -> None:
        self.by_ike[tunnel.ike] = session
        self.inbound[tunnel.spi_in] = session
        self.outbound[tunnel.reqid, tunnel.spi_out] = session

    def remove(self, session: Session, tunnel: Tunnel) -> None:
        """It is not among the session's tunnels any more; others may share a number with it."""
        self.by_ike.pop(tunnel.ike, None)
        self.inbound.pop(tunnel.spi_in, None)
        self.outbound.pop((tunnel.reqid, tunnel.spi_out), None)
        for other in session.tunnels:
            self.add(session, other)

    def clear(self) -> None:
        self.by_ike.clear()
        self.inbound.clear()
        self.outbound.clear()
