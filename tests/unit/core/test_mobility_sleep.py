"""A device sleeps and wakes, echoes grow old, and what is never too much."""

from dataclasses import replace

import pytest

from orchestrator.core.echoes import FRESH_AFTER, STALE_AFTER
from orchestrator.core.kernel import TABLE_PATHS
from orchestrator.core.mobility_events import (
    FallsAsleep,
    HideEchoes,
    MoveEnded,
    MoveTunnel,
    ProbeAnswered,
    State,
    Tick,
    Woke,
)
from orchestrator.core.quantities import Seconds
from orchestrator.core.trust import SLEEP_LIMIT
from tests.unit.core.builders import (
    LTE,
    WIFI,
    WIFI2,
    path,
    tunnel,
)
from tests.unit.core.dialogues import OPTIMISTIC_MOVE
from tests.unit.core.stories import RTT, EndpointStory, attached, tried_in_vain


@pytest.mark.parametrize("slept", [60, 15 * 60, 8 * 3600])
class TestWaking:
    """The clock is the story's: what CLOCK_BOOTTIME would say after such a sleep."""

    def test_lets_only_probes_out_until_one_is_answered(self, slept: float) -> None:
        story = attached(WIFI)
        said = story.hears(Woke(Seconds(slept)), after=slept)
        assert said == ["only probes wifi", "probe"]
        assert story.state() is State.MOVING
        assert story.reasons() == {"woke"}
        assert story.answered() == ["protect wifi", "release"]
        assert story.state() is State.ATTACHED
        told = story.told("attached").fields
        assert told is not None
        assert told["elapsed_ms"] == 20.0

    def test_an_answer_to_what_it_asked_before_is_no_proof(self, slept: float) -> None:
        story = attached(WIFI)
        before = story.probe
        assert before is not None
        story.hears(Woke(Seconds(slept)), after=slept)
        assert story.hears(ProbeAnswered(before.sequence)) == []
        assert story.state() is State.MOVING

    def test_without_a_sleep_nothing_would_be_held(self, slept: float) -> None:
        story = attached(WIFI)
        said = story.waits(min(slept, 60), answering=True)
        assert set(said) == {"probe"}
        assert story.state() is State.ATTACHED

    def test_holds_and_negotiates_when_the_path_did_not_survive(self, slept: float) -> None:
        story = attached(WIFI)
        story.hears(Woke(Seconds(slept)), after=slept)
        assert story.waits(2.1)[-2:] == ["hold", "negotiate wifi"]
        assert story.negotiated() == ["only probes wifi", "probe"]
        assert story.answered()[:2] == ["protect wifi", "release"]

    def test_tells_the_server_by_a_new_flip(self, slept: float) -> None:
        story = attached(WIFI)
        before = story.machine.flip
        story.hears(Woke(Seconds(slept)), after=slept)
        assert story.probe is not None
        assert story.probe.flip == before + 1


class TestSleep:
    def test_a_place_left_while_asleep_is_not_moved_from_after_too_long(self) -> None:
        story = attached(WIFI)
        story.hears(Woke(Seconds(8 * 3600)), after=8 * 3600)
        assert story.is_at(LTE) == ["hold", "negotiate lte"]
        assert story.negotiated() == ["only probes lte", "probe"]

    def test_a_place_left_during_a_nap_is_moved_from_and_proven_before_use(self) -> None:
        story = attached(WIFI)
        story.hears(Woke(Seconds(60)), after=60)
        said = story.is_at(LTE)
        assert said == OPTIMISTIC_MOVE
        assert story.answered()[:2] == ["protect lte", "release"]

    def test_what_comes_after_the_proof_is_optimistic_again(self) -> None:
        story = attached(WIFI)
        story.hears(Woke(Seconds(60)), after=60)
        story.answered()
        assert story.is_at(LTE) == OPTIMISTIC_MOVE

    def test_says_good_night_and_holds_until_it_may_sleep(self) -> None:
        story = attached(WIFI)
        assert story.hears(FallsAsleep()) == ["only probes wifi", "say asleep"]
        assert story.reasons() == {"falling-asleep"}
        assert story.answered() == ["may sleep"]
        assert story.state() is State.MOVING
        assert story.hears(Woke(Seconds(60)), after=60) == ["only probes wifi", "probe"]
        assert story.answered() == ["protect wifi", "release"]

    def test_says_it_again_until_it_is_heard(self) -> None:
        story = attached(WIFI)
        story.hears(FallsAsleep())
        assert story.waits(0.7) == ["say asleep", "say asleep"]
        assert story.answered() == ["may sleep"]
        assert story.waits(5) == []

    def test_may_sleep_at_once_when_nobody_can_be_told(self) -> None:
        story = attached(WIFI)
        story.is_at()
        assert story.hears(FallsAsleep()) == ["may sleep"]
        assert story.state() is State.DETACHED

    def test_begins_nothing_before_it_sleeps(self) -> None:
        story = attached(WIFI)
        story.hears(FallsAsleep())
        assert "negotiate lte" not in story.is_at(LTE)
        assert "negotiate lte" in story.hears(Woke(Seconds(60)), after=60)

    def test_what_it_negotiates_is_abandoned_before_it_sleeps(self) -> None:
        story = attached(WIFI2)
        story.is_at(WIFI2, WIFI)
        assert story.hears(FallsAsleep())[:1] == ["abandon"]

    def test_a_sleep_that_does_not_come_is_over(self) -> None:
        story = attached(WIFI)
        story.hears(FallsAsleep())
        story.answered()
        said = story.waits(SLEEP_LIMIT, answering=True)
        assert said[:4] == ["only probes wifi", "probe", "protect wifi", "release"]
        assert story.state() is State.ATTACHED

    def test_ends_every_pause(self) -> None:
        story = tried_in_vain(9)
        assert story.hears(Woke(Seconds(2)), after=2) == ["negotiate wifi"]

    def test_begins_anew_what_it_was_negotiating_when_it_fell_asleep(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        assert story.hears(Woke(Seconds(3600)), after=3600) == ["abandon", "negotiate wifi"]


class TestEchoes:
    def test_are_hidden_in_an_outage_and_a_second_longer(self) -> None:
        story = attached(WIFI)
        story.is_at()
        assert not story.echoes_hidden()
        story.waits(STALE_AFTER)
        assert story.echoes_hidden()
        story.is_at(WIFI, after=20)
        story.answered()
        story.waits(FRESH_AFTER - RTT)
        assert story.echoes_hidden()
        story.waits(2 * RTT)
        assert not story.echoes_hidden()

    def test_are_left_alone_by_a_roam_that_is_quick(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        story.answered()
        story.waits(1)
        assert not any(isinstance(effect, HideEchoes) for effect in story.handles(Tick()))
        assert not story.echoes_hidden()

    def test_are_hidden_at_once_when_a_path_turns_out_to_be_dead(self) -> None:
        story = attached(WIFI, LTE)
        story.waits(3.9)
        assert not story.echoes_hidden()
        assert "hold" in story.waits(0.2)
        assert story.echoes_hidden()

    def test_are_hidden_at_once_after_a_sleep(self) -> None:
        story = attached(WIFI)
        story.hears(Woke(Seconds(60)), after=60)
        assert story.echoes_hidden()
        story.answered()
        story.waits(FRESH_AFTER + RTT)
        assert not story.echoes_hidden()


class TestLimits:
    def test_more_places_than_tables_costs_the_worst_of_them(self) -> None:
        crowd = [
            replace(WIFI, pop=f"10.{number // 250}.{number % 250}.1", link="wlan0")
            for number in range(len(TABLE_PATHS) + 20)
        ]
        story = EndpointStory()
        story.starts(*crowd)
        assert len(story.machine.paths) == len(TABLE_PATHS)

    def test_the_active_path_keeps_its_table_whatever_comes(self) -> None:
        story = attached(LTE)
        crowd = [
            replace(WIFI, pop=f"10.{number // 250}.{number % 250}.1", link="wlan0")
            for number in range(len(TABLE_PATHS) + 20)
        ]
        before = story.machine.kernel().tables[path(LTE)]
        story.is_at(LTE, *crowd)
        assert story.machine.active_path == path(LTE)
        assert story.machine.kernel().tables[path(LTE)] == before

    def test_a_table_stays_with_its_place_for_as_long_as_that_lasts(self) -> None:
        story = attached(WIFI, LTE)
        before = story.machine.kernel().tables
        story.is_at(WIFI, LTE, WIFI2)
        after = story.machine.kernel().tables
        assert {way: after[way] for way in before} == before

    def test_a_tick_too_early_does_nothing(self) -> None:
        story = attached(WIFI)
        assert story.hears(Tick()) == []

    def test_an_outcome_of_a_move_nobody_ordered_is_nothing(self) -> None:
        story = attached(WIFI)
        stray = tunnel(path(LTE), 40)
        assert story.hears(MoveEnded(stray, path(LTE), moved=True)) == []

    def test_a_move_is_ordered_with_the_tunnel_as_it_is(self) -> None:
        story = attached(WIFI)
        mine = story.machine.active
        assert mine is not None
        orders = story.handles(Woke(Seconds(0)))
        assert not any(isinstance(order, MoveTunnel) for order in orders)
