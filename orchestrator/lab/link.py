"""A link of the lab: its cable, its quality, and what the endpoint has on it."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from typing import Final

from orchestrator.core.quantities import IPAddress, IPNetwork
from orchestrator.lab import internet, rtnl
from orchestrator.lab.host import Host
from orchestrator.lab.internet import End, IPInterface, Quality
from orchestrator.lab.rtnl import LinkNews

_CARRIER_SECONDS: Final = 5.0
_ANY: Final[dict[int, IPNetwork]] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_LEARNED: Final = {4: rtnl.PROTOCOL_DHCP, 6: rtnl.PROTOCOL_RA}
"""How the endpoint came by a default route."""

Address = str | IPInterface
DeviceIndex = Callable[[str, str], int]
"""From a host and a device to the device's number."""


class Link:
    """One link of the lab: its cable, its quality, and what the endpoint has on it."""

    def __init__(
        self,
        description: internet.Link,
        uplink: internet.Link | None,
        hosts: Mapping[str, Host],
        index: DeviceIndex,
        configured: Callable[[], None] = lambda: None,
    ) -> None:
        """Lays the cable. `index` knows the number of every device of the lab; `configured` is
        called when the endpoint has got other addresses."""
        self.name: Final = description.name
        self.description: Final = description
        self.quality = description.quality
        self._near = hosts[description.near.host]
        self._far = hosts[description.far.host]
        self._near_index = index(description.near.host, description.near.device)
        self._far_index = index(description.far.host, description.far.device)
        self._shaped = [
            (hosts[end.host], index(end.host, end.device))
            for end in (description if uplink is None else uplink).ends
        ]
        self._configured = configured
        self._addresses: tuple[IPInterface, ...] = ()
        self.is_cut = False
        self.carrier = False
        self._create()

    @property
    def attached(self) -> bool:
        return bool(self._addresses)

    @property
    def is_changed(self) -> bool:
        """Somebody made it worse, or better, than it is described."""
        lost = self.description.lease is None and not self.carrier
        return lost or self.is_cut or self.quality != self.description.quality

    @property
    def addresses(self) -> tuple[IPInterface, ...]:
        """What the endpoint has on this access link now."""
        return self._addresses

    @property
    def gateways(self) -> list[IPAddress]:
        """What the endpoint reaches everything else by, on this access link, now."""
        return self._usable_gateways(self._lease(), self._addresses)

    @property
    def device(self) -> str:
        return self.description.far.device

    def attach(self, *addresses: Address) -> float:
        """The endpoint joins the network: carrier first, then what its lease gives.

        `addresses` replace those of the lease, with the gateways of their families. Returns
        the instant (seconds of CLOCK_MONOTONIC) just before the kernel got them, which it did
        in one message.
        """
        news = self._far.inside(LinkNews)
        try:
            self.up()
            news.wait_until_running(self._far_index, _CARRIER_SECONDS)
        finally:
            news.close()
        return self._configure(self._wanted(addresses))

    def detach(self) -> float:
        """Out of range: carrier lost, then the addresses gone. Returns when it began."""
        since = time.monotonic()
        self.down()
        self._configure(())
        return since

    def readdress(self, *addresses: Address) -> float:
        """The network takes the address back and gives another; otherwise as `attach`."""
        return self._configure(self._wanted(addresses))

    def up(self) -> None:
        """Carrier, and nothing else."""
        self.carrier = True
        near, far = self.description.ends
        self._bring_up(self._near, near, self._near_index, far, self._far_index)

    def down(self) -> None:
        """The cable is pulled: no carrier; addresses stay until somebody removes them."""
        self.carrier = False
        self._near.rtnetlink.say(rtnl.link_down(self._near_index))

    def cut(self) -> None:
        """Dies silently: the link looks well and drops everything, both ways."""
        self.is_cut = True
        self._apply()

    def mend(self) -> None:
        self.is_cut = False
        self._apply()

    def set(
        self,
        *,
        delay_ms: float | None = None,
        loss_percent: float | None = None,
        rate_mbit: float | None = None,
    ) -> None:
        """Changes what is given, at once, for what is sent from now on; rate 0 is no limit."""
        quality = self.quality
        if delay_ms is not None:
            quality = replace(quality, delay_ms=delay_ms)
        if loss_percent is not None:
            quality = replace(quality, loss_percent=loss_percent)
        if rate_mbit is not None:
            quality = replace(quality, rate_mbit=rate_mbit or None)
        self.quality = quality
        self._apply()

    def _create(self) -> None:
        near, far = self.description.ends
        network = self._far.inside(os.open, "/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self._near.rtnetlink.say(
                rtnl.veth(
                    near.device,
                    self._near_index,
                    _mac(self._near_index),
                    far.device,
                    self._far_index,
                    _mac(self._far_index),
                    network,
                )
            )
        finally:
            os.close(network)
        self._bring_up(self._far, far, self._far_index, near, self._near_index)
        if self.description.lease is None:
            self.up()

    @staticmethod
    def _bring_up(host: Host, end: End, index: int, other: End, other_index: int) -> None:
        """With addresses, neighbours and routes: the kernel forgets some when it goes down."""
        host.rtnetlink.say(
            rtnl.link_up(index),
            *(rtnl.add_address(index, interface) for interface in end.addresses),
            *(
                rtnl.neighbour(index, interface.ip, _mac(other_index))
                for interface in other.addresses
                if end.addresses
            ),
            *(
                rtnl.add_route(route.destination, route.gateway, index)
                for route in host.routes
                if any(route.gateway in interface.network for interface in end.addresses)
            ),
        )

    def apply_first_quality(self) -> None:
        if self.quality != Quality():
            self._apply()

    def _apply(self) -> None:
        quality = replace(self.quality, loss_percent=100.0) if self.is_cut else self.quality
        for router, device in self._shaped:
            router.rtnetlink.say(rtnl.netem(device, quality))

    def _wanted(self, addresses: Sequence[Address]) -> tuple[IPInterface, ...]:
        lease = self._lease()
        if not addresses:
            return lease.addresses
        known = {each.ip: each for each in (*lease.addresses, *lease.alternates)}
        return tuple(
            known.get(asked.ip, asked) for asked in (ip_interface(each) for each in addresses)
        )

    def _lease(self) -> internet.Lease:
        if self.description.lease is None:
            raise ValueError(f"{self.name} is not an access link: nobody attaches to it")
        return self.description.lease

    def _configure(self, wanted: tuple[IPInterface, ...]) -> float:
        """Puts `wanted` in place of what is there, old away first, in one message."""
        lease = self._lease()
        gone = self._usable_gateways(lease, self._addresses)
        come = self._usable_gateways(lease, wanted)
        index = self._far_index
        sentences = [
            *(rtnl.delete_route(_ANY[via.version], via, index, lease.metric) for via in gone),
            *(rtnl.delete_address(index, old) for old in self._addresses),
            *(rtnl.add_address(index, new) for new in wanted),
            *(
                rtnl.add_route(
                    _ANY[via.version], via, index, lease.metric, _LEARNED[via.version]
                )
                for via in come
            ),
        ]
        since = time.monotonic()
        self._far.rtnetlink.say(*sentences, fine=rtnl.GONE)
        self._addresses = wanted
        self._configured()
        return since

    @staticmethod
    def _usable_gateways(
        lease: internet.Lease, addresses: Sequence[IPInterface]
    ) -> list[IPAddress]:
        """The gateways that are usable with these addresses."""
        return [
            gateway
            for gateway in lease.gateways
            if any(gateway in interface.network for interface in addresses)
        ]


def _mac(index: int) -> bytes:
    """A locally administered address that tells which device it is in a capture."""
    return bytes([0x02, 0, 0, 0, index >> 8, index & 0xFF])
