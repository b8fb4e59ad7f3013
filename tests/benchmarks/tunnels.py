"""What is compared: the same hosts and links, and one of three tunnels between them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab
from orchestrator.lab.product import Product
from orchestrator.lab.stock import StockTunnel
from orchestrator.lab.wireguard import WireGuardTunnel

FIRST_LINK = "wifi"
OTHER_LINK = "wifi2"


class Kind(StrEnum):
    OURS = "ours"
    STRONGSWAN = "strongswan"
    WIREGUARD = "wireguard"


@dataclass(frozen=True, slots=True)
class Tunnel:
    lab: Lab
    vip: IPAddress


@contextmanager
def bare_lab(folder: Path, rtt_ms: float, rate_mbit: float = 0) -> Iterator[Lab]:
    """The endpoint is attached to the first link, and nothing runs; rate 0 is no limit."""
    with Lab(INTERNET, folder) as lab:
        for link in lab.access_links:
            link.set(delay_ms=rtt_ms / 2, rate_mbit=rate_mbit)
        lab.link(FIRST_LINK).attach()
        yield lab


@contextmanager
def tunnel(kind: Kind, folder: Path, rtt_ms: float, rate_mbit: float = 0) -> Iterator[Tunnel]:
    """A bare lab, and the tunnel is up."""
    with bare_lab(folder, rtt_ms, rate_mbit) as lab:
        match kind:
            case Kind.OURS:
                vip = Product(lab).start()
            case Kind.STRONGSWAN:
                vip = StockTunnel(lab).vip
            case Kind.WIREGUARD:
                vip = WireGuardTunnel(lab).vip
        yield Tunnel(lab, vip)
