"""Flows of a class go back over the tunnel that they came from: the server's part."""

from orchestrator.core.absence import SessionState
from orchestrator.core.ike import TunnelDown
from orchestrator.core.kernel import MARK_COPIES, Direction, Policy, Verdict
from orchestrator.core.session_events import Heard, HeardWarm
from tests.unit.core.builders import LTE, VIP4, WIFI
from tests.unit.core.server_stories import (
    LAPTOP,
    ServerStory,
    from_endpoint,
    policies,
    ways_of_flows,
)

OVER_WIFI = from_endpoint(WIFI, 1)
OVER_LTE = from_endpoint(LTE, 2)


def told(flip: int = 1) -> ServerStory:
    """Attached over Wi-Fi; of an idle tunnel over LTE it is said that flows take it."""
    story = ServerStory()
    story.admits(OVER_WIFI)
    story.probed(flip, OVER_WIFI)
    story.admits(OVER_LTE)
    assert story.asks(OVER_LTE, flip=flip, carries=True)[-1] == "answer there"
    return story


def back(story: ServerStory) -> list[str]:
    """Where flows go that have a way of their own."""
    found = [policy.template for policy in ways_of_flows(story.kernel[LAPTOP])]
    assert len(copies(story)) == (1 if story.carrying.get(LAPTOP) else 0)
    return [str(way.destination) for way in found if way is not None]


def copies(story: ServerStory) -> list[Policy]:
    """For what is sent twice."""
    out = policies(story.kernel[LAPTOP], Direction.OUT)
    return [policy for policy in out if policy.selector.mark == MARK_COPIES]


def test_they_have_a_way_back_once_it_is_said() -> None:
    story = told()
    assert back(story) == [LTE.pop]
    assert story.carrying[LAPTOP] == {OVER_LTE.spi_in: 0}
    assert story.named_sa() is None, "everything else goes as before"


def test_what_is_sent_twice_falls_to_the_daemon_meanwhile() -> None:
    story = told()
    (way,) = copies(story)
    assert way.verdict is Verdict.ALLOW
    story.asks(OVER_LTE)
    assert copies(story) == []


def test_who_only_asks_has_none() -> None:
    story = ServerStory()
    story.admits(OVER_WIFI)
    story.probed(1, OVER_WIFI)
    story.admits(OVER_LTE)
    story.asks(OVER_LTE)
    assert back(story) == []


def test_a_question_without_it_takes_it_back() -> None:
    story = told()
    story.asks(OVER_LTE)
    assert back(story) == []


def test_whether_it_carries_a_size_takes_nothing_back() -> None:
    story = told()
    story.hears(HeardWarm(VIP4, 1, OVER_LTE.spi_out, padding=1300))
    assert back(story) == [LTE.pop]


def test_a_later_flip_takes_back_what_was_said_before() -> None:
    story = told()
    assert story.probed(2, OVER_WIFI)[0].startswith("to wifi")
    assert back(story) == []
    story.asks(OVER_LTE, flip=2, carries=True)
    assert back(story) == [LTE.pop]


def test_also_while_the_active_tunnel_is_being_followed() -> None:
    story = told()
    story.mapping(OVER_WIFI)
    assert back(story) == [LTE.pop], "it is another tunnel"
    story.probed(2, OVER_WIFI)
    assert back(story) == []


def test_whichever_comes_first() -> None:
    story = told()
    story.asks(OVER_LTE, flip=2, carries=True)
    story.probed(2, OVER_WIFI)
    assert back(story) == [LTE.pop]


def test_what_was_overtaken_by_a_flip_is_not_believed() -> None:
    story = told()
    story.probed(2, OVER_WIFI)
    story.asks(OVER_LTE, flip=1, carries=True)
    assert back(story) == []


def test_a_repeated_probe_of_the_same_flip_takes_nothing_back() -> None:
    story = told()
    story.hears(Heard(VIP4, 1, OVER_WIFI.spi_out, 9))
    assert back(story) == [LTE.pop]


def test_the_active_tunnel_needs_no_way_of_its_own() -> None:
    story = told()
    story.probed(2, OVER_LTE)
    assert back(story) == []
    story.asks(OVER_LTE, flip=2, carries=True)
    assert back(story) == []
    story.probed(3, OVER_WIFI)
    assert back(story) == [], "what was said before it was active counts no more"


def test_a_tunnel_that_ends_takes_its_way_along() -> None:
    story = told()
    story.hears(TunnelDown(OVER_LTE.ike, OVER_LTE.child))
    assert back(story) == []
    assert story.carrying[LAPTOP] == {}


def test_one_whose_sender_has_moved_is_not_trusted() -> None:
    """charon rewrites its SA: what is sent there meanwhile is lost."""
    story = told()
    story.mapping(OVER_LTE)
    assert back(story) == []
    story.asks(OVER_LTE, carries=True)
    assert back(story) == []


def test_while_it_is_away_or_asleep_everything_waits() -> None:
    story = told()
    story.sleeps(1, OVER_WIFI, sequence=5)
    assert story.state() is SessionState.ASLEEP
    assert back(story) == []
    story.asks(OVER_LTE, carries=True)
    assert back(story) == []
