"""Stories of networks that ask for a sign-in; `tests.unit.core.stories` has the words.

"ask about wifi" is a request through it; "open wifi" and "close REASON" are the way's.
"""

from dataclasses import replace

from orchestrator.core.ike import IkeFailure
from orchestrator.core.portal import LONGEST_PAUSE, QUICK_PAUSE, PortalPolicy
from orchestrator.core.portal_events import Finding, PortalReason, WayLeft, WayRequested
from orchestrator.core.quantities import Seconds
from tests.unit.core.builders import LTE, LTE6, SERVER4, SERVER6, WIFI
from tests.unit.core.stories import POLICY, EndpointStory, attached

WAY = 300.0
ASKING = replace(POLICY, portal=PortalPolicy(frozenset({4}), Seconds(WAY)))
BOTH = replace(ASKING, servers=(SERVER4, SERVER6))


def behind_a_portal(policy: object = ASKING) -> EndpointStory:
    """On a Wi-Fi where IKE stays unanswered, and HTTP is answered by somebody else."""
    assert isinstance(policy, type(POLICY))
    story = EndpointStory(policy)
    story.starts(WIFI)
    story.finds_charon()
    story.finds(Finding.PORTAL)
    story.fails(IkeFailure.SILENT)
    return story


class TestAsking:
    def test_a_new_point_of_presence_without_a_tunnel_is_asked_about(self) -> None:
        story = EndpointStory(ASKING)
        assert story.starts(WIFI) == ["hold"]
        assert story.waits(0) == ["ask about wifi"], "at once, but not before the daemon runs"
        assert story.finds_charon() == ["negotiate wifi"], "and nobody waits for the answer"

    def test_without_a_url_nobody_is_asked(self) -> None:
        story = EndpointStory()
        assert story.starts(WIFI) == ["hold"]
        story.finds_charon()
        assert "ask about wifi" not in story.fails(IkeFailure.SILENT)

    def test_one_that_the_expected_answer_cannot_be_had_from_is_not_asked_about(self) -> None:
        story = EndpointStory(BOTH)
        assert story.starts(LTE6) == ["hold"]
        assert story.waits(0) == []

    def test_nor_is_one_with_a_tunnel_that_answers(self) -> None:
        story = attached(WIFI, policy=ASKING)
        story.finds(Finding.OPEN)
        assert "ask about wifi" not in story.waits(3600, answering=True)

    def test_a_silent_server_is_a_reason_to_ask_again_and_again_more_rarely(self) -> None:
        story = EndpointStory(ASKING)
        story.starts(WIFI)
        story.finds_charon()
        story.finds(Finding.OPEN)
        asked = 0
        for _ in range(100):
            asked += "ask about wifi" in story.fails(IkeFailure.SILENT, after=8.0)
            if story.asking:
                story.finds(Finding.OPEN)
            asked += story.waits(30.0).count("ask about wifi")
            if story.asking:
                story.finds(Finding.OPEN)
            story.waits_for_an_attempt()
        assert 30 < asked <= story.now / LONGEST_PAUSE + 6

    def test_a_refusal_of_the_server_is_none(self) -> None:
        story = EndpointStory(ASKING)
        story.starts(WIFI)
        story.finds_charon()
        story.finds(Finding.OPEN)
        story.waits(20)
        assert "ask about wifi" not in story.fails(IkeFailure.AUTHENTICATION)

    def test_one_request_at_a_time_however_long_it_takes(self) -> None:
        story = EndpointStory(ASKING)
        story.starts(WIFI)
        assert story.waits(600) == ["ask about wifi"]

    def test_a_path_that_dies_without_a_sign_is_asked_about(self) -> None:
        story = attached(WIFI, policy=ASKING)
        story.finds(Finding.OPEN)
        assert "ask about wifi" in story.waits(20)
        story.finds(Finding.PORTAL)
        assert "portal" in story.reasons()

    def test_an_optimistic_move_alone_proves_nothing(self) -> None:
        story = attached(LTE, policy=ASKING)
        story.finds(Finding.OPEN)
        assert "ask about wifi" in story.is_at(WIFI)


class TestFinding:
    def test_a_portal_is_told_and_a_reason(self) -> None:
        story = behind_a_portal()
        assert story.told("portal").reasons == {PortalReason.PORTAL}
        assert story.reasons() == {"portal", "server-silent"}
        assert story.machine.portals.at(story.machine.paths[0])

    def test_silence_changes_nothing(self) -> None:
        story = behind_a_portal()
        story.waits(10)
        story.finds(Finding.SILENT)
        assert "portal" in story.reasons()
        other = EndpointStory(ASKING)
        other.starts(WIFI)
        other.waits(0)
        other.finds(Finding.SILENT)
        assert "portal" not in other.reasons()

    def test_the_expected_answer_has_ike_begin_at_once(self) -> None:
        story = behind_a_portal()
        for _ in range(6):
            story.waits_for_an_attempt()
            story.fails(IkeFailure.SILENT)
        story.waits(8)
        assert story.asking, "it is asked again while there is a portal"
        assert story.attempt is None, "the pause between two negotiations is long by now"
        assert story.finds(Finding.OPEN) == ["negotiate wifi"]
        assert "portal" not in story.reasons()

    def test_it_is_of_its_network_alone(self) -> None:
        story = behind_a_portal()
        story.is_at(LTE)
        assert "portal" not in story.reasons()
        story.finds(Finding.OPEN)
        story.is_at(WIFI)
        assert "portal" not in story.reasons(), "who returns is asked anew"
        assert len(story.asking) == 1

    def test_an_answer_from_before_the_place_was_left_says_nothing(self) -> None:
        story = EndpointStory(ASKING)
        story.starts(WIFI)
        story.waits(0)
        story.is_at(LTE)
        assert "ask about wifi" not in story.is_at(WIFI), "one at a time"
        assert "ask about wifi" in story.finds(Finding.PORTAL)
        assert "portal" not in story.reasons()

    def test_a_tunnel_ends_it(self) -> None:
        story = behind_a_portal()
        story.waits_for_an_attempt()
        story.negotiated()
        assert not story.machine.portals.at(story.machine.paths[0])


class TestTheWay:
    def test_opens_where_the_portal_is(self) -> None:
        story = EndpointStory(ASKING)
        story.starts(WIFI, LTE)
        story.finds_charon()
        story.finds(Finding.OPEN)
        story.finds(Finding.PORTAL)
        assert story.hears(WayRequested(None)) == ["open lte"]

    def test_opens_without_one_too_and_without_a_url(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        assert story.hears(WayRequested("wlan0")) == ["open wifi"]

    def test_has_both_families_of_its_link(self) -> None:
        story = EndpointStory(BOTH)
        story.starts(WIFI, LTE6, LTE)
        story.waits(0)
        assert story.hears(WayRequested("wwan0")) == ["open lte lte6"]

    def test_closes_when_a_tunnel_comes_up(self) -> None:
        story = behind_a_portal()
        story.hears(WayRequested(None))
        story.waits_for_an_attempt()
        assert "close tunnel-up" in story.negotiated()

    def test_stays_while_another_link_gets_one(self) -> None:
        story = behind_a_portal()
        story.hears(WayRequested(None))
        story.is_at(WIFI, LTE)
        while story.attempt is None or story.attempt.path.link_name != "wwan0":
            story.waits(0.5)
            if story.attempt is not None and story.attempt.path.link_name == "wlan0":
                story.fails(IkeFailure.SILENT)
        story.negotiated()
        story.answered()
        assert story.way is not None

    def test_closes_when_its_time_is_over(self) -> None:
        story = behind_a_portal()
        story.hears(WayRequested(None))
        assert "close time-over" not in story.waits(WAY - 1)
        assert "close time-over" in story.waits(2)

    def test_closes_when_its_network_is_gone(self) -> None:
        story = behind_a_portal()
        story.hears(WayRequested(None))
        assert "close network-gone" in story.is_at(LTE)

    def test_closes_when_nobody_needs_it(self) -> None:
        story = behind_a_portal()
        story.hears(WayRequested(None))
        assert story.way is not None
        assert story.hears(WayLeft(story.way.number)) == ["close left"]

    def test_who_leaves_late_closes_no_other(self) -> None:
        story = behind_a_portal()
        story.hears(WayRequested(None))
        story.hears(WayLeft(1))
        story.hears(WayRequested(None))
        assert story.hears(WayLeft(1)) == []

    def test_is_one_at_a_time(self) -> None:
        story = behind_a_portal()
        story.hears(WayRequested(None))
        assert story.hears(WayRequested(None)) == []
        assert story.told("way-refused").reasons == {PortalReason.ALREADY_OPEN}

    def test_does_not_open_beside_a_tunnel_or_nowhere(self) -> None:
        story = attached(WIFI, policy=ASKING)
        assert story.hears(WayRequested(None)) == []
        assert story.told("way-refused").reasons == {PortalReason.TUNNEL_UP}
        assert story.hears(WayRequested("nosuch0")) == []
        assert story.told("way-refused").reasons == {"no-such-path"}

    def test_while_it_is_open_the_portal_is_asked_often(self) -> None:
        story = behind_a_portal()
        for _ in range(5):
            story.waits(60)
            story.finds(Finding.PORTAL)
        story.hears(WayRequested(None))
        for _ in range(5):
            story.waits(QUICK_PAUSE)
            assert story.asking
            story.finds(Finding.PORTAL, after=0.0)
