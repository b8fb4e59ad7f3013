"""Stories of a server and its endpoints, told as dialogues: what it hears, what it orders then.

"to wifi, from 7" means: what is for the session's VIP is sent into the tunnel to the Wi-Fi, and
what comes from it must have come out of an SA with reqid 7.
"""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from orchestrator.core.absence import FORGOTTEN, USUAL, Patience, SessionState
from orchestrator.core.agenda import SLACK
from orchestrator.core.following import FOLLOW_LIMIT
from orchestrator.core.ike import (
    CharonGone,
    CharonUp,
    IkeDown,
    IkeMoved,
    IkeRekeyed,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.quantities import IPAddress, Reqid, Seconds, Spi, UniqueId
from orchestrator.core.session import MAX_TUNNELS
from orchestrator.core.session_events import (
    Heard,
    MappingChanged,
    SessionReason,
    StateMoved,
    Tick,
)
from orchestrator.core.session_probes import DRAIN
from tests.unit.core.builders import LTE, VIP4, VIP6, WIFI, WIFI2, at
from tests.unit.core.server_stories import LAPTOP, NAT, POLICY, ServerStory, from_endpoint

TABLET = "tablet@example.org"
TABLET_VIP: IPAddress = ip_address("10.99.0.9")
OVER_WIFI = from_endpoint(WIFI, 1)
OVER_LTE = from_endpoint(LTE, 2)
OF_TABLET = from_endpoint(WIFI2, 3, (TABLET_VIP,), Reqid(8))


def attached() -> ServerStory:
    """A story whose laptop is attached over the Wi-Fi, its first flip heard."""
    story = ServerStory()
    story.admits(OVER_WIFI)
    story.probed(1, OVER_WIFI)
    assert story.state() is SessionState.ATTACHED
    return story


class TestAdmission:
    def test_a_remembered_lease_is_held_and_blocked_from_the_first_moment(self) -> None:
        story = ServerStory()
        assert story.remembers() == ["hold, block"]
        assert story.state() is SessionState.AWAY

    def test_the_first_tunnel_may_send_at_once_and_is_sent_to_when_it_is_ready(self) -> None:
        """Its endpoint has no SA yet when charon here tells of it."""
        story = ServerStory()
        story.remembers()
        assert story.admits(OVER_WIFI) == ["hold, from 7"]
        assert story.state() is SessionState.AWAY
        assert story.probed(1, OVER_WIFI) == ["to wifi, from 7", "release"]
        assert story.state() is SessionState.ATTACHED
        assert story.reason() is SessionReason.ACTIVATED

    def test_a_further_tunnel_waits_to_be_activated(self) -> None:
        story = attached()
        assert story.admits(OVER_LTE) == ["to wifi, from 7"]

    def test_a_tunnel_from_before_is_ready(self) -> None:
        story = ServerStory()
        assert story.admits(OVER_WIFI, adopted=True) == ["to wifi, from 7", "release"]
        assert story.reason() is SessionReason.ADOPTED

    def test_both_addresses_of_a_session_are_served(self) -> None:
        story = ServerStory()
        both = from_endpoint(WIFI, 1, (VIP4, VIP6))
        story.admits(both, (VIP4, VIP6))
        assert story.probed(1, both) == ["to wifi, from 7", "release"]
        assert len(story.session().objects()) == 6

    def test_hearing_twice_of_one_tunnel_makes_no_second_one(self) -> None:
        story = attached()
        assert story.admits(OVER_WIFI) == ["to wifi, from 7"]
        assert len(story.session().tunnels) == 1

    def test_hearing_of_it_with_other_values_takes_them(self) -> None:
        story = attached()
        elsewhere = replace(OVER_WIFI, remote=ip_address(LTE.pop), spi_out=Spi(99))
        assert story.admits(elsewhere) == ["to lte, from 7"]
        assert story.session().active == elsewhere

    def test_sessions_do_not_touch_each_other(self) -> None:
        story = attached()
        said = story.admits(OF_TABLET, (TABLET_VIP,), TABLET)
        assert said == [f"{TABLET}: hold, from 8"]
        assert story.hears(IkeDown(UniqueId(3))) == [f"{TABLET}: hold, block"]
        assert story.state() is SessionState.ATTACHED

    def test_too_many_tunnels_cost_the_oldest_idle_one(self) -> None:
        story = attached()
        for number in range(2, MAX_TUNNELS + 1):
            assert story.admits(from_endpoint(LTE, number)) == ["to wifi, from 7"]
        assert story.admits(from_endpoint(LTE, 50)) == [
            "terminate 2: too-many-tunnels",
            "to wifi, from 7",
        ]

    def test_a_session_may_be_given_another_address(self) -> None:
        story = attached()
        other = ip_address("10.99.0.8")
        story.admits(from_endpoint(LTE, 2, (other,)), (other,))
        assert story.machine.session_of_vip(VIP4) is None
        assert story.machine.session_of_vip(other) is story.session()

    def test_an_address_that_changes_hands_is_taken_from_the_first_before(self) -> None:
        story = attached()
        heir = from_endpoint(WIFI2, 3, (VIP4,), Reqid(8))
        said = story.admits(heir, (VIP4,), TABLET)
        assert said == ["nothing, nothing", f"{TABLET}: hold, from 8"]

    def test_the_former_owner_does_not_get_it_back_by_being_alive(self) -> None:
        story = attached()
        story.admits(from_endpoint(WIFI2, 3, (VIP4,), Reqid(8)), (VIP4,), TABLET)
        story.mapping(OVER_WIFI)
        story.sa_moved(OVER_WIFI, LTE.pop)
        story.hears(IkeDown(UniqueId(1)))
        assert story.machine.session_of_vip(VIP4) is story.session(TABLET)

    def test_charons_own_words_about_tunnels_are_left_to_the_lease(self) -> None:
        story = ServerStory()
        assert story.hears(TunnelUp(OVER_WIFI)) == []
        assert story.hears(CharonUp("5.9.8", (OVER_WIFI,))) == []
        assert story.machine.by_identity == {}


class TestActivation:
    def test_the_endpoint_activates_a_tunnel_by_a_probe(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        assert story.probed(2, OVER_LTE) == ["to lte, from 7", "release"]
        assert story.reason() is SessionReason.ACTIVATED

    def test_without_the_probe_nothing_flips(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        assert story.waits(5) == []
        assert story.session().active == OVER_WIFI

    def test_the_answer_comes_after_the_flip_so_that_it_takes_the_new_path(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        said = story.hears(Heard(VIP4, 2, OVER_LTE.spi_out))
        assert said == ["to lte, from 7", "release", "answer"]

    def test_the_same_flip_again_changes_nothing(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.probed(2, OVER_LTE)
        assert story.probed(2, OVER_LTE) == []
        assert story.probed(2, OVER_WIFI) == []

    def test_an_older_flip_that_comes_late_changes_nothing(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.probed(3, OVER_LTE)
        assert story.probed(2, OVER_WIFI) == []
        assert story.session().active == OVER_LTE

    @pytest.mark.parametrize(
        ("known", "told", "newer"),
        [
            (2**32 - 1, 0, True),
            (2**32 - 1, 2**31 - 2, True),
            (2**32 - 1, 2**31 - 1, False),
            (0, 2**32 - 1, False),
            (5, 5 + 2**31 - 1, True),
            (5, 5 + 2**31, False),
        ],
    )
    def test_flips_wrap_as_serial_numbers_do(
        self, known: int, told: int, *, newer: bool
    ) -> None:
        story = ServerStory()
        story.admits(OVER_WIFI)
        story.admits(OVER_LTE)
        story.probed(known, OVER_WIFI)
        story.probed(told, OVER_LTE)
        assert (story.session().active == OVER_LTE) == newer

    def test_a_probe_for_a_tunnel_not_admitted_yet_works_when_repeated(self) -> None:
        story = attached()
        assert story.probed(2, OVER_LTE) == []
        story.admits(OVER_LTE)
        assert story.probed(2, OVER_LTE) == ["to lte, from 7", "release"]

    def test_what_came_another_way_is_not_answered(self) -> None:
        """An answer proves to the endpoint that its new way works."""
        story = attached()
        assert story.hears(Heard(VIP4, 2, OVER_LTE.spi_out)) == []
        story.admits(OVER_LTE)
        story.probed(3, OVER_LTE)
        assert story.hears(Heard(VIP4, 2, OVER_WIFI.spi_out)) == []

    def test_an_endpoint_that_lost_count_is_followed_again(self) -> None:
        story = ServerStory()
        story.admits(OVER_WIFI)
        story.probed(1000, OVER_WIFI)
        story.waits(60)
        assert story.session().state is SessionState.AWAY
        story.probed(5, OVER_WIFI)
        story.admits(OVER_LTE)
        story.probed(6, OVER_LTE)
        assert story.session().active == OVER_LTE

    def test_a_tunnel_is_condemned_once_however_many_probes_say_so(self) -> None:
        story = attached()
        story.admits(replace(OVER_WIFI, ike=UniqueId(2), child=UniqueId(2), spi_out=Spi(77)))
        for flip in range(2, 100):
            story.hears(Heard(VIP4, flip, Spi(77)))
        assert len(story.waits(2)) == 1

    def test_a_probe_from_an_address_without_a_session_is_nothing(self) -> None:
        story = attached()
        assert story.hears(Heard(TABLET_VIP, 9, OVER_WIFI.spi_out)) == []

    def test_a_probe_cannot_name_another_sessions_tunnel(self) -> None:
        story = attached()
        story.admits(OF_TABLET, (TABLET_VIP,), TABLET)
        assert story.probed(2, OF_TABLET) == []
        assert story.session().active == OVER_WIFI

    def test_a_superseded_tunnel_is_ended_after_the_drain(self) -> None:
        story = attached()
        fresh = from_endpoint(WIFI, 2)
        story.admits(fresh)
        story.probed(2, fresh)
        assert story.waits(DRAIN - 0.1) == []
        assert story.waits(0.2) == ["terminate 1: superseded"]

    def test_a_tunnel_over_another_link_is_not_superseded(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.probed(2, OVER_LTE)
        assert story.waits(5) == []

    def test_a_tunnel_from_another_port_of_the_same_nat_is_not_superseded(self) -> None:
        story = attached()
        fresh = replace(from_endpoint(WIFI, 2), remote_port=4501)
        story.admits(fresh)
        story.probed(2, fresh)
        assert story.waits(5) == []

    def test_a_superseded_tunnel_that_is_activated_again_stays(self) -> None:
        story = attached()
        fresh = from_endpoint(WIFI, 2)
        story.admits(fresh)
        story.probed(2, fresh)
        story.probed(3, OVER_WIFI, after=0.5)
        assert "terminate 1: superseded" not in story.waits(5)

    def test_after_losing_every_tunnel_an_endpoint_may_count_from_the_start_again(self) -> None:
        """A reinstalled endpoint forgot its flips; no probe of before can come any more."""
        story = attached()
        story.probed(500, OVER_WIFI)
        story.hears(IkeDown(UniqueId(1)))
        again = from_endpoint(WIFI, 4)
        story.admits(again)
        assert story.probed(1, again) == ["to wifi, from 7", "release"]
        story.admits(OVER_LTE)
        assert story.probed(2, OVER_LTE) == ["to lte, from 7", "release"]


class TestFollowing:
    def test_holds_from_the_mapping_until_the_sa_is_rewritten(self) -> None:
        story = attached()
        assert story.mapping(OVER_WIFI) == ["hold, from 7"]
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release"]
        assert story.reason() is SessionReason.FOLLOWED

    def test_goes_on_where_it_was_when_charon_does_not_follow(self) -> None:
        story = attached()
        story.mapping(OVER_WIFI)
        assert story.waits(FOLLOW_LIMIT - 0.01) == []
        assert story.waits(0.02) == ["to wifi, from 7", "release"]
        assert story.tells[-1].reasons == {SessionReason.NEVER_MOVED}

    def test_packet_after_packet_from_elsewhere_does_not_prolong_the_hold(self) -> None:
        """The kernel says MAPPING for every packet until the SA is rewritten."""
        story = attached()
        held = 0
        for _ in range(200):
            story.mapping(OVER_WIFI)
            story.waits(0.01)
            held += story.session().following is not None
        assert held <= FOLLOW_LIMIT / 0.01 + 1

    def test_an_sa_rewritten_late_is_followed_all_the_same(self) -> None:
        story = attached()
        story.mapping(OVER_WIFI)
        story.waits(1)
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release"]
        assert story.mapping(OVER_WIFI) == ["hold, from 7"]

    def test_an_sa_rewritten_without_a_mapping_is_followed(self) -> None:
        story = attached()
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release"]

    def test_an_sa_that_is_soon_replaced_is_named(self) -> None:
        """Whoever moved negotiates anew; the kernel would send on the younger SA at once."""
        story = attached()
        assert story.named_sa() is None
        story.sa_moved(OVER_WIFI, LTE.pop)
        assert story.named_sa() == OVER_WIFI.spi_out
        story.admits(OVER_LTE)
        assert story.named_sa() == OVER_WIFI.spi_out
        story.probed(2, OVER_LTE)
        assert story.named_sa() == OVER_LTE.spi_out
        story.hears(TunnelDown(OVER_WIFI.ike, OVER_WIFI.child))
        assert story.named_sa() is None

    def test_a_rekeying_may_choose_the_sa_again(self) -> None:
        story = attached()
        story.sa_moved(OVER_WIFI, LTE.pop)
        here = replace(OVER_WIFI, remote=ip_address(LTE.pop))
        story.hears(TunnelRekeyed(here.child, replace(here, child=UniqueId(9), spi_out=Spi(9))))
        assert story.named_sa() is None

    def test_another_port_of_the_same_nat_ends_the_hold_at_once(self) -> None:
        story = attached()
        story.mapping(OVER_WIFI)
        assert story.sa_moved(OVER_WIFI, NAT) == ["to wifi, from 7", "release"]
        assert story.waits(1) == []

    def test_the_mapping_of_an_idle_tunnel_holds_nothing(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        assert story.mapping(OVER_LTE) == []
        assert story.sa_moved(OVER_LTE, WIFI2.pop) == []

    def test_an_idle_tunnel_that_moved_is_activated_where_it_is_now(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.sa_moved(OVER_LTE, WIFI2.pop)
        assert story.probed(2, OVER_LTE) == ["to wifi2, from 7", "release"]

    def test_an_absent_endpoint_is_attached_where_it_is_when_its_probe_overtakes_charon(
        self,
    ) -> None:
        story = attached()
        story.waits(60)
        assert story.state() is SessionState.AWAY
        story.mapping(OVER_WIFI)
        assert story.probed(2, OVER_WIFI) == [], "nothing is released to where it was"
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release", "answer"]

    def test_an_absent_endpoint_that_charon_does_not_follow_is_attached_by_its_next_probe(
        self,
    ) -> None:
        story = attached()
        story.waits(60)
        story.mapping(OVER_WIFI)
        story.probed(2, OVER_WIFI)
        story.waits(FOLLOW_LIMIT + 0.1)
        assert story.probed(2, OVER_WIFI) == ["to wifi, from 7", "release"]

    def test_an_sa_as_it_was_is_no_move(self) -> None:
        story = attached()
        assert story.sa_moved(OVER_WIFI, NAT) == []

    def test_mappings_and_moves_of_unknown_sas_are_nothing(self) -> None:
        story = attached()
        assert story.hears(MappingChanged(Spi(1))) == []
        here = OVER_WIFI.local
        assert story.hears(StateMoved(Spi(1), here, here, Reqid(7))) == []

    def test_charons_news_of_the_move_changes_the_port_only(self) -> None:
        story = attached()
        local = OVER_WIFI.local
        moved = IkeMoved(UniqueId(1), local, 4500, ip_address(LTE.pop), 1024)
        assert story.hears(moved) == []
        active = story.session().active
        assert active is not None
        assert (str(active.remote), active.remote_port) == (NAT, 1024)

    def test_a_moved_tunnel_is_superseded_by_the_one_negotiated_behind_it(self) -> None:
        story = attached()
        story.mapping(OVER_WIFI)
        story.hears(IkeMoved(UniqueId(1), OVER_WIFI.local, 4500, OVER_LTE.remote, 4500))
        story.sa_moved(OVER_WIFI, LTE.pop)
        story.admits(OVER_LTE)
        story.probed(2, OVER_LTE)
        assert story.waits(DRAIN + 0.1) == ["terminate 1: superseded"]

    def test_an_absent_endpoint_is_attached_where_its_sas_lead(self) -> None:
        """Its probe comes with the packet that charon will follow: milliseconds too early."""
        story = attached()
        story.waits(11)
        assert story.mapping(OVER_WIFI) == []
        assert story.probed(2, OVER_WIFI) == []
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release", "answer"]
        assert story.probed(2, OVER_WIFI) == ["release"], "it counts as a return once"
        assert story.probed(2, OVER_WIFI) == []

    def test_a_probe_that_waited_is_forgotten_with_the_absence_that_follows(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.mapping(OVER_LTE)
        assert story.probed(2, OVER_LTE) == []
        story.waits(60)
        assert story.state() is SessionState.AWAY
        assert story.sa_moved(OVER_LTE, WIFI2.pop) == []
        assert story.state() is SessionState.AWAY

    def test_an_endpoint_that_was_away_unnoticed_gets_what_waits(self) -> None:
        """Its TCP senders here have backed off, though nobody held anything."""
        story = attached()
        assert story.probed(2, OVER_WIFI) == ["release"]
        assert story.probed(2, OVER_WIFI) == []

    def test_and_where_they_led_when_charon_does_not_follow(self) -> None:
        story = attached()
        story.waits(11)
        story.mapping(OVER_WIFI)
        story.probed(2, OVER_WIFI)
        assert story.probed(2, OVER_WIFI, after=FOLLOW_LIMIT) == ["to wifi, from 7", "release"]

    def test_a_moved_tunnel_that_was_activated_too_early_is_activated_in_time(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.mapping(OVER_LTE)
        assert story.probed(2, OVER_LTE) == []
        assert story.probed(2, OVER_LTE, after=FOLLOW_LIMIT) == ["to lte, from 7", "release"]

    def test_a_moved_tunnel_that_is_awaited_loses_to_a_newer_flip(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.mapping(OVER_LTE)
        story.probed(2, OVER_LTE)
        story.probed(3, OVER_WIFI)
        assert story.sa_moved(OVER_LTE, WIFI2.pop) == []
        assert story.session().active == OVER_WIFI

    def test_an_endpoint_cannot_disturb_another_by_choosing_its_spi(self) -> None:
        """SPIs are chosen by whoever receives: two endpoints may choose the same."""
        story = attached()
        twin = replace(OF_TABLET, spi_out=OVER_WIFI.spi_out)
        story.admits(twin, (TABLET_VIP,), TABLET, adopted=True)
        story.mapping(OVER_WIFI)
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release"]
        assert story.session(TABLET).active == twin

    def test_nor_by_choosing_the_spi_that_the_server_chose_for_another(self) -> None:
        story = attached()
        story.admits(replace(OF_TABLET, spi_out=OVER_WIFI.spi_in), (TABLET_VIP,), TABLET)
        assert story.mapping(OVER_WIFI) == ["hold, from 7"]

    def test_nor_by_going_away(self) -> None:
        story = attached()
        story.admits(replace(OF_TABLET, spi_out=OVER_WIFI.spi_out), (TABLET_VIP,), TABLET)
        story.hears(IkeDown(OF_TABLET.ike))
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release"]


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

    def test_says_since_when_it_is_as_it_is_and_how_often_it_roamed(self) -> None:
        story = attached()
        story.waits(3)
        story.admits(OVER_LTE)
        story.probed(2, OVER_LTE)
        assert (story.session().since, story.session().roams) == (at(0), 2)
        story.waits(60)
        assert story.session().since == at(13)
        story.probed(2, OVER_LTE)
        assert story.session().since == at(63)
        story.sa_moved(OVER_LTE, WIFI2.pop)
        assert story.session().roams == 4

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
