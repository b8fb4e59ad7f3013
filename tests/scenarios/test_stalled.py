"""Senders that backed off before anybody knew that their path was gone go on with it."""

from typing import Final

import pytest

from tests.scenarios.conversation import Conversation
from tests.scenarios.world import PEER, PEER6, World, for_a_while

CUTS: Final = ((3.4, 0.8), (1.7, 0.3), (2.1, 0.4), (3.1, 0.3), (1.9, 0.6), (3.6, 0.5))
"""Seconds without a way to the server, and with one: each of these is shorter than it takes to
be sure, or to be back, and each makes the senders wait for longer."""
SOON: Final = 3.0
"""Seconds: a path is proven, and the round of the daemons; their timers were at 13 s."""


@pytest.mark.parametrize("peer", [PEER, PEER6], ids=["v4", "v6"])
def test_short_cuts_do_not_add_up(world: World, peer: str) -> None:
    wan = world.lab.link("wan")
    with Conversation.open(world.endpoint.host, peer) as talk:
        talk.goes_on()
        for cut, mended in CUTS:
            wan.cut()
            for_a_while(cut)
            wan.mend()
            for_a_while(mended)
        world.attached()
        assert talk.goes_on() < SOON
        talk.ends_well()
