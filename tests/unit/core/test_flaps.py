"""A place that comes and goes is left alone, as long as something else works."""

from dataclasses import replace
from typing import Final

from orchestrator.core.flaps import MOST, STEADY, WHILE, Flaps
from orchestrator.core.mobility_events import RoamRequested
from orchestrator.core.places import place_of
from tests.unit.core.builders import LTE, SERVER4, WIFI, at, path
from tests.unit.core.stories import POLICY, EndpointStory, attached

HERE: Final = place_of(path(WIFI))
PHASE: Final = 0.3
TWO: Final = replace(POLICY, warm_links=2)


def flapping(times: int = 20) -> tuple[EndpointStory, list[str]]:
    """Attached over LTE, while Wi-Fi, which is better, comes and goes; and what was ordered."""
    story = attached(LTE, policy=TWO)
    said: list[str] = []
    for _ in range(times):
        said += story.is_at(WIFI, LTE)
        said += lives(story, PHASE)
        said += story.is_at(LTE)
        said += lives(story, PHASE)
    return story, said


def lives(story: EndpointStory, seconds: float) -> list[str]:
    """Whatever is begun succeeds, whoever is asked answers."""
    end, said = story.now + seconds, list[str]()
    while story.now < end:
        if story.attempt is not None:
            said += story.negotiated()
        said += story.waits(0.05, answering=True)
        if story.warm_probe is not None:
            said += story.warm_answered(after=0.0)
    return said


def vanishing(*times: float) -> Flaps:
    """The place was there, and was not, at each of these times."""
    flaps = Flaps()
    for time in times:
        flaps.look([HERE], at(time - PHASE))
        flaps.look([], at(time))
    return flaps


class TestFlaps:
    def test_once_is_anybodys_cable(self) -> None:
        assert vanishing(100).steady_at(HERE) <= 100

    def test_to_be_there_still_is_no_flap(self) -> None:
        flaps = Flaps()
        for time in (100, 101, 102):
            flaps.look([HERE], at(time))
        assert flaps.steady_at(HERE) <= 100

    def test_twice_in_a_while_is_not(self) -> None:
        assert vanishing(100, 100.6).steady_at(HERE) == 100.6 + STEADY

    def test_twice_after_a_long_time_is(self) -> None:
        assert vanishing(100, 100 + WHILE).steady_at(HERE) <= 100

    def test_it_is_steady_that_long_after_it_vanished_last(self) -> None:
        assert vanishing(100, 101, 102).steady_at(HERE) == 102 + STEADY

    def test_the_operator_knows_better(self) -> None:
        flaps = vanishing(100, 101)
        flaps.forgive(HERE)
        assert flaps.steady_at(HERE) <= 100

    def test_no_more_places_are_remembered_than_a_bound(self) -> None:
        flaps = vanishing(100)
        flaps.look([replace(HERE, pop=SERVER4 + number) for number in range(MOST)], at(101))
        flaps.look([HERE], at(101.5))
        flaps.look([], at(102))
        assert flaps.steady_at(HERE) <= 100, "the first was forgotten"


class TestAFlappingLink:
    def test_is_negotiated_on_a_few_times_and_left_alone_then(self) -> None:
        story, said = flapping()
        assert 1 <= said.count("negotiate wifi") <= 3
        assert story.machine.roams <= 4
        assert story.machine.active_path == path(LTE)

    def test_is_gone_back_to_when_it_is_steady(self) -> None:
        story, _ = flapping()
        story.is_at(WIFI, LTE)
        said = lives(story, STEADY - 2 * PHASE)
        assert "negotiate wifi" not in said
        lives(story, 1)
        assert story.machine.active_path == path(WIFI)

    def test_is_used_all_the_same_when_there_is_nothing_else(self) -> None:
        story, _ = flapping()
        said = story.is_at(WIFI)
        assert "negotiate wifi" in said or "move wifi" in said

    def test_or_when_the_operator_wants_it(self) -> None:
        story, _ = flapping()
        story.is_at(WIFI, LTE)
        assert "negotiate wifi" in story.hears(RoamRequested("wlan0"))
