"""The device's networks as the kernel's messages so far describe them.

Some of what ends, no message tells: the routes of a link that goes down, those of its last IPv4
address, the one that another replaces. Here is known what goes along with what.
"""

from collections.abc import Collection, Iterable

from orchestrator.core.network import Gateway, Link, LinkAddress, Snapshot
from orchestrator.core.quantities import IPAddress


class Picture:
    """Methods that take news in say whether it was any."""

    def __init__(self) -> None:
        self._links: dict[int, Link] = {}
        self._addresses: dict[tuple[int, IPAddress], LinkAddress] = {}
        self._gateways: frozenset[Gateway] = frozenset()

    def snapshot(self) -> Snapshot:
        return Snapshot(
            frozenset(self._links.values()),
            frozenset(self._addresses.values()),
            self._gateways,
        )

    def link_name(self, index: int) -> str | None:
        """None: there is no such link."""
        link = self._links.get(index)
        return None if link is None else link.name

    def has_ipv4(self, link: int) -> bool:
        return any(index == link and each.version == 4 for index, each in self._addresses)

    def link_is(self, link: Link, *, switched_on: bool) -> bool:
        """`switched_on` is whether it is up administratively, with a carrier or without."""
        changed = self._links.get(link.index) != link
        self._links[link.index] = link
        if not switched_on:
            # The kernel removes IPv4 routes of a link that goes down without saying so
            # (net/ipv4/fib_frontend.c, fib_disable_ip sends no RTM_DELROUTE).
            changed |= self._forget_gateways(link.index)
        return changed

    def link_gone(self, index: int) -> bool:
        self._forget_gateways(index)
        for key in [key for key in self._addresses if key[0] == index]:
            del self._addresses[key]
        return self._links.pop(index, None) is not None

    def address_is(self, entry: LinkAddress) -> bool:
        key = (entry.link, entry.address)
        changed = self._addresses.get(key) != entry
        self._addresses[key] = entry
        return changed

    def address_gone(self, entry: LinkAddress) -> bool:
        known = self._addresses.pop((entry.link, entry.address), None) is not None
        if entry.address.version == 4 and not self.has_ipv4(entry.link):
            # With the last address go all IPv4 routes of the link, and no message tells of it
            # (net/ipv4/fib_frontend.c, fib_disable_ip).
            known |= self._forget_gateways(entry.link, version=4)
        return known

    def gateways_are(self, told: Collection[Gateway], *, replace: bool) -> bool:
        """`told` are those of one route; whether it replaces another."""
        replaced = (old for old in self._gateways if any(_replaces(each, old) for each in told))
        kept = self._gateways.difference(replaced if replace else ())
        return self.take_gateways(kept.union(told))

    def gateways_gone(self, told: Iterable[Gateway]) -> bool:
        return self.take_gateways(self._gateways.difference(told))

    def take_gateways(self, told: Iterable[Gateway]) -> bool:
        """Takes them for all there are."""
        before, self._gateways = self._gateways, frozenset(told)
        return self._gateways != before

    def _forget_gateways(self, index: int, version: int | None = None) -> bool:
        return self.gateways_gone(
            gateway
            for gateway in self._gateways
            if gateway.link == index and version in (None, gateway.version)
        )


def _replaces(fresh: Gateway, old: Gateway) -> bool:
    """The kernel says what replaces a route, not which: in IPv4 the one of this metric, in IPv6
    one of this metric and link."""
    alike = (old.version, old.metric) == (fresh.version, fresh.metric)
    return alike and (fresh.version == 4 or old.link == fresh.link)
