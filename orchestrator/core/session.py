"""What the server knows of one endpoint; `core.sessions` decides about it.

A tunnel gets a slot when the endpoint first asks whether it works while it is idle, and keeps
it until the tunnel ends, whatever its SPI and place become. A slot costs a policy for each
virtual address: 1 KiB of the kernel, and 25 µs whenever the tunnel changes. So whoever has one
link, or moves with it, has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.absence import SessionPolicy, SessionState
from orchestrator.core.ike import Tunnel
from orchestrator.core.kernel import SLOTS, KernelObject, Template
from orchestrator.core.quantities import Instant, IPAddress, Seconds, Spi, UniqueId, follows
from orchestrator.core.server_state import session_objects
from orchestrator.core.session_events import Heard, SessionReason
from orchestrator.core.warmth import ASK

MAX_TUNNELS: Final = SLOTS
"""Per session; beyond it the oldest idle one is deleted: nobody needs more links."""


UNASKED: Final = Seconds(2.5 * ASK)
"""Without a probe that names it an idle tunnel ends: an endpoint asks for those that it keeps,
and gives up itself what it has asked for again and again for seconds."""


@dataclass(slots=True)
class Known:
    """What is known of a tunnel besides."""

    since: Instant
    heard: Instant | None = None
    """When a probe named it; None: none has."""
    slot: int | None = None
    """Below MAX_TUNNELS; None: nobody asked whether it works while it is idle."""
    carries: int | None = None
    """The flip with which the endpoint said that flows take it; None: it did not, or not since
    it took that back."""


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
    flipped: Instant = Instant(0.0)
    """When that was heard."""
    sequence: int = 0
    """Of the newest probe of this flip."""
    heard: Instant | None = None
    within: Seconds | None = None
    """After the newest probe, so soon wants the endpoint to be heard again; None: it did not
    say."""
    limit: int | None = None
    """The largest packet that its path carries, if that is less than what we send anyway."""
    roams: int = 0
    """Attachments at another place than the one before; the first is none. The endpoint counts
    the same (`core.record`)."""
    place: tuple[IPAddress, IPAddress] | None = None
    """Ours and the address that it came from, when it was attached last."""
    moved: bool = False
    """The active tunnel was followed to another place, where the endpoint replaces it soon."""
    following: Instant | None = None
    """Until when packets are held because charon is rewriting the SAs."""
    unsettled: dict[Spi, Instant] = field(default_factory=dict)
    """Tunnels, by outbound SPI, that carry no traffic and whose SAs charon is rewriting: until
    when that is believed."""
    awaited: Heard | None = None
    """By this the endpoint has activated one of them already; it is answered when that is
    settled."""
    unfollowed: Spi | None = None
    """The inbound SA whose sender has moved without charon following."""
    unsent: dict[UniqueId, Spi] = field(default_factory=dict)
    """By CHILD_SA whose outbound SA charon has not installed yet: the one before it."""
    replaced: dict[UniqueId, UniqueId] = field(default_factory=dict)
    """By CHILD_SA, the one before it."""
    known: dict[UniqueId, Known] = field(default_factory=dict)
    """By CHILD_SA: each of the tunnels."""

    def objects(self) -> tuple[KernelObject, ...]:
        reqid = self.tunnels[-1].reqid if self.tunnels else None
        template = None
        if self.active is not None and self.following is None:
            tunnel = self.active
            spi = self.sent_on(tunnel) if self.may_be_joined else None
            template = Template(tunnel.local, tunnel.remote, tunnel.reqid, spi)
        warm = {
            slot: Template(tunnel.local, tunnel.remote, tunnel.reqid, self.sent_on(tunnel))
            for tunnel in self.tunnels
            if (slot := self.slot_of(tunnel)) is not None
        }
        flows = {slot: warm[slot] for slot in self.carrying.values()}
        return session_objects(self.vips, reqid, template, warm, self.limit, flows)

    @property
    def carrying(self) -> Mapping[Spi, int]:
        """The tunnels beside the active one that flows take: inbound SPI, slot."""
        return {
            tunnel.spi_in: slot
            for tunnel in self.tunnels
            if (slot := self.slot_of(tunnel)) is not None
            and self.known[tunnel.child].carries is not None
        }

    def carries(self, tunnel: Tunnel, flip: int, *, carries: bool) -> bool:
        """The endpoint says so with this flip; one that was overtaken by a later flip is not
        believed. Returns whether that is news. `named` and `give_slot` came before."""
        known = self.known[tunnel.child]
        if self.flip is not None and follows(self.flip, flip):
            return False
        before, known.carries = known.carries, flip if carries else None
        return (before is None) is carries

    def carry_no_more(self, until: int | None = None) -> bool:
        """What was said before this flip counts no more; None: whatever was said. Returns
        whether anything was."""
        before = self.carrying
        for known in self.known.values():
            told = known.carries
            if told is not None and (until is None or follows(until, told)):
                known.carries = None
        return self.carrying != before

    def add(self, tunnel: Tunnel, now: Instant) -> None:
        """One more; the youngest."""
        self.tunnels.append(tunnel)
        self.known[tunnel.child] = Known(now)

    def unasked(self, now: Instant) -> list[Tunnel]:
        """Idle ones that the endpoint does not ask for any more although it is here: it has
        lost them, with their link or in a crash, and could not tell us."""
        if self.state is not SessionState.ATTACHED:
            return []
        idle = [tunnel for tunnel in self.tunnels if tunnel != self.active]
        return [tunnel for tunnel in idle if self._last_asked(tunnel) + UNASKED <= now]

    def _last_asked(self, tunnel: Tunnel) -> Instant:
        known = self.known[tunnel.child]
        return max(self.since, known.since if known.heard is None else known.heard)

    def named(self, spi: Spi, now: Instant) -> Tunnel | None:
        """The tunnel that a probe names by its outbound SPI."""
        tunnel = next((tunnel for tunnel in self.tunnels if tunnel.spi_out == spi), None)
        if tunnel is not None:
            self.known[tunnel.child].heard = now
        return tunnel

    def is_or_was(self, tunnel: Tunnel, child: UniqueId) -> bool:
        """Whether this is its CHILD_SA, or the one before."""
        return child in (tunnel.child, self.replaced.get(tunnel.child))

    def sent_on(self, tunnel: Tunnel) -> Spi:
        """Its outbound SA. A policy that named one which is not there yet would have the kernel
        reserve the SPI, and charon could not install it (xfrm_state_find, xfrm_state_add)."""
        return self.unsent.get(tunnel.child, tunnel.spi_out)

    def slot_of(self, tunnel: Tunnel) -> int | None:
        return self.known[tunnel.child].slot

    def give_slot(self, tunnel: Tunnel) -> int | None:
        """To one that was named, and has none. None: tunnels beyond MAX_TUNNELS, which were
        told to end, have not yet."""
        taken = {known.slot for known in self.known.values()}
        free = next((slot for slot in range(MAX_TUNNELS) if slot not in taken), None)
        self.known[tunnel.child].slot = free
        return free

    def is_latest(self, flip: int, sequence: int) -> bool:
        """Whether no probe that counts was sent after the one with these numbers."""
        if self.flip is None or follows(flip, self.flip):
            return True
        return flip == self.flip and follows(sequence, self.sequence)

    def is_fresh(self, tunnel: Tunnel) -> bool:
        """Whether it came after the latest flip: no probe out of it was overtaken by that one.
        So an endpoint that has lost count is heard all the same."""
        return tunnel != self.active and self.known[tunnel.child].since > self.flipped

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
        self.known[tunnel.child] = self.known.pop(known.child)
        if self.active == known:
            self.active = tunnel

    def rekeyed(self, known: Tunnel, tunnel: Tunnel, *, old: UniqueId, unsent: bool) -> None:
        """Another CHILD_SA in its place."""
        before = self.sent_on(known)
        self.replace(known, tunnel)
        self.replaced.pop(known.child, None)
        self.unsent.pop(known.child, None)
        self.replaced[tunnel.child] = old
        if unsent:
            self.unsent[tunnel.child] = before

    def forget(self, tunnel: Tunnel) -> None:
        """It ended."""
        self.tunnels.remove(tunnel)
        self.unsettled.pop(tunnel.spi_out, None)
        self.unsent.pop(tunnel.child, None)
        self.replaced.pop(tunnel.child, None)
        self.known.pop(tunnel.child, None)
        if self.awaited is not None and self.awaited.spi == tunnel.spi_out:
            self.awaited = None

    def forget_all(self) -> None:
        self.awaited = None
        self.tunnels.clear()
        self.unsettled.clear()
        self.unsent.clear()
        self.replaced.clear()
        self.known.clear()

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
        return SessionState.AWAY, Instant(heard + policy.silence(self.within))
