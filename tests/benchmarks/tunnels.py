"""What is compared: the same hosts and links, and one of three tunnels between them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab
from orchestrator.lab.product import ENDPOINT, Daemon, Product
from orchestrator.lab.stock import StockTunnel
from orchestrator.lab.wireguard import WireGuardTunnel

FIRST_LINK = "wifi"
OTHER_LINK = "wifi2"
PEER: Final = ip_address("10.51.1.2")


class Kind(StrEnum):
    OURS = "ours"
    STRONGSWAN = "strongswan"
    WIREGUARD = "wireguard"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the tunnels are told beyond their defaults."""

    endpoint: str = ENDPOINT
    """Ours."""
    stock_dpd_delay_s: int = 0
    """Stock strongSwan's."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    lab: Lab
    vip: IPAddress
    endpoint: Daemon | None = None
    """Ours."""


@contextmanager
def bare_lab(
    folder: Path, rtt_ms: float, rate_mbit: float = 0, attached: str = FIRST_LINK
) -> Iterator[Lab]:
    """The endpoint is attached to one link, and nothing runs; rate 0 is no limit."""
    with Lab(INTERNET, folder) as lab:
        for link in lab.access_links:
            link.set(delay_ms=rtt_ms / 2, rate_mbit=rate_mbit)
        lab.link(attached).attach()
        yield lab


@contextmanager
def tunnel(
    kind: Kind,
    folder: Path,
    rtt_ms: float,
    rate_mbit: float = 0,
    settings: Settings = Settings(),
    attached: str = FIRST_LINK,
) -> Iterator[Tunnel]:
    """A bare lab, and the tunnel is up."""
    with bare_lab(folder, rtt_ms, rate_mbit, attached) as lab:
        match kind:
            case Kind.OURS:
                product = Product(lab, settings.endpoint)
                made = Tunnel(lab, product.start(), product.endpoint)
            case Kind.STRONGSWAN:
                made = Tunnel(lab, StockTunnel(lab, settings.stock_dpd_delay_s).vip)
            case Kind.WIREGUARD:
                made = Tunnel(lab, WireGuardTunnel(lab).vip)
        yield made
