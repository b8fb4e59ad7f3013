"""Stories of one endpoint, told as dialogues: what it hears, and what it orders then.

The words of `stories.describe`: "hold" and "protect wifi" are what is applied to the kernel;
"probe", "release", "negotiate lte", "move lte" and "terminate 1" are orders of those names.
"""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from orchestrator.core.echoes import FRESH_AFTER, STALE_AFTER
from orchestrator.core.ike import (
    CharonGone,
    IkeDown,
    IkeFailure,
    IkeMoved,
    IkeRekeyed,
    Tunnel,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.kernel import TABLE_PATHS
from orchestrator.core.mobility_events import (
    Ask,
    AttemptFailed,
    FallsAsleep,
    HideEchoes,
    MoveEnded,
    MoveTunnel,
    ProbeAnswered,
    RoamRequested,
    ServersKnown,
    State,
    Tick,
    Woke,
)
from orchestrator.core.paths import LinkChoice, Servers
from orchestrator.core.quantities import Seconds, Spi, UniqueId
from orchestrator.core.trust import ANSWER_LIMIT, OUTAGE, SERVER_TURNS, SLEEP_LIMIT
from orchestrator.core.tunnels import MOVE_HORIZON
from tests.unit.core.builders import (
    LTE,
    LTE6,
    SERVER4,
    SERVER6,
    VIP4,
    VIP6,
    WIFI,
    WIFI2,
    WIFI_SECOND,
    path,
    tunnel,
    without_carrier,
)
from tests.unit.core.stories import NAMES, POLICY, RTT, EndpointStory, attached

FLIP_TO_LTE = ["protect lte", "probe", "release"]
OPTIMISTIC_MOVE = ["hold", "move lte", "only probes lte", "probe", "negotiate lte"]


class TestFirstAttachment:
    def test_holds_negotiates_flips_and_is_attached_when_answered(self) -> None:
        story = EndpointStory()
        assert story.starts(WIFI) == ["hold"]
        assert story.finds_charon() == ["negotiate wifi"]
        assert story.negotiated() == ["remember 10.99.0.7", "protect wifi", "probe", "release"]
        assert story.state() is State.MOVING
        assert story.answered() == []
        assert story.state() is State.ATTACHED
        assert story.reasons() >= {"negotiated", "answered"}

    def test_is_not_attached_before_the_answer(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        story.negotiated()
        story.waits(1.9)
        assert story.state() is State.MOVING

    def test_waits_for_charon(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        assert story.waits(60) == []
        assert story.finds_charon() == ["negotiate wifi"]

    def test_waits_for_a_path_and_says_what_is_missing(self) -> None:
        story = EndpointStory()
        story.starts(*without_carrier(WIFI))
        assert story.finds_charon() == []
        assert "no-carrier" in story.reasons()
        assert story.is_at(WIFI) == ["hold", "negotiate wifi"]
        assert "no-carrier" not in story.reasons()

    def test_takes_the_address_that_the_server_narrowed_its_offer_to(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        assert story.attempt is not None
        assert story.attempt.ask is Ask.LEASED
        story.negotiated((VIP4, VIP6))
        assert story.machine.vips == (VIP4, VIP6)

    def test_asks_for_an_address_when_the_server_has_none_for_it_yet(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        assert story.fails(IkeFailure.MUST_ASK) == ["negotiate wifi"]
        assert story.attempt is not None
        assert story.attempt.ask is Ask.ASSIGN
        given = replace(story.next_tunnel(()), local_vips=(VIP4,))
        assert story.hears(TunnelUp(given))[0] == "remember 10.99.0.7"

    def test_does_not_ask_without_end(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        story.fails(IkeFailure.MUST_ASK)
        assert story.fails(IkeFailure.MUST_ASK) == []
        assert story.reasons() == {"virtual-address-must-be-requested"}

    def test_proposes_the_addresses_that_the_operator_fixed(self) -> None:
        story = EndpointStory(replace(POLICY, static_vips=(VIP4,)))
        story.starts(WIFI)
        story.finds_charon()
        assert story.attempt is not None
        assert (story.attempt.ask, story.attempt.vips) == (Ask.FIXED, (VIP4,))

    def test_keeps_its_addresses_when_a_tunnel_names_none(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        unnarrowed = replace(story.next_tunnel(()), local_ts=())
        assert "remember" not in " ".join(story.hears(TunnelUp(unnarrowed)))
        assert story.machine.vips == (VIP4,)

    def test_is_not_told_of_a_change_when_only_the_order_of_its_addresses_changed(self) -> None:
        story = EndpointStory()
        story.starts(WIFI, vips=(VIP4, VIP6))
        story.finds_charon()
        assert story.negotiated((VIP6, VIP4)) == ["protect wifi", "probe", "release"]

    def test_says_when_the_server_gives_another_address(self) -> None:
        story = EndpointStory()
        story.starts(WIFI, vips=(VIP4,))
        story.finds_charon()
        other = ip_address("10.99.0.8")
        assert story.negotiated((other,))[0] == "remember 10.99.0.8"
        assert story.told("vip-changed").fields == {"before": "10.99.0.7"}

    def test_an_address_given_that_is_a_point_of_presence_carries_nothing(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        assert story.negotiated((ip_address(WIFI.pop),)) == ["terminate 1"]
        assert story.machine.vips == ()
        assert story.reasons() == {"negotiation-failed"}


class TestBreakBeforeMake:
    def test_moves_the_tunnel_first_and_negotiates_behind_it(self) -> None:
        story = attached(WIFI)
        assert story.is_at(LTE) == OPTIMISTIC_MOVE
        assert story.state() is State.MOVING
        assert story.reasons() >= {"tunnel-moved"}

    def test_what_waits_goes_when_the_server_has_followed_or_must_have(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.waits(0.9 * SERVER_TURNS) == []
        assert story.waits(0.2 * SERVER_TURNS) == ["protect lte", "release"]
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.answered(after=0.5 * SERVER_TURNS) == ["protect lte", "release"]

    def test_after_an_outage_it_waits_for_the_answer_but_not_for_ever(self) -> None:
        story = attached(WIFI)
        story.is_at()
        story.is_at(LTE, after=OUTAGE)
        assert "release" not in story.waits(0.9 * ANSWER_LIMIT)
        assert "release" in story.waits(0.2 * ANSWER_LIMIT)
        story = attached(WIFI)
        story.is_at()
        story.is_at(LTE, after=OUTAGE)
        assert story.answered(after=0.1) == ["protect lte", "release"]

    def test_a_fresh_tunnel_is_not_waited_with(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.negotiated(after=0.5 * SERVER_TURNS) == FLIP_TO_LTE

    def test_flips_to_the_fresh_tunnel_and_retires_the_moved_one_after_the_drain(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        story.answered(after=0.06)
        assert story.negotiated() == FLIP_TO_LTE
        story.answered()
        assert story.waits(0.9) == []
        assert story.waits(0.2) == ["terminate 1"]
        assert story.state() is State.ATTACHED

    def test_holds_when_there_is_nowhere_to_go_and_moves_when_there_is(self) -> None:
        story = attached(WIFI)
        assert story.is_at() == ["hold"]
        assert story.state() is State.DETACHED
        assert story.reasons() >= {"no-link", "link-gone"}
        assert story.is_at(LTE, after=30) == OPTIMISTIC_MOVE

    def test_moves_to_another_address_of_the_same_link(self) -> None:
        story = attached(WIFI)
        assert story.is_at(WIFI_SECOND) == [
            "hold",
            "move wifi'",
            "only probes wifi'",
            "probe",
            "negotiate wifi'",
        ]

    def test_moves_again_if_the_address_goes_again_before_the_renewal(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        story.answered()
        assert story.is_at(WIFI2) == [
            "hold",
            "abandon",
            "move wifi2",
            "only probes wifi2",
            "probe",
            "negotiate wifi2",
        ]

    def test_without_a_change_nothing_happens(self) -> None:
        """The negative control: hearing of the network again moves nothing."""
        story = attached(WIFI, LTE)
        assert story.is_at(WIFI, LTE) == []
        assert story.is_at(LTE, WIFI) == []

    def test_losing_another_link_is_no_roam(self) -> None:
        story = attached(WIFI, LTE)
        assert story.is_at(WIFI) == ["protect wifi"]  # its routing table goes, nothing else
        assert story.state() is State.ATTACHED

    def test_a_gateway_change_alone_is_no_roam(self) -> None:
        story = attached(WIFI2)
        other = replace(WIFI2, gateway="192.0.2.253")
        assert story.is_at(other) == ["protect wifi2"]
        assert story.machine.active_path == path(other)
        assert story.state() is State.ATTACHED

    def test_a_refused_move_leaves_the_traffic_held_until_ike_is_through(self) -> None:
        story = attached(WIFI)
        story.kernel_moves = False
        assert story.is_at(LTE) == ["hold", "move lte", "terminate 1", "negotiate lte"]
        assert story.state() is State.DETACHED
        assert story.told("failed").reasons == {"move-refused"}
        assert story.negotiated() == FLIP_TO_LTE

    def test_does_not_move_to_another_address_family(self) -> None:
        story = attached(WIFI, policy=replace(POLICY, servers=(SERVER4, SERVER6)))
        assert story.is_at(LTE6) == ["hold", "negotiate lte6"]
        assert story.negotiated() == ["protect lte6", "probe", "release"]

    def test_one_family_goes_while_the_other_stays(self) -> None:
        both = replace(POLICY, servers=(SERVER4, SERVER6))
        for left, gone in ((LTE6, LTE), (LTE, LTE6)):
            way = NAMES[ip_address(left.pop)]
            story = attached(gone, policy=both)
            story.is_at(LTE, LTE6)
            assert story.is_at(left)[:2] == ["hold", f"negotiate {way}"]
            assert story.negotiated() == [f"protect {way}", "probe", "release"]

    def test_moves_to_its_own_family_though_the_other_comes_first(self) -> None:
        story = attached(WIFI, policy=replace(POLICY, servers=(SERVER4, SERVER6)))
        assert story.is_at(LTE, LTE6)[:3] == ["hold", "move lte", "only probes lte"]

    def test_does_not_move_a_tunnel_unheard_for_too_long(self) -> None:
        story = attached(WIFI)
        story.is_at()
        assert story.is_at(LTE, after=MOVE_HORIZON) == ["hold", "negotiate lte"]

    def test_moves_a_tunnel_unheard_for_just_less(self) -> None:
        story = attached(WIFI)
        story.is_at()
        assert "move lte" in story.is_at(LTE, after=MOVE_HORIZON - 1)

    def test_moves_without_charon_and_renews_when_it_is_there(self) -> None:
        story = attached(WIFI)
        story.hears(CharonGone("crashed"))
        assert story.is_at(LTE) == ["hold", "move lte", "only probes lte", "probe"]
        story.answered()
        assert story.state() is State.ATTACHED
        assert story.finds_charon() == ["negotiate lte"]

    def test_an_unanswered_move_ends_in_what_ike_negotiates(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        said = story.waits(2.1)
        assert said[-1] == "hold"
        assert story.state() is State.DETACHED
        assert story.negotiated() == FLIP_TO_LTE

    def test_the_outage_is_counted_from_its_beginning(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)  # the outage begins
        story.waits(2.5)  # the moved tunnel stays silent, which is no new beginning
        story.negotiated(after=0.5)
        story.answered(after=0.1)
        fields = story.told("attached").fields or {}
        assert fields["elapsed_ms"] == pytest.approx(3100, abs=1)


class TestServers:
    """They become known, or others, while the endpoint runs."""

    def test_a_server_that_becomes_known_is_gone_to_at_once(self) -> None:
        story = EndpointStory(replace(POLICY, servers=()))
        story.starts(WIFI)
        assert story.finds_charon() == []
        assert "no-address-of-the-servers-family" in story.reasons()
        assert story.hears(ServersKnown(Servers((SERVER4,)))) == ["hold", "negotiate wifi"]
        assert story.reasons() == {"server-addresses"}

    def test_that_it_is_said_to_be_elsewhere_is_no_reason_to_leave(self) -> None:
        story = attached(WIFI)
        assert story.hears(ServersKnown(Servers((SERVER6,)))) == []
        assert story.state() is State.ATTACHED
        assert story.machine.paths == (path(WIFI),)

    def test_but_when_the_way_there_is_lost_it_is_looked_for_elsewhere(self) -> None:
        story = attached(WIFI)
        elsewhere = ip_address("203.0.113.77")
        story.hears(ServersKnown(Servers((elsewhere,))))
        story.hears(IkeDown(UniqueId(1)))
        story.hears(ServersKnown(Servers((elsewhere,))))
        story.waits_for_an_attempt()
        assert story.attempt is not None
        assert story.attempt.path.server == elsewhere

    def test_one_link_may_lead_there_by_another_address(self) -> None:
        story = attached(WIFI)
        translated = ip_address("2001:db8:64ff::203.0.113.10")
        lte = path(LTE6, translated)
        assert story.is_at(WIFI, LTE6) == []
        story.hears(ServersKnown(Servers((SERVER4,), {lte.link: (SERVER4, translated)})))
        assert story.machine.paths == (path(WIFI), lte)
        assert story.is_at(LTE6) == ["hold", "negotiate lte6"]


class TestCountingRoams:
    def test_the_first_attachment_is_none(self) -> None:
        assert attached(WIFI).machine.roams == 0

    def test_a_move_and_its_renewal_are_one(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        story.answered()
        story.negotiated()
        story.answered()
        assert story.machine.roams == 1
        story.is_at(WIFI)
        assert story.machine.roams == 2

    def test_a_return_after_nothing_is_none(self) -> None:
        story = attached(WIFI)
        story.is_at(*without_carrier(WIFI))
        story.is_at(WIFI, after=20)
        assert story.machine.roams == 0

    def test_nor_is_a_renewal_where_it_is(self) -> None:
        story = attached(WIFI)
        story.hears(RoamRequested(None))
        story.negotiated()
        assert story.machine.flip == 2
        assert story.machine.roams == 0

    def test_another_address_of_the_link_is_one(self) -> None:
        story = attached(WIFI)
        story.is_at(WIFI_SECOND)
        assert story.machine.roams == 1

    def test_an_adopted_tunnel_is_none(self) -> None:
        story = EndpointStory()
        story.starts(WIFI, vips=(VIP4,), adopted=adopted())
        assert story.machine.roams == 0


class TestReturn:
    def test_uses_the_tunnel_again_when_its_place_returns(self) -> None:
        story = attached(WIFI)
        assert story.is_at(*without_carrier(WIFI)) == ["hold"]
        assert story.is_at(WIFI, after=20) == ["hold", "protect wifi", "probe", "release"]
        assert story.reasons() >= {"path-returned"}
        assert story.answered() == []
        assert story.state() is State.ATTACHED

    def test_without_the_return_the_traffic_stays_held(self) -> None:
        story = attached(WIFI)
        story.is_at(*without_carrier(WIFI))
        assert story.waits(60) == []
        assert story.kernel is not None
        assert story.kernel.active is None

    def test_negotiates_when_the_tunnel_did_not_survive(self) -> None:
        story = attached(WIFI)
        story.is_at(*without_carrier(WIFI))
        story.is_at(WIFI, after=900)
        said = story.waits(2.1)
        assert said[-2:] == ["hold", "negotiate wifi"]

    def test_a_tunnel_negotiated_meanwhile_elsewhere_stays_warm(self) -> None:
        """The worse link's answer comes after the better place returned: it takes nothing."""
        story = attached(WIFI, policy=replace(POLICY, servers=(SERVER4, SERVER6)))
        assert story.is_at(LTE6) == ["hold", "negotiate lte6"]
        assert story.is_at(WIFI, LTE6)[-3:] == ["protect wifi", "probe", "release"]
        assert story.negotiated() == []
        assert story.machine.active_path == path(WIFI)

    def test_another_virtual_address_from_a_tunnel_that_stays_warm_is_taken_too(self) -> None:
        story = attached(WIFI, policy=replace(POLICY, servers=(SERVER4, SERVER6)))
        story.is_at(LTE6)
        story.is_at(WIFI, LTE6)
        other = ip_address("10.99.0.8")
        assert story.negotiated((other,)) == ["remember 10.99.0.8", "protect wifi"]
        assert story.kernel is not None
        assert story.kernel.vips == (other,)

    def test_flips_to_a_warm_tunnel_at_once_when_the_active_one_ends(self) -> None:
        policy = replace(POLICY, servers=(SERVER4, SERVER6), warm_links=2)
        story = attached(WIFI, LTE6, policy=policy)
        story.negotiated()
        story.warm_answered()
        said = story.hears(IkeDown(UniqueId(1)))
        assert said == ["hold", "protect lte6", "probe", "release", "negotiate wifi"]


class TestMakeBeforeBreak:
    def test_negotiates_the_better_link_and_never_holds(self) -> None:
        story = attached(LTE)
        said = story.is_at(LTE, WIFI)
        assert said == ["protect lte", "negotiate wifi"]
        said = story.negotiated()
        assert said == ["protect wifi", "probe", "release"]
        assert story.reasons() >= {"better-link", "negotiated"}
        story.answered()
        assert story.waits(1.5) == ["terminate 1"]

    def test_stays_on_the_better_link_when_a_worse_one_appears(self) -> None:
        story = attached(WIFI)
        assert story.is_at(WIFI, LTE) == ["protect wifi"]
        assert story.attempt is None

    def test_stays_where_it_is_when_the_operator_has_no_preference(self) -> None:
        story = attached(LTE, policy=replace(POLICY, choice=LinkChoice()))
        assert story.is_at(LTE, WIFI) == ["protect lte"]
        assert story.attempt is None

    def test_keeps_the_working_tunnel_until_the_better_one_has_proved_itself(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        story.negotiated()
        assert "terminate 1" not in story.waits(1.9)

    def test_goes_back_when_the_better_link_carries_nothing(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        story.negotiated()
        said = story.waits(2.1)
        back = said[said.index("hold") :]
        assert back[:4] == ["hold", "protect lte", "probe", "release"]
        assert "negotiate lte" not in said
        story.answered()
        assert story.state() is State.ATTACHED

    def test_tries_a_better_link_that_carries_nothing_more_and_more_rarely(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        tries = 0
        end = story.now + 600
        while story.now < end:
            if story.attempt is not None:
                tries += 1
                story.negotiated()
            carried = story.machine.active_path == path(LTE)
            story.waits(0.2, answering=carried)
        assert 5 <= tries <= 30

    def test_flips_at_once_when_the_active_link_dies_while_the_better_one_is_made(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        said = story.is_at(WIFI)
        assert said == ["hold", "move wifi", "only probes wifi", "probe"]
        assert story.negotiated() == ["protect wifi", "probe", "release"]

    def test_goes_to_the_better_link_without_renewing_the_one_it_leaves(self) -> None:
        story = attached(WIFI2)
        story.is_at(LTE)
        story.fails()  # the renewal of the moved tunnel
        story.answered()
        assert story.is_at(LTE, WIFI) == ["protect lte", "negotiate wifi"]

    def test_a_failed_attempt_on_the_better_link_costs_nothing_but_the_attempt(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        assert story.fails() == []
        assert story.state() is State.ATTACHED


class TestSilence:
    def test_a_path_that_stays_silent_is_left(self) -> None:
        story = attached(WIFI, LTE)
        said = story.waits(4.1)
        assert said[-2:] == ["hold", "negotiate lte"]
        assert story.reasons() >= {"path-dead"}

    def test_an_answered_path_is_not_left(self) -> None:
        story = attached(WIFI, LTE)
        said = story.waits(60, answering=True)
        assert set(said) == {"probe"}
        assert story.state() is State.ATTACHED

    def test_a_silent_path_with_nothing_else_is_negotiated_again(self) -> None:
        story = attached(WIFI)
        assert story.waits(4.1)[-2:] == ["hold", "negotiate wifi"]
        assert story.negotiated() == ["protect wifi", "probe", "release"]

    def test_a_silent_tunnel_is_not_used_again_while_its_path_stays(self) -> None:
        story = attached(WIFI)
        story.waits(4.1)
        assert "protect wifi" not in story.is_at(WIFI, LTE)

    def test_a_negotiation_on_the_silent_path_is_given_up_for_one_that_may_work(self) -> None:
        story = attached(WIFI2, policy=replace(POLICY, race=1))
        story.is_at(WIFI, LTE)  # the move to wifi meets a captive portal
        assert story.attempt is not None
        assert story.attempt.path == path(WIFI)
        said = story.waits(2.1)
        assert said[-3:] == ["hold", "abandon", "negotiate lte"]

    def test_ike_without_data_is_no_reason_to_negotiate_without_pause(self) -> None:
        """ESP is filtered, IKE is not: each new tunnel is as silent as the last."""
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        tries = 0
        while story.now < 600:
            if story.attempt is not None:
                tries += 1
                story.negotiated()
            story.waits(0.5)
        assert tries < 40
        failure = story.machine.failure_of(path(WIFI))
        assert failure == (IkeFailure.SILENT, "probes unanswered")

    def test_probes_go_on_while_unanswered_and_are_few_when_answered(self) -> None:
        story = attached(WIFI)
        assert story.waits(1.9).count("probe") == 0
        assert story.waits(1.0).count("probe") >= 4

    def test_an_old_answer_proves_nothing_about_the_new_path(self) -> None:
        story = attached(WIFI)
        story.waits(2.1)
        assert story.probe is not None
        old = story.probe.sequence
        story.is_at(LTE)
        story.hears(ProbeAnswered(old))
        assert story.state() is State.MOVING

    def test_every_flip_has_a_higher_number(self) -> None:
        story = attached(WIFI)
        assert story.probe is not None
        first = story.probe.flip
        story.is_at(LTE)
        assert story.probe.flip == first + 1
        story.negotiated()
        assert story.probe.flip == first + 2

    def test_probes_name_the_spi_on_which_the_server_shall_send(self) -> None:
        story = attached(WIFI)
        assert story.probe is not None
        assert story.machine.active is not None
        assert story.probe.spi == story.machine.active.spi_in


class TestFailures:
    def test_a_late_tunnel_of_an_abandoned_attempt_is_ended(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        late = story.next_tunnel()
        assert story.is_at(LTE) == ["protect lte", "abandon"]
        assert story.hears(TunnelUp(late)) == ["terminate 2"]
        assert story.machine.active_path == path(LTE)

    def test_a_late_failure_of_an_abandoned_attempt_is_nothing(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        assert story.attempt is not None
        late = AttemptFailed(story.attempt.connection, IkeFailure.SILENT, "")
        story.is_at(LTE)
        assert story.hears(late) == []
        assert story.machine.failure_of(path(LTE)) is None

    def test_an_address_that_disappears_during_ike_ends_the_attempt(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        assert story.is_at(LTE) == ["hold", "abandon", "negotiate lte"]

    def test_a_wrong_secret_is_named_in_the_state(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        story.fails(IkeFailure.AUTHENTICATION)
        assert story.state() is State.DETACHED
        assert story.reasons() == {"authentication-failed"}
        failure = story.machine.failure_of(path(WIFI))
        assert failure == (IkeFailure.AUTHENTICATION, "in the test")

    def test_tries_the_next_path_at_once_and_the_same_one_after_a_pause(self) -> None:
        story = EndpointStory()
        story.starts(WIFI, LTE)
        story.finds_charon()
        assert story.fails() == ["negotiate lte"]
        assert story.fails() == []
        assert story.waits(0.6) == ["negotiate wifi"]

    def test_the_pause_grows_and_is_bounded(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        pauses = []
        for _ in range(12):
            story.fails()
            before = story.now
            story.waits_for_an_attempt()
            pauses.append(round(story.now - before, 3))
        assert pauses == sorted(pauses)
        assert pauses[0] <= 0.5
        assert 29 <= pauses[-1] <= 30.25

    def test_a_night_of_failures_is_survived(self) -> None:
        story = EndpointStory(replace(POLICY, backoff_max=Seconds(0.5)))
        story.starts(WIFI)
        story.finds_charon()
        for _ in range(2000):
            story.fails()
            story.waits(0.5)
        assert story.attempt is not None

    def test_a_change_of_place_forgets_the_pause_of_the_old_one(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        for _ in range(8):
            story.fails()
            story.waits_for_an_attempt()
        story.fails()
        story.is_at()
        assert "negotiate wifi" in story.is_at(WIFI)

    def test_a_server_that_ends_the_tunnel_at_once_refuses(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        pauses = []
        for _ in range(10):
            story.negotiated()
            assert story.hears(IkeDown(UniqueId(story.numbers)), after=0.01) == ["hold"]
            assert story.reasons() == {"refused-after-authentication"}
            before = story.now
            story.waits_for_an_attempt()
            pauses.append(round(story.now - before, 3))
        assert pauses == sorted(pauses)
        assert 29 <= pauses[-1] <= 30.25

    def test_a_tunnel_that_worked_and_is_deleted_is_negotiated_at_once(self) -> None:
        """The negative control: deletion alone is no refusal."""
        story = attached(WIFI)
        assert story.hears(IkeDown(UniqueId(1)), after=60) == ["hold", "negotiate wifi"]
        assert story.reasons() >= {"tunnel-deleted"}

    def test_a_refused_renewal_gives_the_traffic_back_to_the_moved_tunnel(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        story.answered()
        story.negotiated()
        said = story.hears(IkeDown(UniqueId(2)), after=0.01)
        assert said == ["hold", *FLIP_TO_LTE]
        assert story.state() is State.MOVING

    def test_an_attempt_of_which_nothing_is_heard_ends(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        said = story.waits(14)
        assert said == ["abandon", "negotiate wifi"]

    def test_the_end_of_a_draining_tunnel_is_nothing(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        story.negotiated()
        story.answered()
        assert story.hears(IkeDown(UniqueId(1))) == []
        assert story.waits(1.5) == []


class TestCharon:
    def test_its_absence_changes_nothing_for_traffic_that_runs(self) -> None:
        story = attached(WIFI)
        assert story.hears(CharonGone("crashed")) == []
        assert set(story.waits(30, answering=True)) == {"probe"}
        assert story.state() is State.ATTACHED

    def test_its_restart_renews_the_tunnel_and_flips(self) -> None:
        story = attached(WIFI)
        story.hears(CharonGone("crashed"))
        assert story.finds_charon() == ["negotiate wifi"]
        assert story.negotiated() == ["protect wifi", "probe", "release"]
        assert story.reasons() >= {"charon-restarted"}
        story.answered()
        # Without a number: the new charon gave 1 to another, perhaps to the fresh one.
        assert story.waits(1.5) == ["terminate 0"]

    def test_a_new_connection_to_the_same_charon_renews_nothing(self) -> None:
        story = attached(WIFI)
        mine = story.machine.active
        assert mine is not None
        story.hears(CharonGone("vici closed"))
        assert story.finds_charon(mine) == []
        assert story.machine.active == mine

    def test_a_path_that_dies_without_it_says_both(self) -> None:
        """Whatever is left to be said of why nothing comes: charon's socket took ESP in."""
        story = attached(WIFI)
        story.hears(CharonGone("crashed"))
        story.waits(5.0)
        assert story.state() is State.DETACHED
        assert story.reasons() >= {"path-dead", "charon-absent"}

    def test_its_absence_is_the_reason_while_detached(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        story.hears(CharonGone("stopped"))
        assert story.reasons() == {"charon-absent"}
        assert story.finds_charon() == ["negotiate wifi"]

    def test_ends_tunnels_of_a_predecessor_that_carry_nothing(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        stale = tunnel(path(WIFI2), 9, "orchestrator-65536-3")
        assert story.finds_charon(stale) == ["terminate 9", "negotiate wifi"]

    def test_leaves_other_peoples_tunnels_alone(self) -> None:
        story = attached(WIFI)
        office = tunnel(path(WIFI), 9, "office-vpn")
        assert story.hears(TunnelUp(office)) == []
        story.hears(CharonGone("vici closed"))
        mine = story.machine.active
        assert mine is not None
        assert story.finds_charon(mine, office) == []

    def test_its_return_does_not_send_traffic_into_a_tunnel_known_to_be_dead(self) -> None:
        story = attached(WIFI)
        story.waits(4.1)
        story.hears(CharonGone("crashed"))
        assert story.finds_charon() == ["negotiate wifi"]

    def test_its_return_ends_the_pause(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        for _ in range(8):
            story.fails(IkeFailure.AUTHENTICATION)
            story.waits_for_an_attempt()
        story.fails(IkeFailure.AUTHENTICATION)
        story.hears(CharonGone("restarted with the right secret"))
        assert story.finds_charon() == ["negotiate wifi"]

    def test_follows_a_rekeyed_child_sa(self) -> None:
        story = attached(WIFI)
        old = story.machine.active
        assert old is not None
        fresh = replace(old, child=UniqueId(777), spi_in=Spi(7), spi_out=Spi(8))
        assert story.hears(TunnelRekeyed(old.child, fresh)) == []
        assert story.machine.active == fresh
        story.waits(2.1)
        assert story.probe is not None
        assert story.probe.spi == 7

    def test_a_rekeyed_child_sa_of_somebody_else_is_nothing(self) -> None:
        story = attached(WIFI)
        office = tunnel(path(WIFI), 9, "office-vpn")
        assert story.hears(TunnelRekeyed(UniqueId(3), office)) == []
        assert story.machine.active != office

    def test_follows_a_rekeyed_ike_sa(self) -> None:
        story = attached(WIFI)
        assert story.hears(IkeRekeyed(UniqueId(1), UniqueId(31))) == []
        assert story.hears(IkeDown(UniqueId(1))) == []
        assert story.state() is State.ATTACHED
        assert story.hears(IkeDown(UniqueId(31)))[0] == "hold"

    def test_the_end_of_a_rekeyed_child_sa_is_nothing(self) -> None:
        story = attached(WIFI)
        old = story.machine.active
        assert old is not None
        story.hears(TunnelRekeyed(old.child, replace(old, child=UniqueId(777))))
        assert story.hears(TunnelDown(old.ike, old.child)) == []
        assert story.state() is State.ATTACHED

    def test_both_sides_rekey_at_once(self) -> None:
        """The other's successor is told of first, ours wins (child_rekey.c)."""
        story = attached(WIFI)
        old = story.machine.active
        assert old is not None
        ours = replace(old, child=UniqueId(778), spi_in=Spi(9), spi_out=Spi(10))
        story.hears(TunnelRekeyed(old.child, replace(old, child=UniqueId(777), spi_in=Spi(7))))
        story.hears(TunnelRekeyed(old.child, ours))
        assert story.machine.active == ours

    def test_the_sas_of_a_moved_tunnel_that_the_server_ends_are_buried(self) -> None:
        """charon deletes them where they were; ours would lie there until their keys end."""
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.hears(IkeDown(UniqueId(1)))[:2] == ["hold", "bury 1"]
        story = attached(WIFI)
        assert "bury 1" not in story.hears(IkeDown(UniqueId(1)))

    def test_the_former_sas_of_a_moved_tunnel_that_is_rekeyed_are_buried(self) -> None:
        story = attached(WIFI)
        first = story.machine.active
        assert first is not None
        story.is_at(LTE)
        fresh = replace(first, child=UniqueId(777), spi_in=Spi(7), spi_out=Spi(8))
        assert story.hears(TunnelRekeyed(first.child, fresh)) == ["bury 1"]

    def test_a_new_nat_mapping_changes_ports_and_nothing_else(self) -> None:
        story = attached(WIFI)
        moved = IkeMoved(UniqueId(1), ip_address(WIFI.pop), 4500, SERVER4, 4501)
        story.hears(moved)
        assert story.machine.active is not None
        assert story.machine.active.remote_port == 4501
        assert story.state() is State.ATTACHED

    def test_does_not_follow_ike_into_the_tunnel(self) -> None:
        """strongSwan #299: after a roam IKE chose the virtual address as its own."""
        story = attached(WIFI)
        story.hears(IkeMoved(UniqueId(1), VIP4, 4500, SERVER4, 4500))
        assert story.kernel is not None
        assert story.kernel.active is not None
        assert story.kernel.active.source == ip_address(WIFI.pop)

    def test_what_charon_says_of_a_moved_tunnel_is_older_than_the_move(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.hears(IkeMoved(UniqueId(1), ip_address(WIFI.pop), 4500, SERVER4, 1)) == []
        assert story.machine.active is not None
        assert story.machine.active.local == ip_address(LTE.pop)


class TestRestart:
    def test_an_adopted_tunnel_keeps_its_policy_as_it_was(self) -> None:
        story = EndpointStory()
        mine = adopted()
        said = story.starts(WIFI, vips=(VIP4,), adopted=mine)
        assert said == ["protect wifi", "probe", "release"]  # and never "hold"
        assert story.kernel is not None
        assert story.kernel.active is not None
        assert story.kernel.active.source == mine.local
        story.answered()
        assert story.state() is State.ATTACHED

    def test_charon_knows_the_adopted_tunnel_by_its_spi(self) -> None:
        story = EndpointStory()
        mine = adopted()
        story.starts(WIFI, vips=(VIP4,), adopted=mine)
        known = replace(tunnel(path(WIFI), 1), spi_in=mine.spi_in, spi_out=mine.spi_out)
        assert story.finds_charon(known) == []
        assert story.machine.active == known

    def test_an_adopted_tunnel_that_charon_does_not_know_is_renewed(self) -> None:
        story = EndpointStory()
        story.starts(WIFI, vips=(VIP4,), adopted=adopted())
        story.answered()
        assert story.finds_charon() == ["negotiate wifi"]

    def test_a_tunnel_that_the_predecessor_moved_stays_where_it_was_moved_to(self) -> None:
        """charon still believes in the old address; the SAs and the policy know better."""
        story = EndpointStory()
        mine = replace(adopted(), local=ip_address(LTE.pop))
        assert story.starts(LTE, vips=(VIP4,), adopted=mine)[0] == "protect lte"
        believed = replace(tunnel(path(WIFI), 1), spi_in=mine.spi_in, spi_out=mine.spi_out)
        assert story.finds_charon(believed) == ["negotiate lte"]
        assert story.machine.active is not None
        assert story.machine.active.local == ip_address(LTE.pop)
        assert story.machine.active.ike == 1

    def test_a_tunnel_moved_before_charon_was_found_can_still_be_ended_there(self) -> None:
        story = EndpointStory()
        mine = adopted()
        story.starts(WIFI, vips=(VIP4,), adopted=mine)
        story.is_at(LTE)
        known = replace(tunnel(path(WIFI), 7), spi_in=mine.spi_in, spi_out=mine.spi_out)
        story.finds_charon(known)
        story.negotiated()
        story.answered()
        assert story.waits(1.5) == ["terminate 7"]

    def test_without_its_path_an_adopted_tunnel_holds(self) -> None:
        story = EndpointStory()
        assert story.starts(LTE, vips=(VIP4,), adopted=adopted()) == ["hold"]
        assert story.finds_charon() == ["negotiate lte"]

    def test_names_of_negotiations_never_return(self) -> None:
        """A name is how an attempt is abandoned: it must not name an older tunnel too."""
        first, second = EndpointStory(), EndpointStory(first_flip=65536)
        for story in (first, second):
            story.starts(WIFI)
            story.finds_charon()
        assert not first.connections & second.connections

    def test_flips_begin_above_those_of_the_predecessor(self) -> None:
        story = EndpointStory(first_flip=65536)
        story.starts(WIFI, vips=(VIP4,), adopted=adopted())
        assert story.probe is not None
        assert story.probe.flip > 65536

    def test_remembered_addresses_are_held_from_the_first_moment(self) -> None:
        story = EndpointStory()
        story.starts(WIFI, vips=(VIP4,))
        assert story.kernel is not None
        assert story.kernel.vips == (VIP4,)

    def test_fixed_addresses_overrule_remembered_ones(self) -> None:
        story = EndpointStory(replace(POLICY, static_vips=(VIP6,)))
        story.starts(WIFI, vips=(VIP4,))
        assert story.machine.vips == (VIP6,)


class TestOperator:
    def test_roams_to_the_link_that_was_asked_for(self) -> None:
        story = attached(WIFI, LTE)
        assert story.hears(RoamRequested("wwan0")) == ["negotiate lte"]
        assert story.negotiated() == FLIP_TO_LTE
        assert story.reasons() >= {"operator"}

    def test_stays_there_though_the_preference_says_otherwise(self) -> None:
        story = attached(WIFI, LTE)
        story.hears(RoamRequested("wwan0"))
        story.negotiated()
        story.answered()
        assert set(story.waits(60, answering=True)) == {"probe", "terminate 1"}
        assert story.machine.active_path == path(LTE)

    def test_is_told_that_there_is_no_such_path(self) -> None:
        story = attached(WIFI)
        assert story.hears(RoamRequested("eth7")) == []
        refusal = story.told("roam-refused")
        assert refusal.reasons == {"no-such-path"}
        assert refusal.fields == {"link": "eth7"}

    def test_asking_for_the_link_in_use_changes_nothing(self) -> None:
        story = attached(WIFI, LTE)
        assert story.hears(RoamRequested("wlan0")) == []

    def test_asking_without_a_link_renews_the_tunnel_where_it_is(self) -> None:
        story = attached(WIFI)
        assert story.hears(RoamRequested(None)) == ["negotiate wifi"]
        story.negotiated()
        assert story.reasons() >= {"operator"}
        assert "charon-restarted" not in story.reasons()

    def test_asking_without_a_link_gives_up_the_one_that_was_asked_for(self) -> None:
        story = on_the_link_asked_for()
        assert story.hears(RoamRequested(None)) == ["negotiate wifi"]
        assert story.negotiated() == ["protect wifi", "probe", "release"]
        assert story.reasons() >= {"better-link"}
        story.answered()
        assert set(story.waits(60, answering=True)) == {"probe", "terminate 2"}
        assert story.machine.active_path == path(WIFI)

    def test_asking_without_a_link_renews_this_one_when_the_better_one_fails(self) -> None:
        story = on_the_link_asked_for()
        story.hears(RoamRequested(None))
        assert story.fails() == ["negotiate lte"]

    def test_asking_without_a_link_tries_a_better_one_that_failed_before(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        story.fails()
        assert story.hears(RoamRequested(None)) == ["negotiate wifi"]

    def test_the_link_asked_for_is_given_up_without_charon_too(self) -> None:
        story = on_the_link_asked_for()
        story.hears(CharonGone("crashed"))
        assert story.hears(RoamRequested(None)) == []
        assert story.finds_charon() == ["negotiate wifi"]

    def test_asking_while_detached_ends_the_pause(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        story.fails()
        assert story.hears(RoamRequested(None)) == ["negotiate wifi"]

    def test_a_wish_for_a_link_that_went_does_not_keep_it_from_a_better_one(self) -> None:
        story = attached(WIFI2, LTE)
        story.hears(RoamRequested("wlan1"))
        story.is_at(LTE)
        story.negotiated()
        story.answered()
        assert story.is_at(LTE, WIFI) == ["protect lte", "negotiate wifi"]

    def test_the_wish_counts_while_nothing_works_too(self) -> None:
        story = attached(WIFI, LTE)
        story.hears(RoamRequested("wwan0"))
        story.negotiated()
        story.answered()
        assert story.hears(IkeDown(UniqueId(2))) == ["hold", "negotiate lte"]


@pytest.mark.parametrize("slept", [60, 15 * 60, 8 * 3600])
class TestWaking:
    """The clock is the story's: what CLOCK_BOOTTIME would say after such a sleep."""

    def test_lets_only_probes_out_until_one_is_answered(self, slept: float) -> None:
        story = attached(WIFI)
        said = story.hears(Woke(Seconds(slept)), after=slept)
        assert said == ["only probes wifi", "probe"]
        assert story.state() is State.MOVING
        assert story.reasons() == {"woke"}
        assert story.answered() == ["protect wifi", "release"]
        assert story.state() is State.ATTACHED
        told = story.told("attached").fields
        assert told is not None
        assert told["elapsed_ms"] == 20.0

    def test_an_answer_to_what_it_asked_before_is_no_proof(self, slept: float) -> None:
        story = attached(WIFI)
        before = story.probe
        assert before is not None
        story.hears(Woke(Seconds(slept)), after=slept)
        assert story.hears(ProbeAnswered(before.sequence)) == []
        assert story.state() is State.MOVING

    def test_without_a_sleep_nothing_would_be_held(self, slept: float) -> None:
        story = attached(WIFI)
        said = story.waits(min(slept, 60), answering=True)
        assert set(said) == {"probe"}
        assert story.state() is State.ATTACHED

    def test_holds_and_negotiates_when_the_path_did_not_survive(self, slept: float) -> None:
        story = attached(WIFI)
        story.hears(Woke(Seconds(slept)), after=slept)
        assert story.waits(2.1)[-2:] == ["hold", "negotiate wifi"]
        assert story.negotiated() == ["only probes wifi", "probe"]
        assert story.answered()[:2] == ["protect wifi", "release"]

    def test_tells_the_server_by_a_new_flip(self, slept: float) -> None:
        story = attached(WIFI)
        before = story.machine.flip
        story.hears(Woke(Seconds(slept)), after=slept)
        assert story.probe is not None
        assert story.probe.flip == before + 1


class TestSleep:
    def test_a_place_left_while_asleep_is_not_moved_from_after_too_long(self) -> None:
        story = attached(WIFI)
        story.hears(Woke(Seconds(8 * 3600)), after=8 * 3600)
        assert story.is_at(LTE) == ["hold", "negotiate lte"]
        assert story.negotiated() == ["only probes lte", "probe"]

    def test_a_place_left_during_a_nap_is_moved_from_and_proven_before_use(self) -> None:
        story = attached(WIFI)
        story.hears(Woke(Seconds(60)), after=60)
        said = story.is_at(LTE)
        assert said == ["hold", "move lte", "only probes lte", "probe", "negotiate lte"]
        assert story.answered() == ["protect lte", "release"]

    def test_what_comes_after_the_proof_is_optimistic_again(self) -> None:
        story = attached(WIFI)
        story.hears(Woke(Seconds(60)), after=60)
        story.answered()
        assert story.is_at(LTE) == OPTIMISTIC_MOVE

    def test_says_good_night_and_holds_until_it_may_sleep(self) -> None:
        story = attached(WIFI)
        assert story.hears(FallsAsleep()) == ["only probes wifi", "say asleep"]
        assert story.reasons() == {"falling-asleep"}
        assert story.answered() == ["may sleep"]
        assert story.state() is State.MOVING
        assert story.hears(Woke(Seconds(60)), after=60) == ["only probes wifi", "probe"]
        assert story.answered() == ["protect wifi", "release"]

    def test_says_it_again_until_it_is_heard(self) -> None:
        story = attached(WIFI)
        story.hears(FallsAsleep())
        assert story.waits(0.7) == ["say asleep", "say asleep"]
        assert story.answered() == ["may sleep"]
        assert story.waits(5) == []

    def test_may_sleep_at_once_when_nobody_can_be_told(self) -> None:
        story = attached(WIFI)
        story.is_at()
        assert story.hears(FallsAsleep()) == ["may sleep"]
        assert story.state() is State.DETACHED

    def test_begins_nothing_before_it_sleeps(self) -> None:
        story = attached(WIFI)
        story.hears(FallsAsleep())
        assert "negotiate lte" not in story.is_at(LTE)
        assert "negotiate lte" in story.hears(Woke(Seconds(60)), after=60)

    def test_what_it_negotiates_is_abandoned_before_it_sleeps(self) -> None:
        story = attached(WIFI2)
        story.is_at(WIFI2, WIFI)
        assert story.hears(FallsAsleep())[:1] == ["abandon"]

    def test_a_sleep_that_does_not_come_is_over(self) -> None:
        story = attached(WIFI)
        story.hears(FallsAsleep())
        story.answered()
        said = story.waits(SLEEP_LIMIT, answering=True)
        assert said[:4] == ["only probes wifi", "probe", "protect wifi", "release"]
        assert story.state() is State.ATTACHED

    def test_ends_every_pause(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        for _ in range(8):
            story.fails()
            story.waits_for_an_attempt()
        story.fails()
        assert story.hears(Woke(Seconds(2)), after=2) == ["negotiate wifi"]

    def test_begins_anew_what_it_was_negotiating_when_it_fell_asleep(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        assert story.hears(Woke(Seconds(3600)), after=3600) == ["abandon", "negotiate wifi"]


class TestEchoes:
    def test_are_hidden_in_an_outage_and_a_second_longer(self) -> None:
        story = attached(WIFI)
        story.is_at()
        assert not story.echoes_hidden()
        story.waits(STALE_AFTER)
        assert story.echoes_hidden()
        story.is_at(WIFI, after=20)
        story.answered()
        story.waits(FRESH_AFTER - RTT)
        assert story.echoes_hidden()
        story.waits(2 * RTT)
        assert not story.echoes_hidden()

    def test_are_left_alone_by_a_roam_that_is_quick(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        story.answered()
        story.waits(1)
        assert not any(isinstance(effect, HideEchoes) for effect in story.handles(Tick()))
        assert not story.echoes_hidden()

    def test_are_hidden_at_once_when_a_path_turns_out_to_be_dead(self) -> None:
        story = attached(WIFI, LTE)
        story.waits(3.9)
        assert not story.echoes_hidden()
        assert "hold" in story.waits(0.2)
        assert story.echoes_hidden()

    def test_are_hidden_at_once_after_a_sleep(self) -> None:
        story = attached(WIFI)
        story.hears(Woke(Seconds(60)), after=60)
        assert story.echoes_hidden()
        story.answered()
        story.waits(FRESH_AFTER + RTT)
        assert not story.echoes_hidden()


class TestLimits:
    def test_more_places_than_tables_costs_the_worst_of_them(self) -> None:
        crowd = [
            replace(WIFI, pop=f"10.{number // 250}.{number % 250}.1", link="wlan0")
            for number in range(len(TABLE_PATHS) + 20)
        ]
        story = EndpointStory()
        story.starts(*crowd)
        assert len(story.machine.paths) == len(TABLE_PATHS)

    def test_the_active_path_keeps_its_table_whatever_comes(self) -> None:
        story = attached(LTE)
        crowd = [
            replace(WIFI, pop=f"10.{number // 250}.{number % 250}.1", link="wlan0")
            for number in range(len(TABLE_PATHS) + 20)
        ]
        before = story.machine.kernel().tables[path(LTE)]
        story.is_at(LTE, *crowd)
        assert story.machine.active_path == path(LTE)
        assert story.machine.kernel().tables[path(LTE)] == before

    def test_a_table_stays_with_its_place_for_as_long_as_that_lasts(self) -> None:
        story = attached(WIFI, LTE)
        before = story.machine.kernel().tables
        story.is_at(WIFI, LTE, WIFI2)
        after = story.machine.kernel().tables
        assert {way: after[way] for way in before} == before

    def test_a_tick_too_early_does_nothing(self) -> None:
        story = attached(WIFI)
        assert story.hears(Tick()) == []

    def test_an_outcome_of_a_move_nobody_ordered_is_nothing(self) -> None:
        story = attached(WIFI)
        stray = tunnel(path(LTE), 40)
        assert story.hears(MoveEnded(stray, path(LTE), moved=True)) == []

    def test_a_move_is_ordered_with_the_tunnel_as_it_is(self) -> None:
        story = attached(WIFI)
        mine = story.machine.active
        assert mine is not None
        orders = story.handles(Woke(Seconds(0)))
        assert not any(isinstance(order, MoveTunnel) for order in orders)


def on_the_link_asked_for() -> EndpointStory:
    """Attached over LTE, because the operator asked for it, though there is Wi-Fi."""
    story = attached(WIFI, LTE)
    story.hears(RoamRequested("wwan0"))
    story.negotiated()
    story.answered()
    story.waits(1.5, answering=True)
    assert story.machine.active_path == path(LTE)
    return story


def adopted() -> Tunnel:
    """What the kernel's policy and SAs say of a predecessor's tunnel: no IKE_SA is known."""
    return replace(tunnel(path(WIFI), 1, ""), ike=UniqueId(0), child=UniqueId(0))
