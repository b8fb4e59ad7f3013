"""Stories of an endpoint that keeps several tunnels, and asks which of them work."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from orchestrator.core.absence import SessionState
from orchestrator.core.following import FOLLOW_LIMIT
from orchestrator.core.ike import (
    CharonGone,
    IkeDown,
    IkeMoved,
    IkeRekeyed,
    TunnelDown,
    TunnelRekeyed,
)
from orchestrator.core.kernel import Direction
from orchestrator.core.quantities import IPAddress, Reqid, Spi, UniqueId
from orchestrator.core.session import MAX_TUNNELS, UNASKED
from orchestrator.core.session_events import Heard, HeardWarm, SessionReason
from orchestrator.core.session_probes import DRAIN
from orchestrator.core.warmth import ASK_METERED
from tests.unit.core.builders import LTE, VIP4, VIP6, WIFI, WIFI2, at
from tests.unit.core.server_stories import (
    LAPTOP,
    POLICY,
    ServerStory,
    from_endpoint,
    policies,
    ways_back,
)

TABLET = "tablet@example.org"
TABLET_VIP: IPAddress = ip_address("10.99.0.9")
OVER_WIFI = from_endpoint(WIFI, 1)
OVER_LTE = from_endpoint(LTE, 2)
OVER_WIFI2 = from_endpoint(WIFI2, 3)


def two_tunnels() -> ServerStory:
    """The laptop uses the Wi-Fi; it has a second tunnel, over LTE."""
    story = ServerStory()
    story.admits(OVER_WIFI)
    story.probed(1, OVER_WIFI)
    story.admits(OVER_LTE)
    return story


def warm() -> ServerStory:
    """It has asked for the second one, too."""
    story = two_tunnels()
    assert story.asks(OVER_LTE) == ["to wifi, from 7, warm lte", "answer there"]
    return story


class TestAnswers:
    def test_an_idle_tunnel_is_answered_through_itself_and_nothing_flips(self) -> None:
        story = warm()
        assert story.session().active == OVER_WIFI
        assert story.asks(OVER_LTE) == ["answer there"], "the way is there already"

    def test_without_being_asked_there_is_no_way_and_it_costs_nothing(self) -> None:
        story = two_tunnels()
        assert ways_back(story.session().objects()) == []

    def test_a_request_for_an_idle_tunnel_is_not_answered_all_the_same(self) -> None:
        """The control: it would be answered over the active path, and prove nothing."""
        story = warm()
        assert story.hears(Heard(VIP4, 1, OVER_LTE.spi_out)) == []

    def test_the_active_tunnel_may_be_asked_for_as_well(self) -> None:
        story = two_tunnels()
        assert story.asks(OVER_WIFI) == ["to wifi, from 7, warm wifi", "answer there"]

    def test_a_flip_is_one_policy(self) -> None:
        story = warm()
        before = set(story.session().objects())
        assert story.probed(2, OVER_LTE) == ["to lte, from 7, warm lte", "release"]
        assert len(set(story.session().objects()) - before) == 1

    def test_both_addresses_of_a_session_have_a_way_back(self) -> None:
        story = ServerStory()
        both = from_endpoint(WIFI, 1, (VIP4, VIP6))
        story.admits(both, (VIP4, VIP6))
        story.hears(HeardWarm(VIP6, 1, both.spi_out))
        found = ways_back(story.session().objects())
        assert {str(p.selector.source) for p in found} == {
            "192.0.0.8/32",
            "fd6f:7263:6865::1/128",
        }

    def test_a_tunnel_that_nobody_knows_is_not_answered(self) -> None:
        story = two_tunnels()
        assert story.asks(OVER_WIFI2) == []

    def test_nor_one_of_another_session(self) -> None:
        story = two_tunnels()
        theirs = from_endpoint(WIFI2, 9, (TABLET_VIP,), Reqid(8))
        story.admits(theirs, (TABLET_VIP,), TABLET)
        assert story.asks(theirs) == []

    def test_nor_anything_for_an_address_without_a_session(self) -> None:
        story = two_tunnels()
        assert story.hears(HeardWarm(TABLET_VIP, 1, OVER_LTE.spi_out)) == []

    def test_there_are_no_more_ways_than_tunnels_may_be(self) -> None:
        """Beyond that each new tunnel costs an idle one, which may take its time to end."""
        story = two_tunnels()
        asked = [from_endpoint(LTE, number) for number in range(10, 10 + MAX_TUNNELS + 2)]
        for fresh in asked:
            story.admits(fresh)
        said = [story.asks(fresh) for fresh in asked]
        assert [words[-1:] for words in said[:MAX_TUNNELS]] == [["answer there"]] * MAX_TUNNELS
        assert said[MAX_TUNNELS:] == [[], []]
        story.hears(IkeDown(asked[0].ike))
        assert story.asks(asked[-1])[-1:] == ["answer there"]


class TestSignsOfLife:
    def test_an_endpoint_that_asks_stays(self) -> None:
        story = warm()
        for _ in range(30):
            assert story.asks(OVER_LTE, after=2) == ["answer there"]
            assert story.waits(0) == []
        assert story.state() is SessionState.ATTACHED

    def test_and_without_asking_it_is_away(self) -> None:
        story = warm()
        assert story.waits(60) == ["hold, from 7, warm lte"]

    def test_each_tunnel_has_the_time_when_it_was_named_last(self) -> None:
        story = two_tunnels()
        story.asks(OVER_LTE, after=2)
        story.probed(1, OVER_WIFI, after=1)
        heard = {child: known.heard for child, known in story.session().known.items()}
        assert heard == {OVER_WIFI.child: at(3), OVER_LTE.child: at(2)}

    def test_what_names_no_tunnel_is_a_sign_of_life_too(self) -> None:
        """It came out of an SA of this session."""
        story = two_tunnels()
        story.asks(OVER_WIFI2, after=2)
        assert story.session().heard == at(2)

    def test_an_endpoint_that_is_away_is_answered_and_stays_away(self) -> None:
        story = two_tunnels()
        story.waits(60)
        assert story.asks(OVER_LTE) == ["hold, from 7, warm lte", "answer there"]
        told = len(story.tells)
        for _ in range(30):
            assert story.asks(OVER_LTE, after=2) == ["answer there"]
            assert story.waits(0) == []
        assert story.state() is SessionState.AWAY
        assert len(story.tells) == told

    def test_a_single_tunnel_proves_itself_when_the_active_one_has_ended(self) -> None:
        story = warm()
        assert story.hears(IkeDown(OVER_WIFI.ike)) == ["hold, from 7, warm lte"]
        assert story.asks(OVER_LTE) == ["answer there"]
        assert story.reason() is SessionReason.TUNNEL_ENDED
        assert story.probed(1, OVER_LTE) == ["to lte, from 7, warm lte", "release"]

    def test_asking_delays_neither_sleep_nor_the_end(self) -> None:
        """Whoever can ask can activate: how long we wait for that counts from its absence."""
        story = two_tunnels()
        story.waits(60)
        said: list[str] = []
        while story.now < 11 + 600:
            said += story.asks(OVER_LTE, after=5)
            said += story.waits(0)
        assert "shed" in said
        assert story.state() is SessionState.ASLEEP

    def test_one_that_sleeps_is_not_woken(self) -> None:
        story = warm()
        story.sleeps(1, OVER_WIFI)
        assert story.asks(OVER_LTE) == ["answer there"]
        assert story.state() is SessionState.ASLEEP

    def test_an_endpoint_that_counts_elsewhere_is_not_confused_with_it(self) -> None:
        """The flip in it activates nothing, then or later."""
        story = warm()
        story.asks(OVER_LTE, flip=50)
        assert (story.session().flip, story.session().sequence) == (1, 0)
        assert story.probed(2, OVER_LTE) == ["to lte, from 7, warm lte", "release"]


class TestWaysBackFollow:
    def test_a_rekeying(self) -> None:
        story = warm()
        fresh = replace(OVER_LTE, child=UniqueId(900), spi_in=Spi(5), spi_out=Spi(6))
        assert story.hears(TunnelRekeyed(OVER_LTE.child, fresh)) == [
            "to wifi, from 7, warm lte"
        ]
        assert story.asks(fresh) == ["answer there"]
        assert story.asks(OVER_LTE) == []

    def test_a_rekeying_that_the_endpoint_began(self) -> None:
        """charon installs the new outbound SA when the endpoint has deleted the old ones."""
        story = warm()
        fresh = replace(OVER_LTE, child=UniqueId(900), spi_in=Spi(5), spi_out=Spi(6))
        story.hears(TunnelRekeyed(OVER_LTE.child, fresh, unsent=True))
        (way,) = {policy.template for policy in ways_back(story.kernel[LAPTOP])}
        assert way is not None
        assert way.spi == OVER_LTE.spi_out
        story.sa_moved(fresh, LTE.pop)
        assert story.asks(fresh) == ["answer there"]

    def test_a_move(self) -> None:
        story = warm()
        assert story.mapping(OVER_LTE) == []
        assert story.sa_moved(OVER_LTE, WIFI2.pop) == ["to wifi, from 7, warm wifi2"]
        assert story.asks(OVER_LTE) == ["answer there"]

    def test_a_move_of_the_active_one_and_the_hold_meanwhile(self) -> None:
        story = two_tunnels()
        story.asks(OVER_WIFI)
        assert story.mapping(OVER_WIFI) == ["hold, from 7, warm wifi"]
        assert story.sa_moved(OVER_WIFI, WIFI2.pop) == [
            "to wifi2, from 7, warm wifi2",
            "release",
        ]

    def test_nothing_is_answered_while_charon_rewrites_the_sas(self) -> None:
        story = warm()
        story.asks(OVER_WIFI)
        story.mapping(OVER_LTE)
        assert story.asks(OVER_LTE) == []
        story.mapping(OVER_WIFI)
        assert story.asks(OVER_WIFI) == []

    def test_where_charon_does_not_follow_it_is_answered_again(self) -> None:
        story = warm()
        story.mapping(OVER_LTE)
        assert story.asks(OVER_LTE, after=FOLLOW_LIMIT) == ["answer there"]

    def test_another_number_of_the_ike_sa_and_another_port_change_no_way(self) -> None:
        story = warm()
        assert story.hears(IkeRekeyed(OVER_LTE.ike, UniqueId(41))) == []
        port = IkeMoved(UniqueId(41), OVER_LTE.local, 4500, OVER_LTE.remote, 1024)
        assert story.hears(port) == []
        assert story.asks(OVER_LTE) == ["answer there"]

    def test_one_that_is_made_anew_at_its_place_ends_it(self) -> None:
        """Its endpoint's charon crashed, and cannot; the active one stays as it is."""
        story = warm()
        again = from_endpoint(LTE, 4)
        story.admits(again)
        assert story.waits(DRAIN) == [], "its successor is not in use yet"
        assert story.asks(again)[-1] == "answer there"
        assert story.waits(DRAIN) == [f"terminate {OVER_LTE.ike}: superseded"]

    def test_unless_it_is_the_active_one(self) -> None:
        story = two_tunnels()
        again = from_endpoint(WIFI, 4)
        story.admits(again)
        story.asks(again)
        assert story.waits(DRAIN) == []

    def test_the_end(self) -> None:
        story = warm()
        gone = TunnelDown(OVER_LTE.ike, OVER_LTE.child)
        assert story.hears(gone) == ["to wifi, from 7"]
        assert story.session().known.keys() == {OVER_WIFI.child}

    def test_nobody_says_good_bye_over_a_lost_link(self) -> None:
        """Of an endpoint that is heard, what it asks for no more has ended with its link."""
        story = warm()
        story.admits(OVER_WIFI2)
        said = []
        while story.now < UNASKED + POLICY.detach_after:
            said += story.probed(1, OVER_WIFI, after=2) + story.waits(0)
            said += [words for words in story.asks(OVER_LTE) if words != "answer there"]
        assert set(said) == {"terminate 3: not-asked-for"}

    def test_one_that_is_asked_for_rarely_because_its_link_is_dear_stays_as_long(self) -> None:
        story = warm()
        said = []
        for _ in range(3):
            said += story.asks(OVER_LTE, within=ASK_METERED)
            for _ in range(int(ASK_METERED / 2)):
                said += story.probed(1, OVER_WIFI, after=2) + story.waits(0)
        assert set(said) == {"answer there"}
        while story.now < 6 * ASK_METERED:
            said += story.probed(1, OVER_WIFI, after=2) + story.waits(0)
        assert said[-1] == "terminate 2: not-asked-for"

    def test_of_an_endpoint_that_is_away_all_tunnels_are_kept(self) -> None:
        """It may come back out of any of them, and is given time to ask for the others."""
        story = warm()
        assert story.waits(500) == ["hold, from 7, warm lte"]
        story.probed(2, OVER_LTE)
        while story.now < 500 + UNASKED - 2:
            assert story.probed(2, OVER_LTE, after=2) == []
            assert story.waits(0) == []

    def test_the_end_of_charon(self) -> None:
        story = warm()
        assert story.hears(CharonGone("crashed")) == ["hold, block"]

    def test_a_slot_stays_with_its_tunnel_and_is_given_again_after_it(self) -> None:
        story = warm()
        story.admits(OVER_WIFI2)
        story.asks(OVER_WIFI2)
        session = story.session()
        assert (session.slot_of(OVER_LTE), session.slot_of(OVER_WIFI2)) == (0, 1)
        story.hears(IkeDown(OVER_LTE.ike))
        assert session.slot_of(OVER_WIFI2) == 1
        again = from_endpoint(LTE, 4)
        story.admits(again)
        story.asks(again)
        assert session.slot_of(again) == 0

    @pytest.mark.parametrize("direction", [Direction.IN, Direction.FWD])
    def test_none_of_it_lets_anything_in(self, direction: Direction) -> None:
        story = two_tunnels()
        before = policies(story.session().objects(), direction)
        story.asks(OVER_LTE)
        assert policies(story.session().objects(), direction) == before
