"""An endpoint's dealings with networks that ask for a sign-in: asks, opens, closes, reports.

What is asked when, and what stays open how long, `core.portal` decides.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from orchestrator.adapters.resolvers import resolvers_of
from orchestrator.config.endpoint import Portal
from orchestrator.core.metric import Metric, counters, gauge
from orchestrator.core.mobility_events import Effect, Event, Tell
from orchestrator.core.mobility_view import MobilityView
from orchestrator.core.portal_events import (
    AskPortal,
    CloseWay,
    OpenWay,
    PortalEffect,
    PortalReason,
    WayLeft,
    WayRequested,
)
from orchestrator.core.quantities import Instant
from orchestrator.services import portal_probe
from orchestrator.services.driver import Driver
from orchestrator.services.journal import Journal
from orchestrator.services.portal_way import Carried, Way
from orchestrator.services.tasks import Tasks
from orchestrator.wire.control import Refused


class SignIn:
    """Of one endpoint."""

    def __init__(
        self,
        config: Portal,
        machine: MobilityView,
        driver: Driver[Event, Effect],
        journal: Journal,
    ) -> None:
        self._config = config
        self._machine = machine
        self._driver = driver
        self._journal = journal
        self._carried = Carried()
        """By every way so far."""
        self._way: Way | None = None
        """The one that is open, or the latest."""

    def carry_out(self, effect: PortalEffect, tasks: Tasks) -> None:
        match effect:
            case AskPortal():
                tasks.begin(self._ask(effect), f"ask through {effect.path.link_name}")
            case OpenWay():
                self._way = Way(
                    effect,
                    self._config.ports,
                    lambda: self._machine.vips,
                    self._carried,
                )
            case CloseWay(number, why):
                if self._way is not None and self._way.number == number:
                    self._way.close(why)

    async def _ask(self, order: AskPortal) -> None:
        answer = await portal_probe.ask(self._config, order)
        self._journal.count(f"portal-probe-{answer.finding}")
        self._driver.post(answer)

    @asynccontextmanager
    async def way(self, link: str | None) -> AsyncIterator[Way]:
        """One that was asked for, open until the context ends, or longer than it. Raises
        Refused."""
        told = await self._driver.handle(WayRequested(link))
        way = self._way if any(isinstance(effect, OpenWay) for effect in told) else None
        if way is None:
            raise refusal(told, link)
        try:
            way.look_names_up_at(await resolvers_of(way.link, way.link_name))
            yield way
        finally:
            self._driver.post(WayLeft(way.number))

    # For people

    def report(self, now: Instant) -> dict[str, object] | None:
        """What is open now."""
        way = self._machine.portals.way
        if way is None:
            return None
        return {"link": way.link_name, "left_s": round(way.until - now, 3)}

    def warnings(self) -> list[str]:
        machine = self._machine
        links = dict.fromkeys(p.link_name for p in machine.paths if machine.portals.at(p))
        remedy = f"-- firefox {self._config.url}"
        return [
            f"{link} wants a sign-in: orchestrator portal {link} {remedy}" for link in links
        ]

    def metrics(self) -> Iterable[Metric]:
        portals, paths = self._machine.portals, self._machine.paths
        found = len({path.link for path in paths if portals.at(path)})
        yield gauge("portals", "Links whose network wants a sign-in.", found)
        about = "1 while the way to sign in is open."
        yield gauge("portal_way_open", about, float(portals.way is not None))
        about = "What the way to sign in carried, and what it did not."
        yield counters("portal_way", about, "what", self._carried.counted())


def refusal(told: Iterable[Effect], link: str | None) -> Refused:
    """Why the machine did not open one."""
    reasons = {reason for tell in told if isinstance(tell, Tell) for reason in tell.reasons}
    if PortalReason.ALREADY_OPEN in reasons:
        return Refused("a way to sign in is open already", "use it, or end its program")
    if PortalReason.TUNNEL_UP in reasons:
        where = f"over {link}" if link else "already"
        return Refused(
            f"there is a tunnel {where}: nobody has to sign in", "see `orchestrator status`"
        )
    where = f" over {link}" if link else ""
    return Refused(f"no usable path{where}", "`orchestrator paths` lists them")
