"""An endpoint's SAs in the kernel: charon makes them; we move them, look at what they carried,
and bury those that it cannot find any more.

Nowhere else does a daemon change an SA.
"""

import contextlib
from collections.abc import Iterable

from orchestrator.adapters.xfrm import Xfrm
from orchestrator.config.endpoint import EndpointConfig
from orchestrator.core.endpoint_state import ways_out
from orchestrator.core.errors import KernelError
from orchestrator.core.ike import Tunnel
from orchestrator.core.kernel import ENDPOINT_REQID, KernelObject
from orchestrator.core.mobility_events import MoveEnded, MoveTunnel, TrafficSeen
from orchestrator.core.quantities import IPAddress, UniqueId
from orchestrator.wire.security_association import SecurityAssociation


class Associations:
    """Of one endpoint."""

    def __init__(self, config: EndpointConfig, xfrm: Xfrm) -> None:
        self._identity = config.identity
        self._server = config.server.identity
        self._xfrm = xfrm

    def adoptable(self, found: Iterable[KernelObject]) -> Tunnel | None:
        """The tunnel that a predecessor's out policy uses, if its SAs are still there."""
        for policy in ways_out(found):
            if policy.template is None:
                continue
            pop, server = policy.template.source, policy.template.destination
            states = self._xfrm.states(ENDPOINT_REQID)
            outbound = _youngest(states, pop, server)
            inbound = _youngest(states, server, pop)
            if pop is None or server is None or outbound is None or inbound is None:
                continue
            encap = outbound.encap
            return Tunnel(
                ike=UniqueId(0),
                child=UniqueId(0),
                connection="",
                local=pop,
                local_port=encap.source_port if encap else 0,
                remote=server,
                remote_port=encap.destination_port if encap else 0,
                local_id=self._identity,
                remote_id=self._server,
                reqid=ENDPOINT_REQID,
                spi_in=inbound.spi,
                spi_out=outbound.spi,
                local_ts=(policy.selector.source,),
                remote_ts=(policy.selector.destination,),
            )
        return None

    def move(self, order: MoveTunnel) -> MoveEnded:
        """The optimistic move: both SAs, counters and all, to the new point of presence."""
        tunnel, pop = order.tunnel, order.path.pop
        try:
            outbound = self._xfrm.state(tunnel.remote, tunnel.spi_out)
            self._xfrm.move_state(outbound, pop, tunnel.remote)
            inbound = self._xfrm.state(tunnel.local, tunnel.spi_in)
            self._xfrm.move_state(inbound, tunnel.remote, pop)
        except KernelError as error:
            return MoveEnded(tunnel, order.path, moved=False, detail=str(error))
        return MoveEnded(tunnel, order.path, moved=True)

    def traffic(self, tunnel: Tunnel) -> TrafficSeen | None:
        """What its SAs have counted so far."""
        try:
            out = self._xfrm.state(tunnel.remote, tunnel.spi_out).usage
            inbound = self._xfrm.state(tunnel.local, tunnel.spi_in)
        except KernelError:
            return None  # an SA is being replaced: the next look finds its successor
        came, highest = inbound.usage, inbound.received
        return TrafficSeen(tunnel, came.packets, out.packets, came.octets, out.octets, highest)

    def bury(self, tunnel: Tunnel) -> None:
        """Drops what is left of it, wherever its own end was moved to."""
        with contextlib.suppress(KernelError):  # what is left ends with its keys' time
            for state in self._xfrm.states(ENDPOINT_REQID):
                inbound = (state.source, state.spi) == (tunnel.remote, tunnel.spi_in)
                if inbound or (state.destination, state.spi) == (tunnel.remote, tunnel.spi_out):
                    self._xfrm.drop_state(state.destination, state.spi)


def _youngest(
    states: Iterable[SecurityAssociation],
    source: IPAddress | None,
    destination: IPAddress | None,
) -> SecurityAssociation | None:
    """Of those that a rekeying or a flip left side by side, the one that is used."""
    between = (s for s in states if (s.source, s.destination) == (source, destination))
    return max(between, key=lambda state: state.usage.added, default=None)
