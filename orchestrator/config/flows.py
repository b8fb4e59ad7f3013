"""Classes of flows in an endpoint's configuration. The text under a field is its reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final

from orchestrator.config.reader import Contradiction
from orchestrator.config.values import Between, InterfaceGlob
from orchestrator.core.flow_class import FlowClass, Ports, Protocol
from orchestrator.core.quantities import IPNetwork

MOST: Final = 16
"""Classes: each costs every packet that leaves a few comparisons."""


@dataclass(frozen=True, slots=True)
class Flows:
    """Flows that take a link of their own while it works, both ways: one table for each class.
    A flow is of the first class that it matches; whatever matches none, or whose links do not
    work, goes with everything else. What the classes take is asked every 2 s, as the active
    path, which costs some 450 kB an hour for each further link."""

    name: str
    """How `status`, `paths` and the log call it."""
    links: tuple[InterfaceGlob, ...]
    """The links that it takes, best first. One of them that works has a tunnel at all times,
    whatever `[links]` says about warm ones."""
    protocol: Protocol = Protocol.ANY
    """Which protocol it is of."""
    ports: tuple[Ports, ...] = ()
    """Of TCP or UDP, at either end: so it does not matter who opened the flow."""
    destinations: tuple[IPNetwork, ...] = ()
    """With whom."""
    dscp: Annotated[int, Between(0, 63)] | None = None
    """How the application marked it; 46 is what telephones set (EF, RFC 3246)."""

    redundant: bool = False
    """Whether each packet goes twice, over the active path and over another of `links`, and the
    copy that comes first counts: for calls over links that lose much. UDP only, and up to 500
    packets a second; what is beyond goes once."""

    def contradictions(self) -> Iterator[Contradiction]:
        if not self.links:
            yield Contradiction(("links",), "no link is named", 'write links = ["wl*"]')
        if self.redundant and self.protocol is not Protocol.UDP:
            yield Contradiction(
                ("redundant",), "only UDP can be redundant", 'write protocol = "udp"'
            )
        named = self.ports or self.destinations or self.dscp is not None
        if self.protocol is Protocol.ANY and not named:
            yield Contradiction(
                (), "it would be everything", "prefer a link in [links], or add ports"
            )

    @property
    def flow_class(self) -> FlowClass:
        return FlowClass(
            name=self.name,
            links=self.links,
            protocol=self.protocol,
            ports=self.ports,
            destinations=self.destinations,
            dscp=self.dscp,
            redundant=self.redundant,
        )


def flows_faults(flows: tuple[Flows, ...]) -> Iterator[Contradiction]:
    """What is wrong with them together."""
    names = [each.name for each in flows]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Contradiction(
                ("flows", index, "name"), f"{name} is there twice", "give each its own name"
            )
    if len(flows) > MOST:
        yield Contradiction(
            ("flows", MOST), f"more than {MOST} classes", "put several ports into one class"
        )
