"""Stories of a server and its endpoints, told as dialogues: what it hears, what it orders then.

"to wifi, from 7" means: what is for the session's VIP is sent into the tunnel to the Wi-Fi, and
what comes from it must have come out of an SA with reqid 7.
"""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from orchestrator.core.absence import SessionState
from orchestrator.core.ike import (
    CharonUp,
    IkeDown,
    TunnelUp,
)
from orchestrator.core.quantities import Reqid, Spi, UniqueId
from orchestrator.core.session import MAX_TUNNELS
from orchestrator.core.session_events import (
    Heard,
    SessionReason,
)
from orchestrator.core.session_probes import DRAIN
from tests.unit.core.builders import LTE, VIP4, VIP6, WIFI, WIFI2
from tests.unit.core.server_stories import ServerStory, from_endpoint
from tests.unit.core.session_cast import (
    OF_TABLET,
    OVER_LTE,
    OVER_WIFI,
    TABLET,
    TABLET_VIP,
    attached,
)


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
