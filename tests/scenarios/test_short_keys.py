"""Keys that last for seconds: they are renewed all the time, between roams and during them.

`--rekey-seconds 600` makes the run longer.
"""

import os
import signal
import sys
import time
from functools import partial
from typing import Final

import pytest

from orchestrator.core.session import MAX_TUNNELS
from orchestrator.lab.product import ENDPOINT, SERVER
from orchestrator.wire.control import Verb
from tests.scenarios.conversation import Conversation
from tests.scenarios.flows import flowing
from tests.scenarios.keying import associations, told
from tests.scenarios.leftovers import leftovers
from tests.scenarios.roaming import roams
from tests.scenarios.traveller import Traveller
from tests.scenarios.world import PEER, World, eventually, for_a_while

pytestmark = pytest.mark.long

SHORT_KEYS: Final = '[keys]\nchild = "20s"\nike = "45s"\n'
LIFE: Final = 22.0
"""Seconds that the traffic's keys last when they are not renewed."""
BETWEEN_ROAMS: Final = 6.0
SEED: Final = 11
DRAINED: Final = 120.0
"""Seconds: `core.session.UNASKED` and the server's next look at the session, and more."""
LONGEST_STALL: Final = 20.0
"""Seconds: an outage of 2.5, and negotiations on a slow CPU. An SA that ended without a
successor stalls until the next roam."""
MOST_SAS: Final = 4 * MAX_TUNNELS
"""Two for each tunnel, and two more while the former ones drain."""


@pytest.fixture(scope="module")
def make_world() -> partial[World]:
    return partial(World, endpoint=ENDPOINT + SHORT_KEYS, server=SERVER + SHORT_KEYS)


def renewals(world: World, words: str) -> int:
    """How often both charons together say that they did."""
    return sum(told(side, words) for side in world.sides)


def test_connections_last_longer_than_their_keys(world: World, rekey_seconds: float) -> None:
    traveller, most = Traveller(world), 0
    with world.nothing_in_clear(), flowing(world) as flows:
        flows.go_on()
        began = time.monotonic()
        for roam in roams(SEED, round(rekey_seconds / BETWEEN_ROAMS), rekey_seconds):
            traveller.goes(roam)
            most = max(most, *(len(associations(side)) for side in world.sides))
        world.endpoint.daemon.ask(Verb.ROAM)  # whatever was asked for is forgotten
        flows.go_on()
        longest = flows.bulk.longest_stall(began, time.monotonic())
        flows.end_well()
    children, ikes = renewals(world, "outbound CHILD_SA"), renewals(world, "rekeyed between")
    sys.stdout.write(
        f"{rekey_seconds:g} s: {children} CHILD_SAs and {ikes} IKE_SAs were renewed, "
        f"longest stall {longest}, at most {most} SAs, {flows.bulk}\n"
    )
    assert children > rekey_seconds / LIFE, "the keys did last"
    assert longest.lasted < LONGEST_STALL
    assert most <= MOST_SAS
    eventually(partial(leftovers, world), lambda found: not found, DRAINED)


def test_keys_that_are_not_renewed_end(world: World) -> None:
    """The control: a charon that does not answer renews nothing."""
    charon = world.server.charon
    assert charon is not None
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        os.kill(charon.pid, signal.SIGSTOP)
        try:
            for_a_while(2 * LIFE)
            talk.stays_silent(1.0)
        finally:
            os.kill(charon.pid, signal.SIGCONT)
        talk.goes_on()
        talk.ends_well()
