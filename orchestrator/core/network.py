"""The device's own view of its networks: a snapshot, and what changed between two of them.

A snapshot is complete and says nothing about good or bad; `core.paths` judges it. A change
carries its reasons as a set, in the words that log, `watch` and `status` print.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.core.quantities import IPAddress, LinkIndex


@dataclass(frozen=True, slots=True)
class Link:
    index: LinkIndex
    name: str
    up: bool
    """Administratively up and with a carrier."""


@dataclass(frozen=True, slots=True)
class LinkAddress:
    link: LinkIndex
    address: IPAddress
    usable: bool
    """Global scope, and neither tentative, deprecated nor a detected duplicate."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A default route of the main table: how a link reaches everything else."""

    link: LinkIndex
    version: int
    address: IPAddress | None
    """None on a point-to-point link, where the device itself is the way."""
    metric: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    links: frozenset[Link] = field(default_factory=frozenset)
    addresses: frozenset[LinkAddress] = field(default_factory=frozenset)
    gateways: frozenset[Gateway] = field(default_factory=frozenset)


class Change(StrEnum):
    """What is different; the reason that a roam gives."""

    LINK_UP = "link-up"
    LINK_DOWN = "link-down"
    LINK_NEW = "link-new"
    LINK_GONE = "link-gone"
    ADDRESS_NEW = "address-new"
    ADDRESS_GONE = "address-gone"
    GATEWAY_NEW = "gateway-new"
    GATEWAY_GONE = "gateway-gone"
    SERVER_ADDRESSES = "server-addresses"
    """The server is known to be elsewhere, or also elsewhere: by its name, or by NAT64."""


def changes(old: Snapshot, new: Snapshot) -> frozenset[Change]:
    """Names every difference; empty exactly when nothing that we look at changed."""
    found: set[Change] = set()
    before = {link.index: link for link in old.links}
    after = {link.index: link for link in new.links}
    for index, link in after.items():
        if index not in before:
            found.add(Change.LINK_NEW)
        elif before[index].up != link.up:
            found.add(Change.LINK_UP if link.up else Change.LINK_DOWN)
        elif before[index] != link:
            found.add(Change.LINK_NEW)  # renamed: to the operator another link
    if before.keys() - after.keys():
        found.add(Change.LINK_GONE)
    if new.addresses - old.addresses:
        found.add(Change.ADDRESS_NEW)
    if old.addresses - new.addresses:
        found.add(Change.ADDRESS_GONE)
    if new.gateways - old.gateways:
        found.add(Change.GATEWAY_NEW)
    if old.gateways - new.gateways:
        found.add(Change.GATEWAY_GONE)
    return frozenset(found)
