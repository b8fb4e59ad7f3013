"""How a path is, and the words for why."""

from orchestrator.core.liveness import MIN_RTO, PathHealth
from orchestrator.core.mobility_events import Tick
from orchestrator.core.traffic import LOOK, SILENCE
from orchestrator.core.verdict import Sign, Verdict
from tests.unit.core.builders import LTE, WIFI, Place, at, path
from tests.unit.core.stories import EndpointStory, attached
from tests.unit.core.test_warmth import warm


def of(story: EndpointStory, place: Place = WIFI) -> Verdict:
    found = story.machine.verdict_of(path(place), at(story.now))
    assert found is not None
    return found


def test_a_path_that_answered_is_alive() -> None:
    assert of(attached(WIFI)) == Verdict(PathHealth.ALIVE, frozenset({Sign.ANSWERED}))


def test_one_that_has_not_yet_is_unproven() -> None:
    story = attached(WIFI)
    story.is_at(LTE)
    assert of(story, LTE) == Verdict(PathHealth.UNPROVEN, frozenset({Sign.NEVER_ANSWERED}))


def test_where_there_is_no_tunnel_there_is_no_verdict() -> None:
    story = attached(WIFI, LTE)
    assert story.machine.verdict_of(path(LTE), at(story.now)) is None


def silent() -> EndpointStory:
    """The active path's probe is unanswered, longer than its round trip takes."""
    story = warm()
    story.waits(1.9, answering=True)
    story.waits(0.2 + MIN_RTO)
    return story


def test_one_that_is_late_is_suspect() -> None:
    assert of(silent()) == Verdict(PathHealth.SUSPECT, frozenset({Sign.ANSWER_LATE}))


def test_and_the_more_so_if_another_answers() -> None:
    story = silent()
    story.warm_answered(after=0.0)
    assert of(story) == Verdict(
        PathHealth.SUSPECT, frozenset({Sign.ANSWER_LATE, Sign.OTHERS_ANSWER})
    )
    assert of(story, LTE) == Verdict(PathHealth.ALIVE, frozenset({Sign.ANSWERED}))


def test_packets_that_come_are_told_for_a_moment() -> None:
    story = attached(WIFI)
    story.waits(2 * LOOK)
    story.received += 3
    story.stirs()
    assert of(story).signs == {Sign.ANSWERED, Sign.PACKETS_COME}
    story.waits(LOOK + SILENCE)
    assert of(story).signs == {Sign.ANSWERED}


def test_packets_that_come_keep_it_until_the_longest_patience_is_over() -> None:
    def left_after(*, coming: bool) -> float:
        story = silent()
        story.warm_answered(after=0.0)
        began = story.now
        while story.machine.active_path == path(WIFI):
            story.received += coming
            story.stirs()
            if "ask" in story.waits(0.05):
                story.warm_answered(after=0.0)
            story.hears(Tick())
        return story.now - began

    assert left_after(coming=False) < 0.5
    assert left_after(coming=True) > 1.5
