"""Describes the lab's internet: the one place that knows its hosts, links and addresses.

                                    +-- ap1 --- wifi  --+
                                    |   (NAT)           |
    peer1 --+                       +-- ap2 --- wifi2 --+
            lan --- server --- internet                 endpoint
    peer2 --+                       +-- lte --- lte   --+
                                    |                   |
                                    +-- ap3 --- wifi6 --+
                                        (NAT64)

The server has an underlay side (`wan0`) and a LAN side (`lan0`). Between them and above it all
only the server knows the way: `internet` has no route to the LAN or to virtual addresses.

Run as a module it prints itself as JSON, for readers that are not Python (the Vagrantfile).
"""

import json
from dataclasses import asdict, dataclass
from ipaddress import (
    IPv4Interface,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Final, TypeVar

from orchestrator.core.quantities import IPAddress, IPNetwork

IPInterface = IPv4Interface | IPv6Interface

_EVERYTHING: Final = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class Quality:
    """What a link does to packets, in each direction."""

    delay_ms: float = 0.0
    """One way."""
    loss_percent: float = 0.0
    rate_mbit: float | None = None
    """None: as fast as the machine."""


@dataclass(frozen=True, slots=True)
class Route:
    destination: IPNetwork
    gateway: IPAddress


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    forwards: bool = False
    routes: tuple[Route, ...] = ()
    masquerades: str | None = None
    """The device on whose way out source addresses become the router's own (NAT)."""
    nat64: IPv6Network | None = None
    """The prefix under which it translates to IPv4, where somebody starts that."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link: a device of a host, with the addresses it always has."""

    host: str
    device: str
    addresses: tuple[IPInterface, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """What an access network gives to whoever attaches: what DHCP or SLAAC would say."""

    addresses: tuple[IPInterface, ...]
    gateways: tuple[IPAddress, ...]
    alternates: tuple[IPInterface, ...] = ()
    """Further addresses that the network would accept in place of the first."""
    metric: int = 600
    """Of the default route, as NetworkManager chooses it: Wi-Fi 600, mobile 700."""


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    near: End
    """The end that is closer to the middle of the internet."""
    far: End
    quality: Quality = Quality()
    underlay: bool = True
    """Whether only protected traffic may cross it."""
    lease: Lease | None = None
    """Given for access networks: the far end is the endpoint's."""
    uplink: str | None = None
    """Of an access network: the link behind its router, on whose ends its quality is made.

    So neither the endpoint's own queue holds packets back that it believes sent, nor is the
    router's answer to ARP late, which would delay the first packet after a roam twice.
    """

    @property
    def ends(self) -> tuple[End, End]:
        return (self.near, self.far)


@dataclass(frozen=True, slots=True)
class Internet:
    hosts: tuple[Host, ...]
    links: tuple[Link, ...]
    vip_pools: tuple[IPNetwork, ...]
    """Where the server takes virtual addresses from: never in clear on an underlay link."""
    lan_networks: tuple[IPNetwork, ...]
    """What is reached through the tunnel only."""

    def host(self, name: str) -> Host:
        return _named(name, self.hosts, "host")

    def link(self, name: str) -> Link:
        return _named(name, self.links, "link")

    @property
    def access_links(self) -> tuple[Link, ...]:
        return tuple(link for link in self.links if link.lease is not None)

    def ends_of(self, host: str) -> tuple[End, ...]:
        return tuple(end for link in self.links for end in link.ends if end.host == host)

    def address(self, host: str, version: int = 4) -> IPAddress:
        """The host's first fixed address of a family. Raises KeyError if it has none."""
        for end in self.ends_of(host):
            for interface in end.addresses:
                if interface.version == version:
                    return interface.ip
        raise KeyError(f"{host} has no fixed IPv{version} address")


Named = TypeVar("Named", Host, Link)


def _named(name: str, things: tuple[Named, ...], kind: str) -> Named:
    for thing in things:
        if thing.name == name:
            return thing
    known = ", ".join(thing.name for thing in things)
    raise KeyError(f"the lab has no {kind} {name!r}; it has {known}")


def _end(place: str, *addresses: str) -> End:
    host, device = place.split(":")
    return End(host, device, tuple(ip_interface(each) for each in addresses))


def _route(destination: str, gateway: str) -> Route:
    return Route(ip_network(destination), ip_address(gateway))


def _defaults(*gateways: str) -> tuple[Route, ...]:
    """Behind these is everything; one of each family."""
    hops = [ip_address(each) for each in gateways]
    return tuple(Route(_EVERYTHING[hop.version], hop) for hop in hops)


def _access(
    name: str,
    near: End,
    attached: End,
    *,
    alternates: tuple[str, ...],
    quality: Quality,
    metric: int,
) -> Link:
    """An access network: `attached` is the endpoint's end, with the addresses that it is given
    there; its gateway is the router at the other end."""
    return Link(
        name,
        near=near,
        far=End(attached.host, attached.device),
        quality=quality,
        lease=Lease(
            addresses=attached.addresses,
            gateways=tuple(each.ip for each in near.addresses),
            alternates=tuple(ip_interface(each) for each in alternates),
            metric=metric,
        ),
        uplink=f"{near.host}-internet",
    )


INTERNET: Final = Internet(
    hosts=(
        Host("endpoint"),
        Host(
            "ap1",
            forwards=True,
            routes=_defaults("198.51.100.1"),
            masquerades="wan0",
        ),
        Host("ap2", forwards=True, routes=_defaults("192.0.2.1")),
        Host("lte", forwards=True, routes=_defaults("100.64.1.1", "2001:db8:0:64::1")),
        Host(
            "ap3",
            forwards=True,
            routes=_defaults("100.64.2.1", "2001:db8:0:66::1"),
            masquerades="wan0",
            nat64=IPv6Network("2001:db8:64ff::/96"),
        ),
        Host(
            "internet",
            forwards=True,
            routes=(
                _route("192.0.2.128/25", "192.0.2.2"),
                _route("100.64.0.0/24", "100.64.1.2"),
                _route("2001:db8:64::/64", "2001:db8:0:64::2"),
                _route("2001:db8:66::/64", "2001:db8:0:66::2"),
            ),
        ),
        Host(
            "server",
            # Forwarding is for the server's own daemon to switch on.
            routes=(
                *_defaults("203.0.113.1", "2001:db8:113::1"),
                _route("10.51.0.0/16", "10.50.0.2"),
                _route("fd00:51::/32", "fd00:50::2"),
            ),
        ),
        Host(
            "lan",
            forwards=True,
            routes=(
                _route("10.99.0.0/24", "10.50.0.1"),
                _route("fd00:99::/64", "fd00:50::1"),
            ),
        ),
        Host("peer1", routes=_defaults("10.51.1.1", "fd00:51:1::1")),
        Host("peer2", routes=_defaults("10.51.2.1", "fd00:51:2::1")),
    ),
    links=(
        _access(
            "wifi",
            near=_end("ap1:wlan0", "192.168.10.1/24"),
            attached=_end("endpoint:wlan0", "192.168.10.2/24"),
            alternates=("192.168.10.3/24",),
            quality=Quality(delay_ms=5, rate_mbit=100),
            metric=600,
        ),
        _access(
            "wifi2",
            near=_end("ap2:wlan0", "192.0.2.129/25"),
            attached=_end("endpoint:wlan1", "192.0.2.130/25"),
            alternates=("192.0.2.131/25",),
            quality=Quality(delay_ms=8, rate_mbit=100),
            metric=601,
        ),
        _access(
            "lte",
            near=_end("lte:wwan0", "100.64.0.1/24", "2001:db8:64::1/64"),
            attached=_end("endpoint:wwan0", "100.64.0.2/24", "2001:db8:64::2/64"),
            alternates=("100.64.0.3/24", "2001:db8:64::3/64"),
            quality=Quality(delay_ms=25, rate_mbit=30),
            metric=700,
        ),
        Link(
            "ap1-internet",
            near=_end("internet:ap1", "198.51.100.1/24"),
            far=_end("ap1:wan0", "198.51.100.2/24"),
        ),
        Link(
            "ap2-internet",
            near=_end("internet:ap2", "192.0.2.1/25"),
            far=_end("ap2:wan0", "192.0.2.2/25"),
        ),
        Link(
            "lte-internet",
            near=_end("internet:lte", "100.64.1.1/24", "2001:db8:0:64::1/64"),
            far=_end("lte:wan0", "100.64.1.2/24", "2001:db8:0:64::2/64"),
        ),
        Link(
            "wan",
            near=_end("internet:server", "203.0.113.1/24", "2001:db8:113::1/64"),
            far=_end("server:wan0", "203.0.113.10/24", "2001:db8:113::10/64"),
        ),
        Link(
            "lan",
            near=_end("server:lan0", "10.50.0.1/24", "fd00:50::1/64"),
            far=_end("lan:server", "10.50.0.2/24", "fd00:50::2/64"),
            underlay=False,
        ),
        Link(
            "peer1",
            near=_end("lan:peer1", "10.51.1.1/24", "fd00:51:1::1/64"),
            far=_end("peer1:eth0", "10.51.1.2/24", "fd00:51:1::2/64"),
            underlay=False,
        ),
        Link(
            "peer2",
            near=_end("lan:peer2", "10.51.2.1/24", "fd00:51:2::1/64"),
            far=_end("peer2:eth0", "10.51.2.2/24", "fd00:51:2::2/64"),
            underlay=False,
        ),
        _access(
            "wifi6",
            near=_end("ap3:wlan0", "2001:db8:66::1/64"),
            attached=_end("endpoint:wlan2", "2001:db8:66::2/64"),
            alternates=("2001:db8:66::3/64",),
            quality=Quality(delay_ms=6, rate_mbit=100),
            metric=602,
        ),
        Link(
            "ap3-internet",
            near=_end("internet:ap3", "100.64.2.1/24", "2001:db8:0:66::1/64"),
            far=_end("ap3:wan0", "100.64.2.2/24", "2001:db8:0:66::2/64"),
        ),
    ),
    vip_pools=(ip_network("10.99.0.0/24"), ip_network("fd00:99::/64")),
    lan_networks=(
        ip_network("10.50.0.0/16"),
        ip_network("10.51.0.0/16"),
        ip_network("fd00:50::/32"),
        ip_network("fd00:51::/32"),
    ),
)


def as_json(internet: Internet) -> str:
    return json.dumps(asdict(internet), indent=2, default=str) + "\n"


if __name__ == "__main__":
    print(as_json(INTERNET), end="")  # noqa: T201  the module's whole purpose when it is run
