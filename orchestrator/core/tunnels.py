"""The tunnels that we have: where each leads, what it has proved, what charon tells of it.

The rules, each with the method that keeps it:

1. A tunnel can be moved when its own place is gone, to an address of the same family and
   towards the same address of the server, if it was heard not too long ago (`movable`).
2. One that we moved is where we moved it to: what charon tells of its addresses is older. Any
   other is followed to where charon has it, if that is a usable path, which a virtual address
   never is (`_follow`).
3. A charon that was just found knows a tunnel by its SPI. What it does not know it cannot
   rekey or end: that has to be renewed, and has no number any more (`compare`).
4. A tunnel that retires receives until its time is over, and is used for nothing else
   (`latest`, `over`).
5. Each has a slot that no other one has, by which its probes are told apart (`take`).
6. Where both sides rekey a CHILD_SA at the same time charon may name two successors, one after
   the other; the last one counts (`rekeyed`).
7. The SAs of one that was moved are ours to bury: charon, which ends or replaces them, does not
   find them (`rekeyed`, `ended`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from orchestrator.core.ike import IkeMoved, Tunnel
from orchestrator.core.liveness import Liveness
from orchestrator.core.mobility_events import Bury, Reason
from orchestrator.core.paths import Path
from orchestrator.core.places import Places, place_of
from orchestrator.core.quantities import Instant, Seconds, UniqueId

MOVE_HORIZON: Final = Seconds(600.0)
"""A tunnel unheard for longer is not moved: a NAT, a rekeying or an operator at the server may
have ended it, and what is released into it would be lost. IKE costs two round trips."""


@dataclass(slots=True)
class Held:
    """A tunnel we have, and where it leads."""

    tunnel: Tunnel
    path: Path
    since: Instant
    heard: Instant
    """When data was last seen through it."""
    liveness: Liveness
    slot: int
    watched: bool = False
    """It is kept warm: probes of its own say whether it works (`core.warmth`)."""
    answered: bool = False
    """A probe came back through it, where it leads now."""
    moved: bool = False
    """Its SAs lead elsewhere than charon believes."""
    renew: Reason | None = None
    """Why it is to be negotiated anew although it works."""
    retire_at: Instant | None = None
    """It lost the traffic, and ends then."""
    replaced: UniqueId | None = None
    """The CHILD_SA before its present one."""

    @property
    def unproven(self) -> bool:
        """Negotiated here, and never a sign of data."""
        return not self.answered and not self.moved

    def move(self, path: Path) -> None:
        """Its SAs were rewritten to lead along this path."""
        self.tunnel = replace(self.tunnel, local=path.pop)
        self.path, self.moved, self.answered = path, True, False
        self.liveness.srtt = None  # that was another network's


class Tunnels:
    """`held` is everything there is; the methods find in it, and take news of charon in."""

    def __init__(self, places: Places) -> None:
        self.held: list[Held] = []
        self._places = places

    def take(self, tunnel: Tunnel, path: Path, now: Instant, liveness: Liveness) -> Held:
        """One more."""
        taken = {held.slot for held in self.held}
        slot = next(number for number in count() if number not in taken)
        held = Held(tunnel, path, now, now, liveness, slot)
        self.held.append(held)
        return held

    # Finding

    def at(self, path: Path) -> Tunnel | None:
        """One that leads along a path of the same place; the youngest that does not retire."""
        place = place_of(path)
        here = [held for held in self.held if place_of(held.path) == place]
        here.sort(key=lambda held: (held.retire_at is None, held.since))
        return here[-1].tunnel if here else None

    def of(self, ike: UniqueId, child: UniqueId | None) -> tuple[Held, ...]:
        """Those of this IKE_SA; with a CHILD_SA, that one alone."""
        return tuple(
            h for h in self.held if h.tunnel.ike == ike and child in (None, h.tunnel.child)
        )

    def latest(self) -> list[Held]:
        """Those that do not retire, last heard first."""
        staying = [held for held in self.held if held.retire_at is None]
        return sorted(staying, key=lambda held: held.heard, reverse=True)

    def movable(self, path: Path, now: Instant) -> Held | None:
        """Rule 1: the last heard of those that can be moved to this path."""
        return next((held for held in self.latest() if self._fits(held, path, now)), None)

    def over(self, now: Instant) -> tuple[Held, ...]:
        """Those that have retired long enough."""
        return tuple(h for h in self.held if h.retire_at is not None and h.retire_at <= now)

    def _fits(self, held: Held, path: Path, now: Instant) -> bool:
        return (
            now - held.heard < MOVE_HORIZON
            and self._places.at(held.path) is None
            and held.tunnel.local.version == path.pop.version
            and held.tunnel.remote == path.server
        )

    # What charon tells

    def rekeyed(self, old: UniqueId, tunnel: Tunnel) -> tuple[Bury, ...]:
        """Rules 6 and 7. charon tells of the other side's successor when it answers, and of its
        own when that is answered and has won (child_rekey.c, build_r and handle_collision)."""
        buried: list[Bury] = []
        for held in self.of(tunnel.ike, None):
            if old in (held.tunnel.child, held.replaced):
                buried += _buried(held)
                held.replaced = old
                self._follow(held, tunnel)
        return tuple(buried)

    def ended(self, held: Held) -> tuple[Bury, ...]:
        """charon has ended it."""
        self.held.remove(held)
        return _buried(held)

    def ike_rekeyed(self, old: UniqueId, new: UniqueId) -> None:
        for held in self.of(old, None):
            held.tunnel = replace(held.tunnel, ike=new)

    def ike_moved(self, event: IkeMoved) -> None:
        for held in self.of(event.ike, None):
            if not held.moved:
                elsewhere = replace(
                    held.tunnel,
                    local=event.local,
                    local_port=event.local_port,
                    remote=event.remote,
                    remote_port=event.remote_port,
                )
                self._follow(held, elsewhere)

    def compare(self, known: Sequence[Tunnel]) -> tuple[Tunnel, ...]:
        """Rule 3. `known` is all that charon has; returns what of it is none of these."""
        by_spi = {tunnel.spi_out: tunnel for tunnel in known}
        for held in self.held:
            found = by_spi.pop(held.tunnel.spi_out, None)
            if found is None:
                held.renew = Reason.CHARON_RESTARTED
                # A new charon counts from 1 again: by its number another would be ended.
                held.tunnel = replace(held.tunnel, ike=UniqueId(0), child=UniqueId(0))
                continue
            # A predecessor moved it: policy and SAs are where we found them, charon is behind.
            here = (held.tunnel.local, held.tunnel.remote)
            held.moved = held.moved or (found.local, found.remote) != here
            held.renew = None
            self._follow(held, found)
        ours = {held.tunnel.ike for held in self.held}
        # Another CHILD_SA under an IKE_SA of ours is one that a rekeying left to end by itself.
        return tuple(tunnel for tunnel in by_spi.values() if tunnel.ike not in ours)

    def _follow(self, held: Held, told: Tunnel) -> None:
        """Rule 2."""
        path = None if held.moved else self._places.between(told.local, told.remote)
        if path is None:
            here = held.tunnel
            held.tunnel = replace(told, local=here.local, remote=here.remote)
        else:
            held.tunnel, held.path = told, path


def _buried(held: Held) -> tuple[Bury, ...]:
    return (Bury(held.tunnel),) if held.moved else ()
