"""Where the traffic goes by what was measured; told over links whose quality changes."""

from dataclasses import replace
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given, settings, strategies

from orchestrator.core.choice import DWELL, MARGIN
from orchestrator.core.mobility_events import RoamRequested
from orchestrator.core.mobility_policy import MobilityPolicy
from orchestrator.core.paths import LinkChoice
from orchestrator.core.warmth import ASK
from tests.unit.core.builders import LTE, WIFI, WIFI2
from tests.unit.core.radio import Link, Radio
from tests.unit.core.stories import POLICY

EQUAL: Final = replace(
    POLICY, warm_links=2, lossy=0.2, choice=LinkChoice(preference=(("wlan*", "wwan*"),))
)
"""Wi-Fi is used because of its metric, and for no other reason."""
PREFERRED: Final = replace(EQUAL, choice=LinkChoice(preference=("wlan*", "wwan*")))
SOON: Final = 30.0
CALL: Final = 50.0
"""Packets a second."""


def settled(policy: MobilityPolicy = EQUAL, seed: int = 1) -> Radio:
    """Attached over Wi-Fi, with a warm tunnel over LTE, for half a minute."""
    radio = Radio(policy, WIFI, LTE, seed=seed)
    radio.links["lte"].rtt = 0.05
    radio.run(30)
    assert (radio.where, radio.attached, len(radio.flips)) == ("wifi", True, 1)
    return radio


class TestAmongEquals:
    def test_a_link_that_became_long_is_left_and_it_is_said_why(self) -> None:
        radio = settled()
        radio.links["wifi"].rtt = 0.22
        assert radio.until("lte", SOON) > DWELL
        assert radio.flips[-1].reasons == {"shorter-round-trip", "warm-path"}
        moving = radio.story.told("moving")
        assert moving.fields is not None
        assert moving.fields["left_rtt_ms"] == pytest.approx(220)
        assert moving.fields["rtt_ms"] == pytest.approx(50)

    def test_not_where_the_operator_does_not_want_it(self) -> None:
        radio = settled(replace(EQUAL, lossy=None))
        radio.links["wifi"].rtt = 0.22
        radio.run(300)
        assert radio.where == "wifi"

    @pytest.mark.parametrize("seed", range(5))
    def test_one_that_loses_is_left_whatever_is_sent_over_it(self, seed: int) -> None:
        radio = settled(seed=seed)
        radio.links["wifi"].loss = 0.08
        radio.until("lte", 300)
        assert radio.flips[-1].reasons & {"less-loss", "path-dead"}

    @pytest.mark.parametrize("seed", range(5))
    def test_soon_where_traffic_tells_of_it(self, seed: int) -> None:
        radio = settled(seed=seed)
        radio.packets = CALL
        radio.links["wifi"].loss = 0.08
        radio.until("lte", SOON)
        assert radio.flips[-1].reasons & {"less-loss", "path-dead"}

    def test_it_is_not_gone_back_to_because_it_is_a_little_better_or_well(self) -> None:
        radio = settled()
        radio.links["wifi"].rtt = 0.22
        radio.until("lte", SOON)
        for rtt in (0.05, 0.03, 0.01):
            radio.links["wifi"].rtt = rtt
            radio.run(200)
        assert radio.where == "lte"
        assert radio.why_not("wifi") == {"not-better"}

    def test_it_is_where_the_other_one_became_worse(self) -> None:
        radio = settled()
        radio.links["wifi"].rtt = 0.22
        radio.until("lte", SOON)
        radio.links["wifi"].rtt = 0.02
        radio.links["lte"].rtt = 0.3
        radio.until("wifi", 2 * SOON)

    def test_a_radio_that_hardly_hears_is_left_for_one_that_is_a_little_worse(self) -> None:
        radio = settled()
        radio.signals["wifi"] = -84
        radio.until("lte", SOON)
        assert radio.flips[-1].reasons == {"stronger-signal", "warm-path"}
        radio.signals["wifi"] = -50
        radio.run(60)
        assert radio.where == "lte"

    def test_not_for_one_that_hardly_hears_either(self) -> None:
        radio = settled()
        radio.signals = {"wifi": -84, "lte": -90}
        radio.run(60)
        assert radio.where == "wifi"

    def test_a_difference_below_the_margin_is_none(self) -> None:
        radio = settled()
        radio.links["wifi"].rtt = 0.05 * (MARGIN - 0.2)
        radio.run(300)
        assert radio.where == "wifi"

    def test_a_higher_rate_alone_is_no_reason(self) -> None:
        radio = settled()
        radio.packets = 1000
        radio.run(20)
        radio.packets = 1
        radio.run(120)
        assert radio.where == "wifi"

    def test_a_pause_of_a_second_is_neither_loss_nor_delay(self) -> None:
        radio = settled()
        radio.packets = CALL
        for _ in range(10):
            radio.links["wifi"].loss = 1.0
            radio.run(0.25)
            radio.links["wifi"].loss = 0.0
            radio.run(20)
        assert radio.where == "wifi"

    def test_a_queue_that_the_own_traffic_makes_is_no_reason(self) -> None:
        radio = settled()
        radio.packets = 1000
        for _ in range(20):
            radio.run(1)
            radio.links["wifi"].rtt = 0.3
        radio.run(20)
        assert radio.where == "wifi"
        radio.packets = 1
        radio.until("lte", SOON)

    def test_good_links_cost_no_more_than_before(self) -> None:
        radio = settled()
        asked = radio.asked
        radio.run(1200)
        assert radio.asked - asked <= 1200 / ASK + 1

    @pytest.mark.parametrize("packets", [0, CALL])
    def test_two_links_that_lose_alike_do_not_take_turns(self, packets: float) -> None:
        radio = settled()
        radio.links["wifi"] = radio.links["lte"] = Link(0.05, 0.05)
        radio.packets = packets
        radio.run(240)
        assert len(radio.for_quality) <= 4


class TestClasses:
    def test_come_before_quality(self) -> None:
        radio = settled(PREFERRED)
        radio.links["wifi"] = Link(0.3, 0.02)
        radio.packets = CALL
        radio.run(60)
        assert radio.where == "wifi"
        assert radio.why_not("lte") == {"less-preferred"}

    def test_but_not_before_a_link_that_is_useless_and_back_when_it_is_well(self) -> None:
        radio = settled(PREFERRED)
        radio.packets = CALL
        radio.links["wifi"].loss = 0.25
        while not radio.for_quality:
            radio.run(1)
            assert radio.now < 400
        assert radio.where == "lte"
        assert radio.flips[-1].reasons == {"lossy", "warm-path"}
        assert radio.why_not("wifi") & {"lossy"}
        radio.run(120)
        assert radio.where == "lte", "it loses still"
        radio.links["wifi"].loss = 0.0
        radio.until("wifi", 180)
        assert "better-link" in radio.flips[-1].reasons

    def test_a_useless_link_is_better_than_none(self) -> None:
        radio = Radio(PREFERRED, WIFI)
        radio.packets = CALL
        radio.links["wifi"].loss = 0.25
        radio.run(120)
        assert radio.where == "wifi"

    @pytest.mark.parametrize("seed", range(3))
    def test_of_two_useless_links_it_does_not_bounce_between(self, seed: int) -> None:
        radio = settled(PREFERRED, seed)
        radio.packets = CALL
        radio.links["wifi"].loss = radio.links["lte"].loss = 0.25
        radio.run(120)
        assert len(radio.for_quality) <= 4

    def test_what_is_metered_is_for_when_nothing_else_works(self) -> None:
        choice = LinkChoice(preference=("wwan*", "wlan*"), metered=("wwan*",))
        radio = settled(replace(EQUAL, choice=choice))
        radio.links["wifi"].rtt = 0.3
        radio.run(120)
        assert radio.where == "wifi"
        assert radio.why_not("lte") == {"metered"}
        radio.links["wifi"].loss = 1.0
        radio.until("lte", 5)

    def test_the_link_that_the_operator_asked_for_stays(self) -> None:
        radio = settled()
        radio.story.hears(RoamRequested("wlan0"))
        radio.links["wifi"] = Link(0.5, 0.04)
        radio.packets = CALL
        radio.run(60)
        assert radio.where == "wifi"
        assert radio.why_not("lte") == {"other-link-asked-for"}


qualities = strategies.builds(
    Link,
    rtt=strategies.sampled_from((0.01, 0.05, 0.3)),
    loss=strategies.sampled_from((0.0, 0.0, 0.05, 0.15, 0.3, 1.0)),
    jitter=strategies.sampled_from((0.0, 0.5)),
)
weathers = strategies.lists(
    strategies.tuples(qualities, qualities, strategies.sampled_from((0.5, 4.0, 15.0, 30.0))),
    min_size=1,
    max_size=4,
)
seeds = strategies.integers(0, 2**32)
policies = strategies.sampled_from((EQUAL, PREFERRED))
traffic = strategies.sampled_from((0.0, 0.0, CALL))


@settings(max_examples=20)
@given(weathers, policies, traffic, seeds)
def test_in_any_weather(
    weather: list[tuple[Link, Link, float]], policy: MobilityPolicy, packets: float, seed: int
) -> None:
    """Nothing is left for its quality within the dwell; there is a path if one is usable."""
    radio = Radio(policy, WIFI, LTE, seed=seed)
    radio.packets = packets
    for wifi, lte, seconds in weather:
        radio.links["wifi"], radio.links["lte"] = wifi, lte
        radio.run(seconds)
    for former, flip in pairwise(radio.flips):
        if flip.for_quality and "lossy" not in flip.reasons:
            assert flip.when - former.when >= DWELL
    for former, flip in pairwise(radio.for_quality):
        assert flip.when - former.when >= DWELL
    radio.links["wifi"] = Link(loss=1.0)
    radio.links["lte"] = Link(0.05)
    radio.run(60)
    assert (radio.where, radio.attached) == ("lte", True)


@settings(max_examples=20)
@given(strategies.floats(0.001, 0.4), strategies.floats(0, 0.9), traffic, seeds)
def test_between_links_that_are_alike_it_stays(
    rtt: float, jitter: float, packets: float, seed: int
) -> None:
    radio = Radio(EQUAL, WIFI, WIFI2, seed=seed)
    radio.packets = packets
    radio.links["wifi"], radio.links["wifi2"] = Link(rtt, 0, jitter), Link(rtt, 0, jitter)
    radio.run(60)
    assert radio.for_quality == []
