"""Builds the lab's internet out of namespaces in the kernel it runs in, and moves it about.

    with Lab(INTERNET, folder) as lab:
        lab.start_peers()
        lab.link("wifi").attach()
        lab.host("endpoint").run(["ping", "-c1", "203.0.113.10"])
        since = lab.roam("lte")

It needs root and a kernel that has it all: `vagrant/lab kernel -- COMMAND` provides both.
Whatever the hosts run dies with the lab; what they printed stays in the folder.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from orchestrator.core.quantities import IPNetwork
from orchestrator.lab import internet
from orchestrator.lab.capture import Capture
from orchestrator.lab.charon import Charon
from orchestrator.lab.host import Host
from orchestrator.lab.internet import Internet
from orchestrator.lab.link import Address, Link
from orchestrator.lab.peers import Peers, start_peers
from orchestrator.lab.resolvers import Resolvers, Zone, list_resolvers

_LAST_RESORT: Final = 1 << 20
"""A route metric above all others."""
ENDPOINT: Final = "endpoint"
_FIRST_INDEX: Final = 101
"""Device numbers are unique in the whole lab (see rtnl.veth); hosts' own devices come below."""


class Lab:
    """The internet, built on entry and gone without a trace on exit."""

    def __init__(self, description: Internet, folder: Path) -> None:
        self.internet: Final = description
        self.folder: Final = folder
        self.hosts_file: Final = folder / "hosts"
        self._hosts: dict[str, Host] = {}
        self._links: dict[str, Link] = {}
        self._captures: list[Capture] = []
        self._resolvers: Resolvers | None = None

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for capture in self._captures:
            capture.close()
        for host in self._hosts.values():
            host.close()
        self._hosts.clear()
        self._links.clear()

    def host(self, name: str) -> Host:
        self.internet.host(name)
        return self._hosts[name]

    def link(self, name: str) -> Link:
        self.internet.link(name)
        return self._links[name]

    @property
    def links(self) -> tuple[Link, ...]:
        return tuple(self._links[link.name] for link in self.internet.links)

    @property
    def access_links(self) -> tuple[Link, ...]:
        return tuple(self._links[link.name] for link in self.internet.access_links)

    def roam(self, link: str, *addresses: Address) -> float:
        """Break before make: every other access link is lost, then this one attached."""
        target = self.link(link)
        for other in self.access_links:
            if other is not target and other.attached:
                other.detach()
        return target.attach(*addresses)

    def start_peers(self, file_bytes: int = 1 << 20) -> Peers:
        """Real servers on the peers; what they serve and how to log in is in the answer."""
        return start_peers([self.host("peer1"), self.host("peer2")], self.folder, file_bytes)

    def start_resolvers(self, zone: Zone) -> Resolvers:
        """DNS on every access router, for whoever attaches, and NAT64 where the network has no
        IPv4. From now on the endpoint's list of resolvers is kept as DHCP and SLAAC would."""
        routers = [
            (self._hosts[link.near.host], self.internet.host(link.near.host), link.near)
            for link in self.internet.access_links
        ]
        self._resolvers = Resolvers(routers, self.folder, zone)
        self._list_resolvers()
        return self._resolvers

    def _list_resolvers(self) -> None:
        if self._resolvers is not None:
            attached = (link for link in self.access_links if link.attached)
            found = [gateway for link in attached for gateway in link.gateways]
            self._hosts[ENDPOINT].inside(list_resolvers, found)

    def start_charon(
        self, host: str, conf: Path, extra: Mapping[str, str] | None = None
    ) -> Charon:
        """A charon on a host, configured by `conf` and dotted settings in `extra`, ready."""
        return Charon(self.host(host), conf, extra or {})

    def capture(
        self, links: Iterable[str] | None = None, networks: Iterable[IPNetwork] | None = None
    ) -> Capture:
        """Watches underlay links from now on for packets from or to `networks` in clear."""
        chosen = (
            [link for link in self.internet.links if link.underlay]
            if links is None
            else [self.internet.link(name) for name in links]
        )
        capture = Capture(
            [(self.host(end.host), end.device) for link in chosen for end in link.ends],
            tuple(self.internet.vip_pools if networks is None else networks),
        )
        self._captures.append(capture)
        return capture

    def _build(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hosts_file.write_text(hosts_file(self.internet))
        for host in self.internet.hosts:
            folder = self.folder / host.name
            self._hosts[host.name] = Host(host, folder, self.hosts_file)
        numbers = _number_devices(self.internet)
        for link in self.internet.links:
            self._links[link.name] = Link(
                link,
                None if link.uplink is None else self.internet.link(link.uplink),
                self._hosts,
                lambda host, device: numbers[host, device],
                self._list_resolvers,
            )
        for built in self._links.values():
            built.apply_first_quality()
        for link in self.internet.access_links:
            self._hosts[link.near.host].run(["ip", "-batch", "-"], input=_dead_ends(link))
        for host in self.internet.hosts:
            if host.masquerades is not None:
                self._hosts[host.name].run(
                    ["nft", "-f", "-"], input=masquerade(host.masquerades)
                )


def _number_devices(description: Internet) -> dict[tuple[str, str], int]:
    ends = (end for link in description.links for end in link.ends)
    return {(end.host, end.device): number for number, end in enumerate(ends, _FIRST_INDEX)}


def _dead_ends(link: internet.Link) -> str:
    """What an access router does with packets for those who left: nothing.

    Without it they would take its default route back, and circle until their TTL ends.
    """
    return "".join(
        f"route add blackhole {interface.network} metric {_LAST_RESORT}\n"
        for interface in link.near.addresses
    )


def masquerade(device: str) -> str:
    """An nft table by which what leaves on the device has the router's own address."""
    return f"""
        table ip lab {{
            chain postrouting {{
                type nat hook postrouting priority srcnat
                oifname "{device}" masquerade
            }}
        }}
    """


def hosts_file(description: Internet) -> str:
    """What every host has as its /etc/hosts."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for host in description.hosts:
        for end in description.ends_of(host.name):
            lines += [f"{interface.ip} {host.name}" for interface in end.addresses]
    return "\n".join(lines) + "\n"
