"""Two links that are equal to the operator, or one that is preferred: which one carries the
traffic by what was measured of them."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from orchestrator.lab.product import ENDPOINT
from orchestrator.wire.control import Verb
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import PEER, World, eventually, for_a_while

pytestmark = pytest.mark.long

FAR_MS: Final = 105.0
"""One way: 200 ms more than the Wi-Fi has for a round trip."""
LOSSY: Final = 8.0
"""Percent, each way: 15 % of the round trips."""
USELESS: Final = 25.0
NOTICED: Final = 20.0
"""Seconds in which it would have been left: alone it takes some 12 s."""
SETTLED: Final = 8.0
"""Seconds in which both links are measured: four probes of the one in use."""
LIMIT: Final = 150.0
"""Seconds on a slow and busy CPU."""


def configured(world: World, links: str) -> World:
    """The endpoint attached over Wi-Fi, with a warm tunnel over the second one, measured."""
    world.endpoint.kill()
    world.endpoint.daemon.config = ENDPOINT + links
    world.endpoint.start()
    world.attached("wifi")
    world.lab.link("wifi2").attach()
    eventually(
        world.endpoint.paths, lambda found: on(world, "wifi2", found).get("rtt_ms") is not None
    )
    for_a_while(SETTLED)
    return world


def as_before(world: World) -> None:
    for name in ("wifi", "wifi2"):
        description = world.lab.link(name).description
        world.lab.link(name).set(delay_ms=description.quality.delay_ms, loss_percent=0.0)
    world.endpoint.kill()
    world.endpoint.daemon.config = ENDPOINT
    world.endpoint.start()


@pytest.fixture
def equal(world: World) -> Iterator[World]:
    """By default all Wi-Fi is equal."""
    yield configured(world, "")
    as_before(world)


@pytest.fixture
def indifferent(world: World) -> Iterator[World]:
    yield configured(world, "[links]\nquality = false\n")
    as_before(world)


@pytest.fixture
def preferring(world: World) -> Iterator[World]:
    yield configured(world, '[links]\npreference = ["wlan0", "wlan1"]\n')
    as_before(world)


def on(world: World, link: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The path over this link; empty: there is none."""
    device = world.lab.link(link).device
    return next((path for path in found if path["link"] == device), {})


def moved_because(world: World, reason: str) -> bool:
    """Whether the endpoint has moved for this reason since it began."""
    metrics = world.endpoint.daemon.ask(Verb.METRICS)["metrics"]
    (reasons,) = (each for each in metrics if each["name"] == "event_reasons")
    return any(
        sample["labels"] == {"event": "moving", "reason": reason}
        for sample in reasons["samples"]
    )


def test_a_link_that_became_long_is_left_and_not_gone_back_to(equal: World) -> None:
    with equal.nothing_in_clear(), Conversation.open(equal.endpoint.host, PEER) as talk:
        talk.goes_on()
        equal.lab.link("wifi").set(delay_ms=FAR_MS)
        now = equal.attached("wifi2", limit=LIMIT)
        assert "shorter-round-trip" in now["reasons"]
        roams = now["roams"]
        left = on(equal, "wifi", equal.endpoint.paths())
        assert left["why_not"], left
        assert left["class"] == on(equal, "wifi2", equal.endpoint.paths())["class"]
        # A little better than the one in use, then as good as ever: neither is a reason.
        for delay_ms in (7.0, 5.0):
            equal.lab.link("wifi").set(delay_ms=delay_ms)
            for_a_while(NOTICED)
            assert equal.attached("wifi2")["roams"] == roams
        talk.goes_on()
        talk.ends_well()


def test_one_that_loses_is_left(equal: World) -> None:
    with equal.nothing_in_clear(), Conversation.open(equal.endpoint.host, PEER) as talk:
        talk.goes_on()
        equal.lab.link("wifi").set(loss_percent=LOSSY)
        now = equal.attached("wifi2", limit=LIMIT)
        assert {"less-loss", "path-dead"} & set(now["reasons"])
        assert (on(equal, "wifi", equal.endpoint.paths())["loss_percent"] or 0) > 2
        talk.goes_on()
        talk.ends_well()


def test_where_quality_is_no_reason_it_stays(indifferent: World) -> None:
    with Conversation.open(indifferent.endpoint.host, PEER) as talk:
        talk.goes_on()
        indifferent.lab.link("wifi").set(delay_ms=FAR_MS)
        for_a_while(2 * NOTICED)
        indifferent.attached("wifi")
        talk.goes_on()
        talk.ends_well()


def test_a_preferred_link_is_left_when_it_is_useless_and_gone_back_to(
    preferring: World,
) -> None:
    with (
        preferring.nothing_in_clear(),
        Conversation.open(preferring.endpoint.host, PEER) as talk,
    ):
        talk.goes_on()
        preferring.lab.link("wifi").set(delay_ms=FAR_MS)
        for_a_while(NOTICED)
        assert preferring.attached("wifi")["roams"] == 0, "a long way is not useless"
        preferring.lab.link("wifi").set(delay_ms=5.0, loss_percent=USELESS)
        eventually(lambda: moved_because(preferring, "lossy"), bool, LIMIT)
        preferring.attached("wifi2", limit=LIMIT)
        preferring.lab.link("wifi").set(loss_percent=0.0)
        preferring.attached("wifi", limit=LIMIT)
        talk.goes_on()
        talk.ends_well()
