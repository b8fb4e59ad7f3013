"""Values that the core's tests are made of, tersely; the addresses are the lab's internet.

A `Place` is one address on one link with its gateway, as a person would say it: "on wlan0 with
192.168.10.2". Snapshots are sums of places, paths lead from a place to the server.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Final

from orchestrator.core.firewall import ProxyPorts
from orchestrator.core.ike import Tunnel
from orchestrator.core.kernel import ENDPOINT_REQID
from orchestrator.core.network import Gateway, Link, LinkAddress, Snapshot
from orchestrator.core.paths import Path
from orchestrator.core.quantities import (
    Instant,
    IPAddress,
    LinkIndex,
    Reqid,
    Spi,
    UniqueId,
    host_network,
)

SERVER4: Final[IPAddress] = ip_address("203.0.113.10")
SERVER6: Final[IPAddress] = ip_address("2001:db8:113::10")
VIP4: Final[IPAddress] = ip_address("10.99.0.7")
VIP6: Final[IPAddress] = ip_address("fd00:99::7")
PORTS: Final = ProxyPorts(11110, 11111)
EVERYTHING4: Final = ip_network("0.0.0.0/0")
EVERYTHING6: Final = ip_network("::/0")


@dataclass(frozen=True, slots=True)
class Place:
    """An address on a link, with the link's gateway of that family."""

    link: str
    index: int
    pop: str
    gateway: str | None
    metric: int = 100
    up: bool = True
    usable: bool = True
    routed: bool = True
    """False: the link has no default route."""


WIFI: Final = Place("wlan0", 3, "192.168.10.2", "192.168.10.1")
WIFI_SECOND: Final = Place("wlan0", 3, "192.168.10.3", "192.168.10.1")
WIFI2: Final = Place("wlan1", 4, "192.0.2.130", "192.0.2.129", metric=200)
LTE: Final = Place("wwan0", 5, "100.64.0.2", "100.64.0.1", metric=700)
LTE6: Final = Place("wwan0", 5, "2001:db8:64::2", "2001:db8:64::1", metric=700)


def snapshot(*places: Place) -> Snapshot:
    """What the device sees when it is at all of these places."""
    pops = {place: ip_address(place.pop) for place in places}
    return Snapshot(
        frozenset(Link(LinkIndex(p.index), p.link, p.up) for p in places),
        frozenset(LinkAddress(LinkIndex(p.index), pops[p], p.usable) for p in places),
        frozenset(
            Gateway(
                LinkIndex(p.index),
                pops[p].version,
                None if p.gateway is None else ip_address(p.gateway),
                p.metric,
            )
            for p in places
            if p.routed
        ),
    )


def without_carrier(*places: Place) -> tuple[Place, ...]:
    return tuple(replace(place, up=False) for place in places)


def path(place: Place, server: IPAddress | None = None) -> Path:
    pop = ip_address(place.pop)
    gateway = None if place.gateway is None else ip_address(place.gateway)
    own_family = SERVER4 if pop.version == SERVER4.version else SERVER6
    return Path(LinkIndex(place.index), place.link, pop, gateway, server or own_family)


def tunnel(
    way: Path,
    number: int,
    connection: str = "orchestrator-0-1",
    vips: Iterable[IPAddress] = (VIP4,),
    reqid: Reqid = ENDPOINT_REQID,
) -> Tunnel:
    """The endpoint's view of tunnel `number`: each number has SPIs and ids of its own."""
    selectors = tuple(host_network(vip) for vip in vips)
    versions = sorted({selector.version for selector in selectors})
    return Tunnel(
        ike=UniqueId(number),
        child=UniqueId(100 + number),
        connection=connection,
        local=way.pop,
        local_port=4500,
        remote=way.server,
        remote_port=4500,
        local_id="laptop@example.org",
        remote_id="gateway.example.org",
        reqid=reqid,
        spi_in=Spi(0xE000_0000 + number),
        spi_out=Spi(0x5000_0000 + number),
        local_ts=selectors,
        remote_ts=tuple(EVERYTHING4 if v == 4 else EVERYTHING6 for v in versions),
    )


def mirrored(
    seen: Tunnel, number: int | None = None, reqid: Reqid | None = None, nat: str | None = None
) -> Tunnel:
    """The same tunnel as the server's charon tells of it; `nat` is what hides the endpoint."""
    ike = seen.ike if number is None else UniqueId(number)
    return replace(
        seen,
        ike=ike,
        child=UniqueId(500 + ike),
        connection="lease",
        local=seen.remote,
        local_port=seen.remote_port,
        remote=seen.local if nat is None else ip_address(nat),
        remote_port=seen.local_port,
        local_id=seen.remote_id,
        remote_id=seen.local_id,
        reqid=Reqid(1) if reqid is None else reqid,
        spi_in=seen.spi_out,
        spi_out=seen.spi_in,
        local_ts=seen.remote_ts,
        remote_ts=seen.local_ts,
        local_vips=(),
    )


def at(seconds: float) -> Instant:
    return Instant(seconds)
