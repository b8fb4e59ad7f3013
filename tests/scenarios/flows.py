"""Connections that last through a story: bulk, an interactive one, and one to the endpoint."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.scenarios.bulk import Bulk
from tests.scenarios.conversation import Conversation, Echo
from tests.scenarios.world import PEER, World

PORT = 7077
"""Where an application on the endpoint listens."""


@dataclass(frozen=True, slots=True)
class Flows:
    bulk: Bulk
    interactive: Conversation
    to_vip: Conversation
    """From a peer behind the server to an application on the endpoint."""

    def go_on(self) -> None:
        self.interactive.goes_on()
        self.to_vip.goes_on()

    def end_well(self) -> None:
        self.interactive.ends_well()
        self.to_vip.ends_well()
        self.bulk.ends_well()


@contextmanager
def flowing(world: World) -> Iterator[Flows]:
    endpoint, peer = world.endpoint.host, world.lab.host("peer1")
    with ExitStack() as stack:
        stack.enter_context(Echo(endpoint, world.vip, PORT))
        yield Flows(
            stack.enter_context(Bulk.open(endpoint, PEER)),
            stack.enter_context(Conversation.open(endpoint, PEER)),
            stack.enter_context(Conversation.open(peer, world.vip, PORT)),
        )
