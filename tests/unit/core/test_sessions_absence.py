"""An endpoint is away, asleep, over; its keys are renewed."""

from dataclasses import replace

from orchestrator.core.absence import FORGOTTEN, USUAL, Patience, SessionState
from orchestrator.core.agenda import SLACK
from orchestrator.core.ike import (
    CharonGone,
    IkeDown,
    IkeMoved,
    IkeRekeyed,
    TunnelDown,
    TunnelRekeyed,
)
from orchestrator.core.quantities import Seconds, Spi, UniqueId
from orchestrator.core.session_events import (
    SessionReason,
    Tick,
)
from tests.unit.core.builders import LTE, VIP4, WIFI, at
from tests.unit.core.server_stories import LAPTOP, NAT, POLICY, ServerStory, from_endpoint
from tests.unit.core.session_cast import (
    OF_TABLET,
    OVER_LTE,
    OVER_WIFI,
    TABLET,
    TABLET_VIP,
    attached,
)


class TestCountingRoams:
    """As `test_mobility` has it of the endpoint."""

    def test_the_first_attachment_is_none(self) -> None:
        assert attached().session().roams == 0

    def test_another_tunnel_at_another_place_is_one(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.probed(2, OVER_LTE)
        assert story.session().roams == 1

    def test_a_move_and_its_renewal_are_one(self) -> None:
        story = attached()
        story.sa_moved(OVER_WIFI, LTE.pop)
        story.admits(OVER_LTE)
        story.probed(2, OVER_LTE)
        assert story.session().roams == 1

    def test_another_tunnel_at_the_same_place_is_none(self) -> None:
        story = attached()
        fresh = from_endpoint(WIFI, 2)
        story.admits(fresh)
        story.probed(2, fresh)
        assert story.session().active == fresh
        assert story.session().roams == 0

    def test_a_return_to_the_same_place_is_none(self) -> None:
        story = attached()
        story.waits(60)
        assert story.state() is SessionState.AWAY
        story.probed(2, OVER_WIFI)
        assert story.session().roams == 0


class TestAbsence:
    def test_an_endpoint_unheard_for_too_long_is_away_and_held(self) -> None:
        story = attached()
        assert story.waits(9.9) == []
        assert story.waits(0.2) == ["hold, from 7"]
        assert story.reason() is SessionReason.UNHEARD

    def test_an_adopted_endpoint_that_is_never_heard_is_away_too(self) -> None:
        story = ServerStory()
        story.admits(OVER_WIFI, adopted=True)
        assert story.waits(10 + FORGOTTEN - USUAL - 0.1) == []
        assert story.waits(0.2) == ["hold, from 7"]

    def test_says_since_when_it_is_as_it_is(self) -> None:
        story = attached()
        story.waits(3)
        story.admits(OVER_LTE)
        story.probed(2, OVER_LTE)
        assert story.session().since == at(0)
        story.waits(60)
        assert story.session().since == at(13)
        story.probed(2, OVER_LTE)
        assert story.session().since == at(63)

    def test_tells_people_of_every_attachment_and_absence(self) -> None:
        story = attached()
        told = story.tells[-1]
        assert (told.what, told.identity, told.fields) == ("attached", LAPTOP, {"pop": NAT})
        assert told.reasons == {SessionReason.ACTIVATED}
        story.waits(11)
        told = story.tells[-1]
        assert told.what == "away"
        assert told.reasons == {SessionReason.UNHEARD}
        story.admits(OVER_LTE)
        story.waits(1)
        story.probed(2, OVER_LTE)
        assert story.tells[-1].fields == {"pop": LTE.pop, "elapsed_ms": 2000.0}

    def test_a_new_patience_holds_for_those_who_are_away_already(self) -> None:
        story = attached()
        story.waits(300)
        assert story.state() is SessionState.AWAY
        brief = Patience(asleep_after=Seconds(60), expire_after=Seconds(320))
        story.is_configured(replace(POLICY, patience=brief))
        story.waits(1)
        assert story.state() is SessionState.ASLEEP
        story.waits(60)
        assert story.machine.by_identity == {}

    def test_fewer_sessions_than_there_are_end_none(self) -> None:
        story = attached()
        story.remembers((VIP4 + 1,), "other")
        assert story.is_configured(replace(POLICY, most=1)) == []
        story.remembers((VIP4,))
        assert set(story.machine.by_identity) == {LAPTOP, "other"}
        assert not story.machine.has_room("third")

    def test_an_endpoint_that_is_heard_stays(self) -> None:
        story = attached()
        for _ in range(30):
            assert story.probed(1, OVER_WIFI, after=2) == []
            assert story.waits(0) == []
        assert story.state() is SessionState.ATTACHED

    def test_listening_for_long_costs_no_memory_and_no_time(self) -> None:
        story = attached()
        for _ in range(2000):
            story.probed(1, OVER_WIFI, after=2)
            story.waits(0)
        assert len(story.machine._register.agenda) <= 2 + SLACK
        ticks = 0
        while (deadline := story.machine.deadline()) is not None:
            story.hears(Tick(), after=deadline - story.now)
            ticks += 1
        assert ticks <= 2

    def test_one_word_of_it_attaches_it_again(self) -> None:
        story = attached()
        story.waits(11)
        assert story.probed(1, OVER_WIFI) == ["to wifi, from 7", "release"]

    def test_without_its_last_tunnel_a_session_is_held_and_blocked(self) -> None:
        story = attached()
        assert story.hears(IkeDown(UniqueId(1))) == ["hold, block"]
        assert story.reason() is SessionReason.NO_TUNNEL

    def test_a_session_outlives_its_tunnels(self) -> None:
        story = attached()
        before = story.session()
        assert story.hears(TunnelDown(UniqueId(1), OVER_WIFI.child)) == ["hold, block"]
        story.waits(3600)
        story.admits(OVER_LTE)
        assert story.probed(2, OVER_LTE) == ["to lte, from 7", "release"]
        assert story.session() is before

    def test_losing_the_active_tunnel_holds_until_another_is_activated(self) -> None:
        """Another may lead to where the endpoint has long gone: only a probe tells."""
        story = attached()
        story.admits(OVER_LTE)
        assert story.hears(IkeDown(UniqueId(1))) == ["hold, from 7"]
        assert story.reason() is SessionReason.TUNNEL_ENDED
        assert story.probed(1, OVER_LTE) == ["to lte, from 7", "release"]

    def test_losing_the_active_tunnel_in_mid_move_holds_and_stays_so(self) -> None:
        story = attached()
        story.mapping(OVER_WIFI)
        assert story.hears(IkeDown(UniqueId(1))) == ["hold, block"]
        assert story.waits(1) == []

    def test_an_ike_sa_that_loses_one_child_sa_is_still_known_by_the_other(self) -> None:
        story = attached()
        sibling = replace(OVER_LTE, ike=OVER_WIFI.ike)
        story.admits(sibling)
        story.hears(TunnelDown(UniqueId(1), sibling.child))
        assert story.hears(IkeDown(UniqueId(1))) == ["hold, block"]

    def test_losing_an_idle_tunnel_changes_nothing(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        assert story.hears(IkeDown(UniqueId(2))) == ["to wifi, from 7"]

    def test_losing_a_tunnel_that_nobody_knows_is_nothing(self) -> None:
        story = attached()
        assert story.hears(IkeDown(UniqueId(77))) == []
        assert story.hears(TunnelDown(UniqueId(1), UniqueId(77))) == []
        assert story.hears(IkeRekeyed(UniqueId(77), UniqueId(78))) == []
        here = OVER_WIFI.local
        assert story.hears(IkeMoved(UniqueId(77), here, 4500, here, 4500)) == []

    def test_without_charon_every_session_is_held_and_blocked(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.admits(OF_TABLET, (TABLET_VIP,), TABLET)
        said = story.hears(CharonGone("crashed"))
        assert sorted(said) == ["hold, block", f"{TABLET}: hold, block"]
        assert story.reason() is SessionReason.CHARON_ABSENT

    def test_without_charon_an_absent_session_is_blocked_too(self) -> None:
        story = attached()
        story.waits(11)
        assert story.hears(CharonGone("crashed")) == ["hold, block"]

    def test_without_charon_a_session_without_tunnels_stays_as_it_is(self) -> None:
        story = ServerStory()
        story.remembers()
        assert story.hears(CharonGone("crashed")) == []

    def test_after_a_restart_of_charon_an_endpoint_may_count_anew(self) -> None:
        story = attached()
        story.probed(500, OVER_WIFI)
        story.hears(CharonGone("restarted"))
        story.admits(OVER_WIFI)
        story.admits(OVER_LTE)
        story.probed(1, OVER_WIFI)
        assert story.probed(2, OVER_LTE) == ["to lte, from 7", "release"]

    def test_a_session_returns_with_charon(self) -> None:
        story = attached()
        story.hears(CharonGone("vici closed"))
        assert story.admits(OVER_WIFI, adopted=True) == ["to wifi, from 7", "release"]

    def test_what_a_charon_before_was_to_end_the_next_one_keeps(
        self,
    ) -> None:
        story = attached()
        fresh = from_endpoint(WIFI, 2)
        story.admits(fresh)
        story.probed(2, fresh)  # tunnel 1 is to be ended in a second
        story.hears(CharonGone("restarted"))
        story.admits(from_endpoint(LTE, 9))
        story.admits(replace(OVER_WIFI, spi_in=Spi(1), spi_out=Spi(2)))
        assert story.waits(2) == []


class TestRekeying:
    def test_a_rekeyed_child_sa_is_the_active_one_at_once(self) -> None:
        story = attached()
        fresh = replace(OVER_WIFI, child=UniqueId(900), spi_in=Spi(5), spi_out=Spi(6))
        assert story.hears(TunnelRekeyed(OVER_WIFI.child, fresh)) == ["to wifi, from 7"]
        assert story.hears(TunnelDown(UniqueId(1), OVER_WIFI.child)) == []
        assert story.state() is SessionState.ATTACHED
        assert story.mapping(fresh) == ["hold, from 7"]

    def test_of_two_successors_the_last_one_counts(self) -> None:
        """Both sides rekeyed at once; the endpoint's is told of first, ours has won."""
        story = attached()
        theirs = replace(OVER_WIFI, child=UniqueId(900), spi_in=Spi(5), spi_out=Spi(6))
        ours = replace(OVER_WIFI, child=UniqueId(901), spi_in=Spi(7), spi_out=Spi(8))
        story.hears(TunnelRekeyed(OVER_WIFI.child, theirs))
        story.hears(TunnelRekeyed(OVER_WIFI.child, ours))
        assert story.session().active == ours
        assert story.session().tunnels == [ours]
        assert story.mapping(theirs) == []
        assert story.mapping(ours) == ["hold, from 7"]

    def test_an_sa_that_is_not_there_yet_is_not_named(self) -> None:
        """The kernel would reserve its SPI, and charon could not install it any more."""
        story = attached()
        neighbour = replace(from_endpoint(WIFI, 2), remote_port=4501)
        story.admits(neighbour)
        assert story.named_sa() == OVER_WIFI.spi_out
        fresh = replace(OVER_WIFI, child=UniqueId(900), spi_in=Spi(5), spi_out=Spi(6))
        story.hears(TunnelRekeyed(OVER_WIFI.child, fresh, unsent=True))
        assert story.named_sa() == OVER_WIFI.spi_out
        story.sa_moved(fresh, NAT)
        assert story.named_sa() == fresh.spi_out
        assert story.reason() is not SessionReason.FOLLOWED

    def test_the_mapping_of_the_replaced_sa_is_nothing(self) -> None:
        story = attached()
        fresh = replace(OVER_WIFI, child=UniqueId(900), spi_in=Spi(5), spi_out=Spi(6))
        story.hears(TunnelRekeyed(OVER_WIFI.child, fresh))
        assert story.mapping(OVER_WIFI) == []

    def test_a_rekeyed_child_sa_of_nobody_is_nothing(self) -> None:
        story = attached()
        assert story.hears(TunnelRekeyed(UniqueId(3), from_endpoint(LTE, 44))) == []

    def test_an_ike_sa_that_was_rekeyed_is_known_by_its_new_number(self) -> None:
        story = attached()
        assert story.hears(IkeRekeyed(UniqueId(1), UniqueId(41))) == []
        assert story.hears(IkeDown(UniqueId(1))) == []
        assert story.hears(IkeDown(UniqueId(41))) == ["hold, block"]

    def test_a_superseded_tunnel_is_ended_though_it_was_rekeyed_meanwhile(self) -> None:
        story = attached()
        fresh = from_endpoint(WIFI, 2)
        story.admits(fresh)
        story.probed(2, fresh)
        rekeyed = replace(OVER_WIFI, child=UniqueId(900), spi_in=Spi(5), spi_out=Spi(6))
        story.hears(TunnelRekeyed(OVER_WIFI.child, rekeyed))
        assert story.waits(2) == ["terminate 1: superseded"]

    def test_a_superseded_tunnel_is_ended_under_its_new_number(self) -> None:
        story = attached()
        fresh = from_endpoint(WIFI, 2)
        story.admits(fresh)
        story.probed(2, fresh)
        story.hears(IkeRekeyed(UniqueId(1), UniqueId(41)))
        assert story.waits(2) == ["terminate 41: superseded"]
