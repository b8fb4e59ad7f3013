"""How large a packet a path carries: what is asked, believed meanwhile, and found."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, strategies

from orchestrator.core.ike import IkeDown
from orchestrator.core.mobility_events import ProbeTooLarge, Woke
from orchestrator.core.mtu import AGAIN, DOUBT, FLOOR, GRAIN, PATIENCE, TRIES, PathMtu
from orchestrator.core.quantities import Seconds, UniqueId
from tests.unit.core.builders import LTE, WIFI, at, path
from tests.unit.core.stories import POLICY, EndpointStory, attached

CEILING = 1380
RTT = Seconds(0.02)
SEEKING = replace(POLICY, seeks_mtu=True)
TOO_MANY = 40
"""Questions of one search."""


class Search:
    """One path's, in a world that carries so much."""

    def __init__(self, carries: int, *, known: bool = False) -> None:
        """`known`: the kernel knows it, too."""
        self.carries = carries
        self.known = known
        self.now = 0.0
        self.found = PathMtu(CEILING, at(0.0))
        self.asked: list[int] = []
        self.limits: list[int | None] = []
        """After each question."""

    def runs(self, loses: Callable[[], bool] = lambda: False) -> int | None:
        """Until it rests."""
        while (due := self.found.deadline) is not None and due <= self.now + DOUBT:
            self.now = max(self.now, due)
            self.found.look(at(self.now))
            size = self.found.wanted(at(self.now))
            if size is None:
                continue
            self.asked.append(size)
            assert len(self.asked) < TOO_MANY
            sequence = len(self.asked)
            self.found.asked(size, sequence, at(self.now))
            if size > self.carries and self.known:
                self.found.refused(sequence, at(self.now))
            else:
                self.now += RTT
                self.found.heard(RTT, at(self.now))
                if size <= self.carries and not loses():
                    assert self.found.answered(sequence, at(self.now))
            self.limits.append(self.found.limit)
        return self.found.limit

    def rests(self) -> None:
        self.now += AGAIN

    def doubted(self) -> None:
        self.now += 1.1 * DOUBT
        self.found.doubt(at(self.now))


def asked() -> PathMtu:
    """For the ceiling, at the beginning."""
    path = PathMtu(CEILING, at(0.0))
    size = path.wanted(at(0.0))
    assert size == CEILING
    path.asked(size, 1, at(0.0))
    return path


class TestSearch:
    def test_a_path_that_carries_everything_is_asked_once(self) -> None:
        search = Search(1500)
        assert search.runs() is None
        assert search.asked == [CEILING]

    def test_nothing_is_limited_until_a_question_is_unanswered(self) -> None:
        assert PathMtu(CEILING, at(0.0)).limit is None

    def test_the_first_unanswered_question_limits_at_once(self) -> None:
        path = asked()
        path.heard(RTT, at(RTT))
        path.look(at(RTT + PATIENCE))
        assert path.limit == FLOOR
        assert path.wanted(at(RTT + PATIENCE)) == CEILING, "it may have been lost"

    def test_a_question_is_not_unanswered_before_the_path_has_answered_since(self) -> None:
        path = asked()
        path.heard(Seconds(2 * RTT), at(RTT))
        assert path.deadline is None
        path.look(at(5.0))
        assert path.limit is None

    def test_a_late_answer_counts(self) -> None:
        path = asked()
        path.heard(RTT, at(RTT))
        path.look(at(RTT + PATIENCE))
        assert path.answered(1, at(0.5))
        assert path.limit is None

    @given(strategies.integers(FLOOR, CEILING - 1), strategies.booleans())
    def test_what_is_found_is_carried_and_nearly_all_that_is(
        self, carries: int, known: bool
    ) -> None:
        search = Search(carries, known=known)
        found = search.runs()
        assert found is not None
        assert carries - GRAIN < found <= carries
        assert all(limit is not None and limit <= carries for limit in search.limits[TRIES:])

    def test_what_the_kernel_refuses_is_not_repeated(self) -> None:
        search = Search(1218, known=True)
        search.runs()
        assert len(set(search.asked)) == len(search.asked)
        assert search.now < PATIENCE

    def test_one_lost_answer_makes_no_difference(self) -> None:
        lost = iter([True])
        assert Search(1500).runs(lambda: next(lost, False)) is None

    def test_where_nothing_is_answered_nothing_is_limited(self) -> None:
        search = Search(0)
        assert search.runs() is None
        assert search.asked == [CEILING] * TRIES + [FLOOR] * TRIES

    @given(strategies.integers(0, 1500), strategies.lists(strategies.booleans(), max_size=30))
    def test_it_comes_to_an_end_and_never_limits_below_the_floor(
        self, carries: int, losses: list[bool]
    ) -> None:
        lost = iter(losses)
        found = Search(carries).runs(lambda: next(lost, False))
        assert found is None or FLOOR <= found <= max(carries, FLOOR)


class TestLater:
    def test_a_limit_goes_when_the_path_carries_everything_again(self) -> None:
        search = Search(1218)
        assert search.runs() is not None
        search.carries = 1500
        search.rests()
        assert search.runs() is None

    def test_otherwise_one_question_is_all_it_costs(self) -> None:
        search = Search(1218)
        found = search.runs()
        search.rests()
        search.asked.clear()
        assert search.runs() == found
        assert search.asked == [CEILING]

    def test_an_idle_path_that_carries_everything_is_not_asked_again(self) -> None:
        search = Search(1500)
        search.runs()
        search.rests()
        assert search.found.deadline is None

    def test_one_that_is_used_is(self) -> None:
        search = Search(1500)
        search.runs()
        search.found.used(at(search.now + AGAIN / 2))
        assert search.found.deadline is None
        search.rests()
        search.found.used(at(search.now))
        search.carries = 1218
        assert search.runs() == 1218

    def test_a_path_that_has_become_narrow_is_noticed(self) -> None:
        search = Search(1500)
        search.runs()
        search.carries = 1218
        search.doubted()
        assert search.runs() == 1218

    def test_one_that_has_become_narrower(self) -> None:
        search = Search(1300)
        search.runs()
        search.carries = 1218
        search.doubted()
        found = search.runs()
        assert found is not None
        assert 1218 - GRAIN < found <= 1218

    def test_a_doubt_that_is_wrong_costs_one_question(self) -> None:
        search = Search(1300)
        found = search.runs()
        search.asked.clear()
        search.doubted()
        assert search.runs() == found
        assert search.asked == [found]

    def test_it_is_not_doubted_all_the_time(self) -> None:
        search = Search(1500)
        search.runs()
        settled = search.now
        search.found.doubt(at(settled + DOUBT / 2))
        assert search.found.wanted(at(settled + DOUBT / 2)) is None
        assert search.found.wanted(at(settled + 1.1 * DOUBT)) == CEILING, "but later"

    def test_an_answer_from_before_a_sleep_says_nothing(self) -> None:
        path = asked()
        path.ask_again(at(3600.0))
        assert not path.answered(1, at(3600.0))
        assert path.wanted(at(3600.0)) == CEILING

    def test_what_another_tunnel_was_asked_is_asked_again(self) -> None:
        path = asked()
        path.withdraw(at(3.0))
        path.heard(RTT, at(3.0))
        path.look(at(4.0))
        assert path.limit is None
        assert path.wanted(at(4.0)) == CEILING


def asking(warm_links: int = 1) -> EndpointStory:
    """Attached, and the first question is on its way."""
    story = attached(WIFI, LTE, policy=replace(SEEKING, warm_links=warm_links))
    assert story.question is not None
    assert story.question.size == CEILING
    return story


def limit(story: EndpointStory) -> int | None:
    assert story.kernel is not None
    return story.kernel.limit


class TestEndpoint:
    def test_asks_with_the_first_probe_and_once(self) -> None:
        story = EndpointStory(SEEKING)
        story.starts(WIFI)
        story.finds_charon()
        assert story.negotiated()[-3:] == ["probe", "release", "ask for 1380"]
        story.carried()
        assert not any("ask" in said for said in story.waits(60, answering=True))
        assert limit(story) is None

    def test_does_not_ask_a_server_that_may_be_deaf(self) -> None:
        story = attached(WIFI, policy=SEEKING)
        story.carried()
        assert not any("ask" in said for said in story.is_at(LTE))
        assert "ask for 1380" in story.answered()

    def test_without_permission_it_does_not(self) -> None:
        story = attached(WIFI)
        assert story.question is None
        assert not any(said.startswith("ask for") for said in story.waits(5, answering=True))

    def test_limits_itself_and_tells_the_server_of_it(self) -> None:
        story = asking()
        said = story.waits(1.1 * PATIENCE)
        assert said == ["protect wifi", "probe", "ask for 1380"]
        assert limit(story) == FLOOR
        assert story.probe is not None
        assert story.probe.limit == FLOOR
        assert story.told("path-mtu").fields == {"octets": FLOOR}

    def test_tells_it_again_with_each_probe(self) -> None:
        story = asking()
        story.waits(1.1 * PATIENCE)
        told = story.probe
        assert "probe" in story.waits(0.5)
        assert story.probe is not told
        assert story.probe is not None
        assert story.probe.limit == FLOOR

    def test_lifts_the_limit_when_the_answer_was_only_late(self) -> None:
        story = asking()
        first = story.question
        story.waits(1.1 * PATIENCE)
        story.question = first
        assert story.carried() == ["protect wifi", "probe"]
        assert limit(story) is None
        assert story.probe is not None
        assert story.probe.limit == 0

    def test_what_the_kernel_refuses_is_known_at_once(self) -> None:
        story = asking()
        assert story.question is not None
        said = story.hears(ProbeTooLarge(story.question.sequence))
        assert said == ["protect wifi", "probe", f"ask for {FLOOR}"]

    def test_each_path_has_its_own_limit(self) -> None:
        story = asking()
        story.waits(1.1 * PATIENCE)
        assert limit(story) == FLOOR
        story.is_at(LTE)
        assert story.machine.active_path == path(LTE)
        assert limit(story) is None, "nothing is known of it"
        assert story.probe is not None
        assert story.probe.limit == 0

    def test_while_there_is_no_path_the_last_limit_stays(self) -> None:
        story = asking()
        story.waits(1.1 * PATIENCE)
        story.is_at()
        assert limit(story) == FLOOR

    def test_of_a_warm_path_it_is_known_before_it_is_needed(self) -> None:
        story = asking(warm_links=2)
        story.carried()
        story.negotiated()
        story.warm_answered()
        assert story.question is not None
        assert story.question.slot is not None
        story.waits(1.1 * PATIENCE)
        assert limit(story) is None
        assert story.machine.mtu_of(path(LTE)) == FLOOR
        story.is_at(LTE)
        assert limit(story) == FLOOR
        assert story.probe is not None
        assert story.probe.limit == FLOOR, "the flip itself says so"

    def test_a_fresh_tunnel_on_the_same_path_is_not_searched_again(self) -> None:
        story = asking()
        story.carried()
        story.hears(IkeDown(UniqueId(1)))
        story.waits_for_an_attempt()
        story.negotiated()
        assert "ask for 1380" not in story.answered()

    def test_after_a_sleep_it_is(self) -> None:
        story = asking()
        story.carried()
        story.hears(Woke(Seconds(3600.0)), after=3600)
        assert "ask for 1380" in story.answered()

    def test_traffic_that_falls_silent_on_a_path_that_answers_is_a_reason_to_ask(self) -> None:
        story = asking()
        story.carried()
        story.waits(DOUBT, answering=True)
        story.received, story.sent = story.received + 50, story.sent + 50
        story.waits(0.2, answering=True)
        story.sent += 50
        assert "ask for 1380" in story.waits(0.5, answering=True)
        assert limit(story) == FLOOR

    def test_a_silent_path_is_not_taken_for_a_narrow_one(self) -> None:
        story = asking()
        story.carried()
        story.waits(DOUBT, answering=True)
        story.received, story.sent = story.received + 50, story.sent + 50
        story.waits(0.2, answering=True)
        story.sent += 50
        assert "probe" in story.waits(1.0)
        assert limit(story) is None
