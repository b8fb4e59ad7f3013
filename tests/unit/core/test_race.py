"""Several negotiations while nothing works: when each begins, who wins, what becomes of the
others.
"""

from dataclasses import replace
from typing import Final

from orchestrator.core.ike import IkeFailure, TunnelUp
from orchestrator.core.mobility_events import Ask, State
from orchestrator.core.quantities import UniqueId
from orchestrator.core.race import ANSWERED_STAGGER, REST, STAGGER
from tests.unit.core.builders import LTE, LTE6, SERVER4, SERVER6, WIFI, WIFI2, Place, path
from tests.unit.core.stories import POLICY, RTT, EndpointStory, attached

BOTH_FAMILIES: Final = replace(POLICY, servers=(SERVER4, SERVER6))
WIFI6: Final = Place("wlan0", 3, "2001:db8:64::2", "2001:db8:64::1")
A_BIT: Final = 0.01
MINUTE: Final = 60.0
MESSAGES: Final = 4
"""Of one negotiation that nobody answers, with charon's retransmissions before 8 s."""


def begun(*places: Place, race: int = POLICY.race, warm: int = 1) -> EndpointStory:
    """The first negotiation has begun at the first place; there are others."""
    story = EndpointStory(replace(POLICY, race=race, warm_links=warm))
    story.starts(*places)
    assert story.finds_charon() == ["negotiate wifi"]
    return story


class TestBeginning:
    def test_the_next_place_has_its_turn_when_the_first_says_nothing(self) -> None:
        story = begun(WIFI, LTE)
        assert story.waits(STAGGER - A_BIT) == []
        assert story.waits(A_BIT) == ["negotiate lte"]

    def test_later_when_the_first_has_said_something(self) -> None:
        story = begun(WIFI, LTE)
        story.server_answers(WIFI, after=0.2)
        assert story.waits(ANSWERED_STAGGER - A_BIT) == []
        assert story.waits(A_BIT) == ["negotiate lte"]

    def test_at_once_when_the_first_fails(self) -> None:
        story = begun(WIFI, LTE)
        assert story.fails(IkeFailure.UNREACHABLE) == ["negotiate lte"]

    def test_one_after_the_other_where_the_operator_wants_it_so(self) -> None:
        story = begun(WIFI, LTE, race=1)
        assert story.waits(POLICY.attempt_limit - A_BIT) == []
        assert story.fails() == ["negotiate lte"]

    def test_no_more_than_allowed(self) -> None:
        story = begun(WIFI, WIFI2, LTE, race=2)
        assert story.waits(5) == ["negotiate wifi2"]
        assert story.fails(place=WIFI2)[0] == "negotiate lte"

    def test_another_link_comes_first_then_another_family(self) -> None:
        story = EndpointStory(replace(BOTH_FAMILIES, race=8))
        story.starts(WIFI, WIFI6, LTE, LTE6)
        story.finds_charon()
        story.waits(1)
        pops = [attempt.path.pop for attempt in story.attempts.values()]
        assert [str(pop) for pop in pops] == [WIFI.pop, LTE6.pop, WIFI6.pop, LTE.pop]

    def test_nothing_begins_beside_an_attempt_while_a_tunnel_works(self) -> None:
        story = begun(WIFI, LTE, WIFI2, warm=3)
        story.negotiated()
        assert story.answered() == ["negotiate wifi2"]
        assert "negotiate lte" not in story.waits(2, answering=True)


class TestWinning:
    def test_the_second_costs_a_moment_when_the_first_is_dead(self) -> None:
        story = begun(WIFI, LTE)
        story.waits(STAGGER)
        story.negotiated(place=LTE)
        story.answered()
        assert story.state() is State.ATTACHED
        assert story.machine.active_path == path(LTE)
        assert story.now <= STAGGER + 2 * RTT + A_BIT

    def test_a_better_link_is_still_waited_for(self) -> None:
        story = begun(WIFI, LTE)
        story.waits(STAGGER)
        story.negotiated(place=LTE)
        assert story.answered() == []
        assert "protect wifi" in story.negotiated(place=WIFI)

    def test_what_is_of_no_use_any_more_is_abandoned(self) -> None:
        story = begun(WIFI, LTE)
        story.waits(STAGGER)
        story.negotiated(place=WIFI)
        assert story.answered() == ["abandon"]
        assert story.attempts == {}

    def test_what_shall_be_warm_goes_on(self) -> None:
        story = begun(WIFI, LTE, warm=2)
        story.waits(STAGGER)
        story.negotiated(place=WIFI)
        assert story.answered() == []
        assert story.negotiated(place=LTE) == ["protect wifi", "ask"]

    def test_what_the_server_has_answered_is_let_end_and_its_tunnel_ended(self) -> None:
        """charon would forget a half of it, and the server keep the other."""
        story = begun(WIFI, LTE)
        story.waits(STAGGER)
        story.server_answers(LTE)
        late = story.next_tunnel(place=LTE)
        story.negotiated(place=WIFI)
        assert story.answered() == []
        assert story.hears(TunnelUp(late)) == [f"terminate {late.ike}"]

    def test_a_tunnel_that_carries_nothing_wins_nothing(self) -> None:
        story = begun(WIFI, LTE)
        story.negotiated()
        assert "negotiate lte" not in story.waits(ANSWERED_STAGGER - A_BIT)
        assert "negotiate lte" in story.waits(A_BIT)
        assert "ask" in story.negotiated(place=LTE)
        assert story.warm_answered()[:2] == ["protect lte", "probe"]
        story.answered()
        assert story.machine.active_path == path(LTE)
        assert "terminate 1" in story.waits(1.1, answering=True)
        assert set(story.in_charon) == {UniqueId(2)}

    def test_of_two_tunnels_the_first_that_is_answered_wins(self) -> None:
        story = begun(WIFI, LTE)
        story.waits(STAGGER)
        assert "protect lte" in story.negotiated(place=LTE, after=0.0)
        assert "protect wifi" not in story.negotiated(place=WIFI, after=0.0)
        story.answered()
        assert story.machine.active_path == path(LTE)

    def test_a_tunnel_that_was_moved_has_to_be_answered_too(self) -> None:
        story = attached(WIFI2)
        story.is_at(WIFI, LTE)  # the move to wifi meets a captive portal
        assert story.machine.active_path == path(WIFI)
        assert "negotiate lte" in story.waits(1.1 * REST + STAGGER)
        story.negotiated(place=LTE)
        assert "protect lte" in story.warm_answered()
        story.answered()
        assert story.state() is State.ATTACHED

    def test_a_moved_tunnel_that_is_answered_soon_races_with_nobody(self) -> None:
        story = attached(WIFI2)
        story.is_at(WIFI, LTE)
        story.answered()
        assert "negotiate lte" not in story.waits(2, answering=True)

    def test_its_successor_takes_the_traffic_at_once(self) -> None:
        story = attached(WIFI2)
        story.is_at(WIFI, LTE)
        story.waits(1.1 * REST)
        assert "protect wifi" in story.negotiated(place=WIFI)

    def test_it_may_fail_thereafter_as_any_other(self) -> None:
        story = begun(WIFI, LTE)
        story.waits(STAGGER)
        story.negotiated(place=LTE)
        story.answered()
        story.fails(place=WIFI)
        assert story.waits(0.5, answering=True).count("negotiate wifi") == 1


class TestVirtualAddress:
    def test_is_requested_once_where_the_server_said_so(self) -> None:
        story = begun(WIFI, LTE)
        story.waits(STAGGER)
        assert story.fails(IkeFailure.MUST_ASK, place=LTE) == ["abandon", "negotiate lte"]
        assert [attempt.ask for attempt in story.attempts.values()] == [Ask.ASSIGN]
        assert "negotiate wifi" not in story.waits(5)

    def test_the_race_goes_on_when_the_request_failed(self) -> None:
        story = begun(WIFI, LTE)
        story.waits(STAGGER)
        story.fails(IkeFailure.MUST_ASK, place=LTE)
        assert "negotiate wifi" in story.fails(IkeFailure.POOL_EXHAUSTED)
        assert story.attempt is not None
        assert story.attempt.ask is Ask.LEASED


class TestHopelessness:
    def test_a_minute_of_it_is_cheap(self) -> None:
        story = begun(WIFI, LTE)
        begin = {story.attempt_at(WIFI).connection: 0.0}
        while story.now < MINUTE:
            story.waits(0.25)
            for attempt in tuple(story.attempts.values()):
                began = begin.setdefault(attempt.connection, story.now)
                if story.now >= began + POLICY.attempt_limit:
                    story.fails_by_name(attempt.connection)
        assert len(begin) * MESSAGES <= 48
