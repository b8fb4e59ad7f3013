"""Flows of a class take a link of their own while it works: the endpoint's part."""

from dataclasses import replace

from orchestrator.core.flow_class import FlowClass, FlowReason
from orchestrator.core.liveness import MIN_RTO
from orchestrator.core.mobility_events import FallsAsleep, RoamRequested, Tick, Woke
from orchestrator.core.penalties import PENALTY
from orchestrator.core.quantities import Seconds
from orchestrator.core.traffic import LOOK, SILENCE
from orchestrator.core.warmth import RTOS
from tests.unit.core.builders import LTE, WIFI, WIFI2
from tests.unit.core.stories import NAMES, POLICY, RTT, EndpointStory, attached

VOICE = FlowClass("voice", ("ww*",), dscp=46)
BULK = FlowClass("bulk", ("wlan0", "wlan1"))
BOUND = replace(POLICY, flows=(VOICE, BULK))
"""`warm` allows no tunnel beside the active one: it is there for the class."""


CALLS = FlowClass("calls", ("wlan*", "ww*"), redundant=True)
TWICE = replace(POLICY, flows=(CALLS,))


def bound() -> EndpointStory:
    """Attached over Wi-Fi, voice over LTE."""
    story = attached(WIFI, LTE, policy=BOUND)
    assert "ask" in story.negotiated()
    assert story.warm_answered() == ["protect wifi", "ask and say"]
    story.warm_answered()
    return story


def where(story: EndpointStory) -> dict[str, str]:
    """The ways of classes that have one of their own."""
    found = story.machine.kernel().bound
    return {BOUND.flows[n].name: NAMES[way.source] for n, way in found if way.source}


def why(story: EndpointStory, name: str = "voice") -> FlowReason:
    return next(way.why for way in story.machine.classes.ways if way.flows.name == name)


def falls_silent(story: EndpointStory, limit: float = 5.0) -> float:
    """LTE answers no more, Wi-Fi does; how long voice stays there."""
    began = story.now
    while where(story):
        if "probe" in story.waits(0.01):
            story.answered()
        assert story.now < began + limit
    return story.now - began


class TestBinding:
    def test_a_class_has_a_tunnel_over_its_link_and_takes_it_once_it_answers(self) -> None:
        story = attached(WIFI, LTE, policy=BOUND)
        story.negotiated()
        assert where(story) == {}
        assert why(story) is FlowReason.NO_TUNNEL
        story.warm_answered()
        assert where(story) == {"voice": "lte"}
        assert story.told("flows").fields == {"flows": "voice"}

    def test_where_everything_goes_there_it_needs_none(self) -> None:
        story = bound()
        assert "bulk" not in where(story)
        assert why(story, "bulk") is FlowReason.NAMED

    def test_without_its_link_it_goes_with_everything_else(self) -> None:
        story = attached(WIFI, policy=BOUND)
        assert where(story) == {}
        assert why(story) is FlowReason.NO_LINK

    def test_the_second_link_that_it_names_will_do(self) -> None:
        second = replace(POLICY, flows=(FlowClass("voice", ("eth*", "wlan1")),))
        story = attached(WIFI, WIFI2, policy=second)
        story.negotiated()
        story.warm_answered()
        assert [NAMES[way.source] for _, way in story.machine.kernel().bound if way.source] == [
            "wifi2"
        ]

    def test_everything_else_may_go_to_its_link_and_back(self) -> None:
        story = bound()
        story.hears(RoamRequested("wwan0"))
        story.warm_answered()
        assert where(story) == {}, "all of it is over LTE"
        story.answered()
        story.warm_answered()
        assert where(story) == {"bulk": "wifi"}

    def test_a_tunnel_that_it_takes_is_asked_often(self) -> None:
        assert "ask and say" in bound().waits(2.1, answering=True)


class TestLeaving:
    def test_it_goes_with_everything_else_when_its_link_is_gone(self) -> None:
        story = bound()
        assert story.is_at(WIFI) == ["protect wifi", "probe", "protect wifi"]
        assert where(story) == {}
        assert story.machine.flip == 2

    def test_it_leaves_a_silent_link_as_soon_as_everything_else_would(self) -> None:
        story = bound()
        while "ask and say" not in story.waits(0.01):
            pass
        assert falls_silent(story) <= RTOS * MIN_RTO + 0.11
        assert why(story) is FlowReason.SILENT

    def test_a_server_that_is_silent_itself_is_no_reason_to_leave(self) -> None:
        story = bound()
        while "ask and say" not in story.waits(0.01):
            pass
        said = story.waits(1.5)
        assert "probe" in said, "the active path is asked, too"
        assert where(story) == {"voice": "lte"}
        story.answered(after=0.01)
        story.warm_answered(after=0.01)
        story.waits(1.0, answering=True)
        assert where(story) == {"voice": "lte"}

    def test_and_notices_by_its_own_traffic(self) -> None:
        story = bound()
        story.waits(LOOK + 0.01, answering=True)
        story.sent += 10
        assert falls_silent(story) <= SILENCE + 2 * LOOK + RTOS * MIN_RTO + 0.2

    def test_the_server_is_told_by_a_flip_that_changes_nothing_else(self) -> None:
        story = bound()
        before, path = story.machine.flip, story.machine.active_path
        falls_silent(story)
        assert story.machine.flip == before + 1
        assert story.machine.active_path == path
        assert story.probe is not None
        assert story.probe.flip == before + 1

    def test_it_does_not_come_back_before_a_while(self) -> None:
        story = bound()
        falls_silent(story)
        left = story.now
        while not where(story):
            said = story.waits(0.05)
            if "ask" in said:
                story.warm_answered(after=0.0)
            if "probe" in said:
                story.answered(after=0.0)
        assert PENALTY <= story.now - left < PENALTY + 3

    def test_it_stays_when_everything_else_is_lost(self) -> None:
        """LTE takes over; until then nothing of voice is held."""
        story = bound()
        story.is_at(LTE)
        assert story.machine.kernel().active is not None

    def test_nothing_has_a_way_of_its_own_while_the_path_is_doubted(self) -> None:
        for news in (FallsAsleep(), Woke(Seconds(60.0))):
            story = bound()
            story.hears(news)
            assert where(story) == {}
            assert why(story) is FlowReason.DOUBTED

    def test_after_a_sleep_it_is_proven_anew(self) -> None:
        story = bound()
        story.hears(Woke(Seconds(60.0)))
        assert "ask" in story.answered()
        assert where(story) == {}
        story.warm_answered()
        assert where(story) == {"voice": "lte"}


class TestTelling:
    def test_each_flip_has_it_said_again(self) -> None:
        story = attached(WIFI2, LTE, policy=BOUND)
        story.negotiated()
        story.warm_answered()
        story.is_at(WIFI2, WIFI, LTE)
        while story.attempt is None:
            story.waits(0.1, answering=True)
        said = story.negotiated()
        assert said.index("probe") < said.index("ask and say")
        assert story.warm_probe is not None
        assert story.warm_probe.flip == story.machine.flip

    def test_an_answer_comes_within_one_round_trip(self) -> None:
        story = bound()
        story.hears(Tick(), after=RTT)
        liveness = next(h for h in story.machine._known.warmth.warm).liveness
        assert liveness.waiting_since is None


class TestRedundancy:
    def twice(self) -> EndpointStory:
        story = attached(WIFI, LTE, policy=TWICE)
        story.negotiated()
        story.warm_answered()
        return story

    def test_it_takes_the_active_path_and_the_next_link_that_it_names(self) -> None:
        story = self.twice()
        (slot,) = dict(story.machine.kernel().warm)
        assert story.machine.kernel().copied == ((0, slot),)
        assert story.machine.kernel().bound == ()
        assert why(story, "calls") is FlowReason.NAMED

    def test_with_one_link_it_goes_as_everything_else(self) -> None:
        story = attached(WIFI, policy=TWICE)
        assert story.machine.kernel().copied == ()

    def test_a_second_link_that_is_silent_for_a_moment_is_no_reason_to_leave_it(self) -> None:
        story = self.twice()
        said: list[str] = []
        while said.count("ask and say") < 4:
            said += story.waits(0.05, answering=True)
        assert story.machine.kernel().copied != ()

    def test_when_the_active_path_is_lost_it_goes_on_over_the_other_one(self) -> None:
        story = self.twice()
        before = len(story.applied)
        story.is_at(LTE)
        during = story.applied[before:]
        assert all(state.active or state.bound for state in during)
        assert story.machine.kernel().copied == ()
