"""A tunnel beside the one in use: when there is one, and what becomes of the traffic."""

from dataclasses import replace

from orchestrator.core.ike import IkeDown
from orchestrator.core.liveness import MIN_RTO
from orchestrator.core.mobility_events import RoamRequested, State, Woke
from orchestrator.core.penalties import PENALTY
from orchestrator.core.quantities import Seconds, UniqueId
from orchestrator.core.warmth import ASK, ASK_METERED, RTOS
from tests.unit.core.builders import LTE, LTE6, SERVER4, SERVER6, WIFI, WIFI2, path
from tests.unit.core.stories import POLICY, RTT, EndpointStory, attached

TWO = replace(POLICY, warm_links=2)


def warm() -> EndpointStory:
    """Attached over Wi-Fi, with a warm tunnel over LTE that has answered."""
    story = attached(WIFI, LTE, policy=TWO)
    assert story.negotiated() == ["protect wifi", "ask"]
    story.warm_answered()
    assert story.machine.active_path == path(WIFI)
    return story


def given_up() -> EndpointStory:
    """The Wi-Fi has fallen silent: attached over LTE."""
    story = warm()
    while story.machine.active_path == path(WIFI):
        if "ask" in story.waits(0.01):
            story.warm_answered()
    story.answered()
    return story


class TestKeeping:
    def test_the_next_link_gets_a_tunnel_that_carries_nothing(self) -> None:
        story = EndpointStory(TWO)
        story.starts(WIFI, LTE)
        story.finds_charon()
        story.negotiated()
        assert "negotiate lte" in story.answered()
        assert story.negotiated() == ["protect wifi", "ask"]
        assert story.machine.active_path == path(WIFI)

    def test_it_is_told_of_and_not_one_that_it_replaces(self) -> None:
        story = warm()
        story.is_at(WIFI)
        story.is_at(WIFI, LTE)
        story.negotiated()
        told = story.machine.tunnel_of(path(LTE))
        assert told is not None
        assert told.ike == UniqueId(3), "the first retires still"

    def test_no_more_links_than_allowed(self) -> None:
        story = warm()
        said = [*story.is_at(WIFI2, WIFI, LTE), *story.waits(1, answering=True)]
        assert "negotiate wifi2" in said, "it is better than the second"
        assert "terminate 2" in said
        assert "ask" in story.negotiated()

    def test_one_that_comes_up_beside_a_better_path_of_its_link_is_ended(self) -> None:
        story = attached(WIFI, policy=replace(TWO, servers=(SERVER4, SERVER6)))
        assert "negotiate lte6" in story.is_at(WIFI, LTE6)
        story.is_at(WIFI, LTE, LTE6)
        story.negotiated()
        said = story.waits(1.1, answering=True)
        assert "terminate 2" in said
        assert [held.tunnel.ike for held in story.machine._known.tunnels.held] == [UniqueId(1)]

    def test_without_permission_there_is_none(self) -> None:
        story = attached(WIFI, LTE)
        assert story.attempt is None
        assert story.waits(5, answering=True).count("ask") == 0

    def test_it_is_asked_rarely(self) -> None:
        story = warm()
        said = story.waits(ASK - 1, answering=True)
        assert "ask" not in said

    def test_where_traffic_costs_money_hardly_ever(self) -> None:
        choice = replace(TWO.choice, metered=("wwan*",))
        story = attached(WIFI, LTE, policy=replace(TWO, choice=choice))
        story.negotiated()
        story.warm_answered()
        assert "ask" not in story.waits(ASK_METERED - 1, answering=True)
        assert "ask" in story.waits(2, answering=True)
        assert story.warm_probe is not None
        assert story.warm_probe.within == ASK_METERED, "the server is to be as patient"

    def test_one_that_does_not_answer_is_ended_and_made_anew_later(self) -> None:
        story = attached(WIFI, LTE, policy=TWO)
        story.negotiated()
        said = story.waits(2.1, answering=True)
        assert "terminate 2" in said
        assert story.machine.active_path == path(WIFI)
        assert "negotiate lte" in story.waits(1, answering=True)

    def test_after_a_sleep_it_is_asked_anew(self) -> None:
        story = warm()
        story.hears(Woke(Seconds(3600.0)), after=3600)
        assert "ask" not in story.waits(0.1), "nothing but the active one matters yet"
        assert "ask" in story.answered()
        assert "terminate 2" not in story.waits(1.0, answering=True)

    def test_one_that_the_server_ends_at_once_is_made_anew_after_a_pause(self) -> None:
        story = attached(WIFI, LTE, policy=TWO)
        story.negotiated()
        assert "negotiate lte" not in story.hears(IkeDown(UniqueId(2)), after=RTT)
        assert story.machine.failure_of(path(LTE)) is not None
        assert "negotiate lte" in story.waits(POLICY.backoff_min, answering=True)
        story.negotiated()
        story.hears(IkeDown(UniqueId(3)), after=RTT)
        assert "negotiate lte" not in story.waits(POLICY.backoff_min, answering=True)

    def test_one_that_ends_after_it_has_answered_is_made_anew_at_once(self) -> None:
        story = warm()
        assert story.hears(IkeDown(UniqueId(2)))[-1] == "negotiate lte"


class TestGoing:
    def test_the_traffic_goes_there_when_carrier_is_lost(self) -> None:
        story = warm()
        assert story.is_at(LTE) == ["hold", "protect lte", "probe", "release"]
        assert "warm-path" in story.reasons()

    def test_a_silent_path_is_left_soon_when_the_other_one_answers(self) -> None:
        story = warm()
        story.waits(1.9, answering=True)
        began = story.now
        while story.machine.active_path == path(WIFI):
            if "ask" in story.waits(0.01):
                story.warm_answered()
            assert story.now < began + 2
        assert story.now - began <= 0.2 + RTOS * MIN_RTO + RTT

    def test_and_not_soon_when_it_does_not(self) -> None:
        story = warm()
        story.waits(1.9, answering=True)
        story.waits(1.5)
        assert story.machine.active_path == path(WIFI)

    def test_a_server_that_was_silent_itself_is_no_reason_to_go(self) -> None:
        """It answers again, over both: which of its answers comes first says nothing."""
        story = warm()
        story.waits(1.9, answering=True)
        said = story.waits(1.2)
        assert {"probe", "ask"} <= set(said)
        story.warm_answered(after=0.01)
        assert "probe" in story.waits(0.01)
        story.answered(after=0.01)
        story.waits(1, answering=True)
        assert story.machine.active_path == path(WIFI)

    def test_a_better_link_takes_the_traffic_and_leaves_the_other_warm(
        self,
    ) -> None:
        story = warm()
        story.is_at(LTE)
        story.waits(0.1)
        assert "negotiate wifi" in story.is_at(WIFI, LTE)
        assert story.negotiated() == ["protect wifi", "probe", "release", "protect wifi", "ask"]

    def test_a_link_that_fell_silent_is_not_gone_back_to_at_once(self) -> None:
        story = given_up()
        left = story.now
        while story.machine.active_path == path(LTE):
            said = story.waits(0.05, answering=True)
            if "ask" in said:
                story.warm_answered()
            assert story.now < left + 20
        assert PENALTY <= story.now - left + 1 <= PENALTY + 4

    def test_nor_is_it_when_its_tunnel_was_made_anew_in_the_meantime(self) -> None:
        story = given_up()
        left = story.now
        while story.attempt is None:
            story.waits(0.05, answering=True)
        assert story.now < left + PENALTY
        assert story.negotiated() == ["protect lte", "ask"]
        while story.machine.active_path == path(LTE):
            story.warm_answered()
            while "ask" not in story.waits(0.05, answering=True):
                assert story.now < left + 20
            story.warm_answered()
        assert PENALTY <= story.now - left + 1 <= PENALTY + 4

    def test_but_at_once_where_the_operator_wants_it(self) -> None:
        story = given_up()
        if story.warm_probe is not None:
            story.warm_answered()
        story.hears(RoamRequested("wlan0"), after=1.0)
        assert story.warm_answered() == [
            "protect wifi",
            "probe",
            "release",
            "protect wifi",
            "ask",
        ]
        assert "operator" in story.reasons()

    def test_or_wants_what_is_best(self) -> None:
        story = given_up()
        story.warm_answered()
        assert "ask" in story.hears(RoamRequested(None), after=1.0)
        assert "protect wifi" in story.warm_answered()

    def test_the_operator_waits_for_an_answer_and_no_longer(self) -> None:
        story = warm()
        assert story.hears(RoamRequested("wwan0")) == ["ask"]
        assert "protect lte" in story.warm_answered()

    def test_it_stays_attached_meanwhile(self) -> None:
        story = warm()
        story.is_at(LTE)
        story.answered()
        assert story.state() is State.ATTACHED


class TestTraffic:
    def test_what_goes_out_and_brings_nothing_back_is_a_reason_to_ask(self) -> None:
        story = warm()
        story.waits(0.05)
        for _ in range(20):
            story.sent += 10
            story.received += 10
            story.waits(0.1, answering=True)
        asked = story.probe
        began = story.now
        while story.probe is asked:
            story.sent += 1
            story.waits(0.01)
            assert story.now < began + 1
        assert story.now - began < 0.35

    def test_an_application_that_only_sends_costs_a_probe_a_second(self) -> None:
        story = warm()
        said: list[str] = []
        for _ in range(100):
            story.sent += 10
            said += story.waits(0.1, answering=True)
        assert said.count("probe") <= 12
