"""Which network asks for a sign-in, and the one way that is open for it.

Asking is a plain-HTTP request of the operator's choosing, with an answer that is known before.
The rules, each with the method that keeps it:

1. A point of presence is asked about when it is new and has no tunnel, and when the server is
   silent there; again after a growing pause, while that is so or a portal was found (`_wanted`,
   `_ask`). One request at a time for each; what comes of one that was made before the place was
   left says nothing, as who returns may be in another network of the same addresses.
2. An unexpected answer is a portal's. Silence says nothing: what was known before stays
   (`_answered`).
3. Once the expected answer comes where a portal was, all that is known against the place is
   forgotten: the next negotiation begins at once (`_answered`).
4. Where a tunnel was negotiated, or answers, nothing has to be asked (`_settled`).
5. The way to sign in is one at a time, over a link without a tunnel, from the addresses that it
   has then (`_requested`).
6. It closes when a tunnel comes up over its link, when its addresses are gone, when its time is
   over, and when whoever asked for it has left (`_look_at_the_way`, `_left`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from orchestrator.core.attempts import Attempts
from orchestrator.core.ike import IkeFailure
from orchestrator.core.mobility_events import AnyReason, Effect, Reason, Tell
from orchestrator.core.paths import Path
from orchestrator.core.places import Places
from orchestrator.core.portal_events import (
    AskPortal,
    CloseWay,
    Finding,
    OpenWay,
    PortalAnswered,
    PortalEvent,
    PortalReason,
    WayLeft,
    WayRequested,
)
from orchestrator.core.quantities import Instant, IPAddress, LinkIndex, Seconds
from orchestrator.core.tunnels import Held, Tunnels

FIRST_PAUSE: Final = Seconds(5.0)
"""Between two requests at the same point of presence; a person needs longer to sign in."""
LONGEST_PAUSE: Final = Seconds(60.0)
"""It doubles up to here: who signed in with another program waits no longer than a minute."""
QUICK_PAUSE: Final = Seconds(2.0)
"""The same while the way is open there: somebody signs in now."""
BLOCKED: Final = (IkeFailure.SILENT, IkeFailure.UNREACHABLE)
"""How negotiations fail where a network lets nobody through."""


@dataclass(frozen=True, slots=True)
class PortalPolicy:
    """What the operator configured, as far as portals are concerned."""

    versions: frozenset[int] = frozenset()
    """Of IP, by which the expected answer can be had; empty: nobody is asked."""
    way: Seconds = Seconds(600.0)
    """How long the way to sign in stays open at most."""


@dataclass(frozen=True, slots=True)
class Presence:
    """A point of presence: what a network knows us by."""

    link: LinkIndex
    pop: IPAddress


def presence_of(path: Path) -> Presence:
    return Presence(path.link, path.pop)


@dataclass(slots=True)
class _Known:
    """About one point of presence."""

    next_at: Instant
    """Not asked again before."""
    asked: bool = False
    request: int | None = None
    """The one under way."""
    portal: bool = False
    pause: Seconds = FIRST_PAUSE


@dataclass(frozen=True, slots=True)
class Way:
    number: int
    paths: tuple[Path, ...]
    until: Instant

    @property
    def link_name(self) -> str:
        return self.paths[0].link_name


class Portals:
    """Of one endpoint. `hears` takes news in, `look` follows every piece of news."""

    def __init__(
        self, policy: PortalPolicy, places: Places, tunnels: Tunnels, attempts: Attempts
    ) -> None:
        self.deadline: Instant | None = None
        """When to `look` again if nothing else happens."""
        self.way: Way | None = None
        """The one that is open."""
        self._policy = policy
        self._places = places
        self._tunnels = tunnels
        self._attempts = attempts
        self._known: dict[Presence, _Known] = {}
        self._requests: dict[int, Presence] = {}
        """Those under way, also about places that were left."""
        self._asked = 0
        self._active: Held | None = None
        """The tunnel with the traffic, at the latest news."""
        self._opened = 0
        self._begun = False

    # For reading

    def at(self, path: Path) -> bool:
        """Whether the network there wants somebody to sign in."""
        known = self._known.get(presence_of(path))
        return known is not None and known.portal

    def among(self, reasons: Iterable[AnyReason]) -> frozenset[AnyReason]:
        """The reasons for having no tunnel, with the portal exactly when there is one."""
        found = frozenset(
            {PortalReason.PORTAL} if any(map(self.at, self._places.paths)) else ()
        )
        return (frozenset(reasons) - {PortalReason.PORTAL}) | found

    # News

    def hears(
        self, event: PortalEvent, active: Held | None, now: Instant
    ) -> tuple[Effect, ...]:
        self._active = active
        match event:
            case PortalAnswered():
                return self._answered(event)
            case WayRequested(link_name):
                return self._requested(link_name, now)
            case WayLeft(number):
                return self._left(number)

    def look(self, active: Held | None, now: Instant) -> tuple[Effect, ...]:
        """What is to be done now; `deadline` is right until the next look.

        The first is at the start, when nobody is there yet who could ask: it is for the next.
        """
        self._active = active
        if not self._begun:
            self._begun, self.deadline = True, now
            return ()
        here: dict[Presence, Path] = {}
        for path in self._places.paths:
            here.setdefault(presence_of(path), path)
        self._known = {at: known for at, known in self._known.items() if at in here}
        effects: list[Effect] = [*self._look_at_the_way(here.keys(), now)]
        times = [self.way.until] if self.way is not None else []
        for presence, path in here.items():
            if path.pop.version not in self._policy.versions:
                continue
            known = self._known.setdefault(presence, _Known(now))
            if self._settled(path):
                self._known[presence] = _Known(now, asked=True)
            elif presence not in self._requests.values() and self._wanted(known, path):
                if known.next_at <= now:
                    effects.append(self._ask(known, path, now))
                else:
                    times.append(known.next_at)
        self.deadline = min(times, default=None)
        return tuple(effects)

    # Asking

    def _wanted(self, known: _Known, path: Path) -> bool:
        """Rule 1."""
        failure = self._attempts.failure_of(path)
        blocked = failure is not None and failure[0] in BLOCKED
        return not known.asked or blocked or known.portal

    def _ask(self, known: _Known, path: Path, now: Instant) -> AskPortal:
        self._asked += 1
        self._requests[self._asked] = presence_of(path)
        known.asked, known.request = True, self._asked
        quick = self.way is not None and path.link == self.way.paths[0].link
        known.next_at = Instant(now + (QUICK_PAUSE if quick else known.pause))
        known.pause = Seconds(min(2 * known.pause, LONGEST_PAUSE))
        return AskPortal(self._asked, path)

    def _answered(self, event: PortalAnswered) -> tuple[Effect, ...]:
        """Rules 2 and 3."""
        presence = self._requests.pop(event.number, None)
        here = [path for path in self._places.paths if presence_of(path) == presence]
        known = self._known.get(presence) if presence is not None else None
        if known is None or known.request != event.number or not here:
            return ()
        known.request, before = None, known.portal
        if event.finding is not Finding.SILENT:
            known.portal = event.finding is Finding.PORTAL
        if known.portal is before:
            return ()
        if known.portal:
            why = frozenset({PortalReason.PORTAL})
            return (Tell("portal", why, here[0], {"detail": event.detail}),)
        for path in here:
            self._attempts.forgive(path)
        return (Tell("signed-in", frozenset({Reason.ANSWERED}), here[0]),)

    def _settled(self, path: Path) -> bool:
        """Rule 4. An optimistic move alone proves nothing; nor does a tunnel that was left
        because it is silent."""
        return any(
            presence_of(held.path) == presence_of(path)
            and held.retire_at is None
            and (held.answered or not held.moved)
            and (held is self._active or not self._attempts.silent(held.path))
            for held in self._tunnels.held
        )

    # The way

    def _requested(self, link_name: str | None, now: Instant) -> tuple[Effect, ...]:
        """Rule 5."""
        if self.way is not None:
            return (_refused(PortalReason.ALREADY_OPEN, self.way.link_name),)
        paths = [p for p in self._places.paths if link_name in (None, p.link_name)]
        if not paths:
            return (_refused(Reason.NO_SUCH_PATH, link_name),)
        free = [path for path in paths if not self._link_settled(path.link)]
        if not free:
            return (_refused(PortalReason.TUNNEL_UP, link_name),)
        first = next(filter(self.at, free), free[0])
        by_version = {
            path.pop.version: path for path in reversed(free) if path.link == first.link
        }
        self._opened += 1
        chosen = tuple(by_version[version] for version in sorted(by_version))
        self.way = Way(self._opened, chosen, Instant(now + self._policy.way))
        for path in chosen:
            if (known := self._known.get(presence_of(path))) is not None:
                known.next_at = min(known.next_at, Instant(now + QUICK_PAUSE))
        why = frozenset({Reason.OPERATOR})
        told = Tell("way-opened", why, first, {"limit_s": self._policy.way})
        return (told, OpenWay(self._opened, chosen, self._policy.way))

    def _link_settled(self, link: LinkIndex) -> bool:
        return any(self._settled(path) for path in self._places.paths if path.link == link)

    def _look_at_the_way(self, here: Iterable[Presence], now: Instant) -> tuple[Effect, ...]:
        """Rule 6."""
        if self.way is None:
            return ()
        if self._link_settled(self.way.paths[0].link):
            return self._close(self.way, PortalReason.TUNNEL_UP)
        if not set(map(presence_of, self.way.paths)) <= set(here):
            return self._close(self.way, PortalReason.NETWORK_GONE)
        if now >= self.way.until:
            return self._close(self.way, PortalReason.TIME_OVER)
        return ()

    def _left(self, number: int) -> tuple[Effect, ...]:
        """A late one, of a way that is closed already, is nothing."""
        if self.way is None or self.way.number != number:
            return ()
        return self._close(self.way, PortalReason.LEFT)

    def _close(self, way: Way, why: PortalReason) -> tuple[Effect, ...]:
        self.way = None
        told = Tell("way-closed", frozenset({why}), way.paths[0])
        return (CloseWay(way.number, why), told)


def _refused(why: AnyReason, link_name: str | None) -> Tell:
    fields = {} if link_name is None else {"link": link_name}
    return Tell("way-refused", frozenset({why}), None, fields)
