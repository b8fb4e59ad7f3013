"""An endpoint says how large a packet its path carries, and is sent no larger one."""

import pytest

from orchestrator.core.kernel import MARK_SIZED, Route
from orchestrator.core.mtu import FLOOR
from orchestrator.core.quantities import Spi
from orchestrator.core.session_events import AnswerProbe, Heard, HeardWarm
from tests.unit.core.builders import LTE, VIP4, WIFI, at
from tests.unit.core.server_stories import LAPTOP, ServerStory, from_endpoint

OVER_WIFI = from_endpoint(WIFI, 1)
OVER_LTE = from_endpoint(LTE, 2)
LIMIT = 1218


def heard(flip: int, sequence: int, limit: int, spi: Spi = OVER_WIFI.spi_out) -> Heard:
    return Heard(VIP4, flip, spi, sequence, limit=limit)


def limits(story: ServerStory) -> list[int | None]:
    return [each.mtu for each in story.kernel[LAPTOP] if isinstance(each, Route)]


@pytest.fixture
def story() -> ServerStory:
    """Attached over Wi-Fi; nothing was said of sizes."""
    story = ServerStory()
    story.admits(OVER_WIFI)
    story.hears(heard(1, 1, 0))
    assert limits(story) == []
    return story


def test_the_limit_is_where_its_packets_are_routed(story: ServerStory) -> None:
    story.hears(heard(1, 2, LIMIT))
    assert limits(story) == [LIMIT]


def test_senders_begin_anew_with_a_limit_on_the_path_in_use(story: ServerStory) -> None:
    assert "release" in story.hears(heard(1, 2, LIMIT))


def test_nothing_is_written_when_it_is_said_again(story: ServerStory) -> None:
    story.hears(heard(1, 2, LIMIT))
    assert story.hears(heard(1, 3, LIMIT)) == ["answer"]


def test_it_goes_when_the_path_carries_everything(story: ServerStory) -> None:
    story.hears(heard(1, 2, LIMIT))
    story.hears(heard(1, 3, 0))
    assert limits(story) == []


def test_a_flip_to_another_path_has_the_limit_of_that(story: ServerStory) -> None:
    story.hears(heard(1, 2, LIMIT))
    story.admits(OVER_LTE)
    story.hears(heard(2, 3, 0, OVER_LTE.spi_out))
    assert limits(story) == []
    story.hears(heard(3, 4, LIMIT))
    assert limits(story) == [LIMIT]


def test_what_comes_late_is_not_believed(story: ServerStory) -> None:
    story.hears(heard(1, 4, 0))
    story.hears(heard(1, 3, LIMIT))
    assert limits(story) == []


def test_nobody_can_have_himself_sent_crumbs(story: ServerStory) -> None:
    story.hears(heard(1, 2, 68))
    assert limits(story) == [FLOOR]


def answers(story: ServerStory, question: HeardWarm) -> list[AnswerProbe]:
    effects = story.machine.handle(question, at(story.now))
    return [effect for effect in effects if isinstance(effect, AnswerProbe)]


def test_whether_more_is_carried_is_answered_past_the_limit(story: ServerStory) -> None:
    question = HeardWarm(VIP4, 1, OVER_WIFI.spi_out, 5, padding=1328)
    assert answers(story, question) == [AnswerProbe(question, MARK_SIZED)]
    assert story.session().slot_of(OVER_WIFI) is None, "that costs nothing"


def test_of_an_idle_tunnel_through_that_tunnel(story: ServerStory) -> None:
    story.admits(OVER_LTE)
    question = HeardWarm(VIP4, 1, OVER_LTE.spi_out, 5, padding=1328)
    (answer,) = answers(story, question)
    assert answer.mark != MARK_SIZED
    assert story.session().slot_of(OVER_LTE) is not None
