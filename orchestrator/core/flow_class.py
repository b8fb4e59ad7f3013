"""A class of flows, as the operator describes it: its packets, and the links that it takes.

A packet belongs to the first class that it matches. It matches when everything that the class
names is true of it; a port may be that of either end, so that a class is the same for who
connects and for who is connected to.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from orchestrator.core.quantities import IPNetwork


class Protocol(StrEnum):
    ANY = "any"
    TCP = "tcp"
    UDP = "udp"


class FlowReason(StrEnum):
    """Why a class takes the way that it takes."""

    NAMED = "named-link"
    NO_LINK = "no-named-link"
    """None that it names has a path; so it goes with everything else, as in what follows."""
    NO_TUNNEL = "no-tunnel-there"
    """Not yet, or none that has answered."""
    SILENT = "silent-there"
    """Or was, a while ago."""
    DOUBTED = "path-doubted"


class Ports(NamedTuple):
    """Both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class FlowClass:
    name: str
    links: tuple[str, ...]
    """Globs of interface names, best first."""
    protocol: Protocol = Protocol.ANY
    ports: tuple[Ports, ...] = ()
    """Of TCP or UDP, at either end; empty: any."""
    destinations: tuple[IPNetwork, ...] = ()
    """Empty: any."""
    dscp: int | None = None
    """Six bits; None: any."""
    redundant: bool = False
    """It goes over two links at the same time, that of the active path and another one."""
