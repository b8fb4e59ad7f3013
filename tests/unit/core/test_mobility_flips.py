"""An endpoint that has a choice: it returns, goes to the better link, leaves a silent one."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from orchestrator.core.ike import (
    CharonGone,
    IkeDown,
    IkeFailure,
)
from orchestrator.core.mobility_events import (
    ProbeAnswered,
    RestartSenders,
    RoamRequested,
    State,
)
from orchestrator.core.paths import LinkChoice
from orchestrator.core.quantities import UniqueId
from orchestrator.core.race import REST
from tests.unit.core.builders import (
    LTE,
    LTE6,
    SERVER4,
    SERVER6,
    WIFI,
    WIFI2,
    path,
    without_carrier,
)
from tests.unit.core.dialogues import FLIP_TO_LTE
from tests.unit.core.stories import POLICY, EndpointStory, attached


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
        story.answered()
        story.fails()  # the renewal of the moved tunnel
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
        story.waits(1.1 * REST)
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

    @pytest.mark.parametrize(("unanswered", "helped"), [(0.3, 0), (0.7, 1)])
    def test_who_sent_into_the_silence_is_helped_when_it_ends(
        self, unanswered: float, helped: int
    ) -> None:
        story = attached(WIFI)
        story.waits(2.0 + unanswered)
        assert story.state() is State.ATTACHED
        assert story.probe is not None
        done = story.handles(ProbeAnswered(story.probe.sequence))
        assert done.count(RestartSenders()) == helped

    def test_who_sent_before_a_path_was_left_is_helped_once_another_answers(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.probe is not None
        done = story.handles(ProbeAnswered(story.probe.sequence))
        assert story.state() is State.ATTACHED
        assert done.count(RestartSenders()) == 1

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
        story.answered()
        story.negotiated()
        assert story.probe.flip == first + 2

    def test_probes_name_the_spi_on_which_the_server_shall_send(self) -> None:
        story = attached(WIFI)
        assert story.probe is not None
        assert story.machine.active is not None
        assert story.probe.spi == story.machine.active.spi_in


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
        story.answered()
        story.negotiated()
        story.answered()
        assert story.is_at(LTE, WIFI) == ["protect lte", "negotiate wifi"]

    def test_the_wish_counts_while_nothing_works_too(self) -> None:
        story = attached(WIFI, LTE)
        story.hears(RoamRequested("wwan0"))
        story.negotiated()
        story.answered()
        assert story.hears(IkeDown(UniqueId(2))) == ["hold", "negotiate lte"]


def on_the_link_asked_for() -> EndpointStory:
    """Attached over LTE, because the operator asked for it, though there is Wi-Fi."""
    story = attached(WIFI, LTE)
    story.hears(RoamRequested("wwan0"))
    story.negotiated()
    story.answered()
    story.waits(1.5, answering=True)
    assert story.machine.active_path == path(LTE)
    return story
