"""What the server knows of one endpoint; `core.sessions` decides about it.

A tunnel gets a slot when the endpoint first asks whether it works while it is idle, and keeps
it until the tunnel ends, whatever its SPI and place become. A slot costs a policy for each
virtual address: 1 KiB of the kernel, and 25 µs whenever the tunnel changes. So whoever has one
link, or moves with it, has none.
"""

from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.absence import SessionPolicy, SessionState
from orchestrator.core.ike import Tunnel
from orchestrator.core.kernel import KernelObject, Template
from orchestrator.core.quantities import Instant, IPAddress, Spi, UniqueId, follows
from orchestrator.core.server_state import session_objects
from orchestrator.core.session_events import SessionReason

MAX_TUNNELS: Final = 8
"""Per session; beyond it the oldest idle one is deleted: nobody needs more links."""


@dataclass(slots=True)
class Probed:
    """What the probes that named a tunnel told of it."""

    heard: Instant
    slot: int | None = None
    """Below MAX_TUNNELS; None: nobody asked whether it works while it is idle."""


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
    probed: dict[UniqueId, Probed] = field(default_factory=dict)
    """By CHILD_SA; only tunnels that are there, and were named by a probe."""

    def objects(self) -> tuple[KernelObject, ...]:
        reqid = self.tunnels[-1].reqid if self.tunnels else None
        template = None
        if self.active is not None and self.following is None:
            tunnel = self.active
            spi = tunnel.spi_out if self.may_be_joined else None
            template = Template(tunnel.local, tunnel.remote, tunnel.reqid, spi)
        warm = {
            slot: Template(tunnel.local, tunnel.remote, tunnel.reqid, tunnel.spi_out)
            for tunnel in self.tunnels
            if (slot := self.slot_of(tunnel)) is not None
        }
        return session_objects(self.vips, reqid, template, warm)

    def named(self, spi: Spi, now: Instant) -> Tunnel | None:
        """The tunnel that a probe names by its outbound SPI."""
        tunnel = next((tunnel for tunnel in self.tunnels if tunnel.spi_out == spi), None)
        if tunnel is not None:
            self.probed.setdefault(tunnel.child, Probed(now)).heard = now
        return tunnel

    def slot_of(self, tunnel: Tunnel) -> int | None:
        probed = self.probed.get(tunnel.child)
        return None if probed is None else probed.slot

    def give_slot(self, tunnel: Tunnel) -> int | None:
        """To one that was named, and has none. None: tunnels beyond MAX_TUNNELS, which were
        told to end, have not yet."""
        taken = {probed.slot for probed in self.probed.values()}
        free = next((slot for slot in range(MAX_TUNNELS) if slot not in taken), None)
        self.probed[tunnel.child].slot = free
        return free

    def is_latest(self, flip: int, sequence: int) -> bool:
        """Whether no probe that counts was sent after the one with these numbers."""
        if self.flip is None or follows(flip, self.flip):
            return True
        return flip == self.flip and follows(sequence, self.sequence)

    def superseded_by(self, tunnel: Tunnel) -> list[Tunnel]:
        """Older ones to the same address and port."""
        there = tunnel.remote, tunnel.remote_port
        elder = self.tunnels[: self.tunnels.index(tunnel)]
        return [other for other in elder if (other.remote, other.remote_port) == there]

    def unsettle(self, spi_in: Spi, until: Instant) -> None:
        """charon is rewriting the SAs of the tunnel with this inbound one."""
        for tunnel in self.tunnels:
            if tunnel.spi_in == spi_in:
                self.unsettled[tunnel.spi_out] = until

    def is_settled(self, tunnel: Tunnel, now: Instant) -> bool:
        """Whether its SAs lead where we believe: charon is not rewriting them."""
        if tunnel == self.active:
            return self.following is None
        return self.unsettled.get(tunnel.spi_out, now) <= now

    def replace(self, known: Tunnel, tunnel: Tunnel) -> None:
        """The same tunnel, of which something else is true now."""
        self.tunnels[self.tunnels.index(known)] = tunnel
        if known.spi_out != tunnel.spi_out:
            self.unsettled.pop(known.spi_out, None)
        if known.child in self.probed:
            self.probed[tunnel.child] = self.probed.pop(known.child)
        if self.active == known:
            self.active = tunnel

    def forget(self, tunnel: Tunnel) -> None:
        """It ended."""
        self.tunnels.remove(tunnel)
        self.unsettled.pop(tunnel.spi_out, None)
        self.probed.pop(tunnel.child, None)

    def forget_all(self) -> None:
        self.tunnels.clear()
        self.unsettled.clear()
        self.probed.clear()

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
