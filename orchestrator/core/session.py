"""What the server knows of one endpoint; `core.sessions` decides about it."""

from dataclasses import dataclass, field

from orchestrator.core.absence import SessionPolicy, SessionState
from orchestrator.core.ike import Tunnel
from orchestrator.core.kernel import KernelObject, Template
from orchestrator.core.quantities import Instant, IPAddress, Spi
from orchestrator.core.server_state import session_objects
from orchestrator.core.session_events import SessionReason


@dataclass(slots=True)
class Session:
    identity: str
    vips: tuple[IPAddress, ...]
    since: Instant
    """Of the current state."""
    left: Instant
    """Since when it is absent; of an attached one: was, the last time."""
    departed: Instant | None = None
    """Since when it is not attached; None: it is, or never was."""
    state: SessionState = SessionState.AWAY
    reason: SessionReason = SessionReason.NO_TUNNEL
    tunnels: list[Tunnel] = field(default_factory=list)
    """Oldest first."""
    active: Tunnel | None = None
    flip: int | None = None
    sequence: int = 0
    """Of the newest probe of this flip."""
    heard: Instant | None = None
    roams: int = 0
    moved: bool = False
    """The active tunnel was followed to another place, where the endpoint replaces it soon."""
    following: Instant | None = None
    """Until when packets are held because charon is rewriting the SAs."""
    unsettled: dict[Spi, Instant] = field(default_factory=dict)
    """Tunnels, by outbound SPI, that carry no traffic and whose SAs charon is rewriting: until
    when that is believed."""
    awaited: Spi | None = None
    """The one of them that the endpoint has activated already."""
    unfollowed: Spi | None = None
    """The inbound SA whose sender has moved without charon following."""

    def objects(self) -> tuple[KernelObject, ...]:
        reqid = self.tunnels[-1].reqid if self.tunnels else None
        template = None
        if self.active is not None and self.following is None:
            tunnel = self.active
            spi = tunnel.spi_out if self.may_be_joined else None
            template = Template(tunnel.local, tunnel.remote, tunnel.reqid, spi)
        return session_objects(self.vips, reqid, template)

    @property
    def may_be_joined(self) -> bool:
        """Whether there is, or is soon, another SA where the active one leads: the kernel would
        send on it before the endpoint has it. Otherwise the kernel may choose: a rekeying puts
        the new SA in the place of the old one, and hears nobody in between."""
        active = self.active
        return self.moved or any(
            active is not None and other != active and other.remote == active.remote
            for other in self.tunnels
        )

    def next_state(self, policy: SessionPolicy) -> tuple[SessionState, Instant] | None:
        """What it becomes, and when, if nothing is heard until then; None: it stays so."""
        if self.state is not SessionState.ATTACHED:
            return policy.patience_with(self.identity).after(self.state, self.left)
        heard = self.since if self.heard is None else self.heard
        return SessionState.AWAY, Instant(heard + policy.detach_after)
