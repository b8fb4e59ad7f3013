"""Stories of one endpoint, told as dialogues: what it hears, and what it orders then.

The words of `stories.describe`: "hold" and "protect wifi" are what is applied to the kernel;
"probe", "release", "negotiate lte", "move lte" and "terminate 1" are orders of those names.
"""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from orchestrator.core.ike import (
    CharonGone,
    IkeDown,
    IkeFailure,
    Tunnel,
    TunnelUp,
)
from orchestrator.core.mobility_events import (
    Ask,
    RoamRequested,
    ServersKnown,
    State,
)
from orchestrator.core.paths import Servers
from orchestrator.core.quantities import UniqueId
from orchestrator.core.race import REST
from orchestrator.core.trust import ANSWER_LIMIT, OUTAGE, SERVER_TURNS
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
from tests.unit.core.dialogues import FLIP_TO_LTE, OPTIMISTIC_MOVE
from tests.unit.core.stories import NAMES, POLICY, EndpointStory, attached


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
        story.answered()
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
        assert story.answered() == ["protect lte", "release", "negotiate lte"]

    def test_negotiates_though_there_is_no_answer(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.waits(0.9 * REST) == ["protect lte", "release"]
        assert story.waits(0.2 * REST) == ["negotiate lte"]

    def test_what_waits_goes_when_the_server_has_followed_or_must_have(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.waits(0.9 * SERVER_TURNS) == []
        assert story.waits(0.2 * SERVER_TURNS) == ["protect lte", "release"]
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.answered(after=0.5 * SERVER_TURNS)[:2] == ["protect lte", "release"]

    def test_after_an_outage_it_waits_for_the_answer_but_not_for_ever(self) -> None:
        story = attached(WIFI)
        story.is_at()
        story.is_at(LTE, after=OUTAGE)
        assert "release" not in story.waits(0.9 * ANSWER_LIMIT)
        assert "release" in story.waits(0.2 * ANSWER_LIMIT)
        story = attached(WIFI)
        story.is_at()
        story.is_at(LTE, after=OUTAGE)
        assert story.answered(after=0.09)[:2] == ["protect lte", "release"]

    def test_a_fresh_tunnel_is_not_waited_with(self) -> None:
        story = attached(WIFI)
        story.is_at()
        story.is_at(LTE, after=OUTAGE)
        assert story.waits(1.1 * REST) == ["negotiate lte"]
        assert story.negotiated() == FLIP_TO_LTE

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


def adopted() -> Tunnel:
    """What the kernel's policy and SAs say of a predecessor's tunnel: no IKE_SA is known."""
    return replace(tunnel(path(WIFI), 1, ""), ike=UniqueId(0), child=UniqueId(0))
