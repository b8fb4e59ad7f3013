"""Probes: when the next is due, and what answers and their absence prove."""

from hypothesis import given, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.core.liveness import (
    INITIAL_RTO,
    MAX_RTO,
    MIN_RTO,
    OUTSTANDING_LIMIT,
    Liveness,
    PathHealth,
)
from orchestrator.core.quantities import Seconds
from tests.unit.core.builders import at

INTERVAL, DEAD_AFTER = Seconds(2.0), Seconds(2.0)


def fresh(now: float = 0.0) -> Liveness:
    return Liveness(INTERVAL, DEAD_AFTER, at(now))


def test_wants_a_probe_at_once() -> None:
    path = fresh(7.0)
    assert path.deadline() == 7.0
    assert path.health(at(7.0)) is PathHealth.UNPROVEN


def test_is_unproven_until_the_first_answer() -> None:
    path = fresh()
    path.sent(1, at(0))
    assert path.health(at(0.2)) is PathHealth.UNPROVEN
    assert path.answered(1, at(0.25)) == 0.25
    assert path.health(at(0.25)) is PathHealth.ALIVE


def test_asks_again_an_interval_after_an_answer() -> None:
    path = fresh()
    path.sent(1, at(0))
    path.answered(1, at(0.1))
    assert path.deadline() == at(0.1 + INTERVAL)


def test_asks_again_after_a_timeout_while_there_is_no_answer() -> None:
    path = fresh()
    path.sent(1, at(0))
    assert path.deadline() == at(INITIAL_RTO)
    path.sent(2, at(0.3))
    assert path.deadline() == 0.3 + INITIAL_RTO


def test_measures_as_rfc_6298_does() -> None:
    path = fresh()
    path.sent(1, at(0))
    path.answered(1, at(0.1))
    assert (path.srtt, path.rttvar) == (0.1, 0.05)
    path.sent(2, at(1))
    path.answered(2, at(1.3))
    assert path.srtt is not None
    assert round(path.srtt, 6) == 0.125
    assert round(path.rttvar, 6) == round(0.75 * 0.05 + 0.25 * 0.2, 6)


def test_is_suspect_when_an_answer_is_late_and_alive_when_it_comes() -> None:
    path = fresh()
    path.sent(1, at(0))
    path.answered(1, at(0.02))
    path.sent(2, at(2))
    assert path.health(at(2.05)) is PathHealth.ALIVE
    assert path.health(at(2 + MIN_RTO)) is PathHealth.SUSPECT
    path.answered(2, at(2.2))
    assert path.health(at(2.2)) is PathHealth.ALIVE


def test_is_dead_when_nothing_came_back_for_long_enough() -> None:
    path = fresh()
    path.sent(1, at(1))
    path.sent(2, at(2.5))
    assert path.health(at(2.9)) is not PathHealth.DEAD
    assert path.health(at(3.0)) is PathHealth.DEAD


def test_the_verdict_falls_even_if_no_probe_is_due() -> None:
    path = fresh()
    path.sent(1, at(0))
    path.sent(2, at(1.9))
    assert path.deadline() == at(DEAD_AFTER)


def test_an_answer_to_any_outstanding_probe_counts() -> None:
    path = fresh()
    path.sent(1, at(0))
    path.sent(2, at(0.3))
    assert path.answered(1, at(0.5)) == 0.5
    assert path.health(at(0.5)) is PathHealth.ALIVE


def test_an_answer_nobody_waits_for_proves_nothing() -> None:
    path = fresh()
    path.sent(1, at(0))
    assert path.answered(9, at(0.1)) is None
    assert path.health(at(0.1)) is PathHealth.UNPROVEN
    path.answered(1, at(0.2))
    assert path.answered(1, at(0.3)) is None
    assert path.srtt == 0.2


def test_remembers_a_bounded_number_of_probes() -> None:
    path = Liveness(INTERVAL, Seconds(1e9), at(0))
    for sequence in range(OUTSTANDING_LIMIT + 1):
        path.sent(sequence, at(sequence))
    assert path.answered(0, at(100)) is None
    assert path.answered(1, at(100)) == 99.0


@given(strategies.lists(strategies.floats(0, 1000), max_size=20))
def test_the_timeout_stays_within_its_bounds(rtts: list[float]) -> None:
    path = fresh()
    for sequence, rtt in enumerate(rtts):
        path.sent(sequence, at(0))
        path.answered(sequence, at(rtt))
        assert MIN_RTO <= path.rto <= MAX_RTO


class ProbedPath(RuleBasedStateMachine):
    """A path that sends when due, over a network that answers when it likes."""

    @initialize(dead_after=strategies.floats(0.2, 5))
    def begin(self, dead_after: float) -> None:
        self.path = Liveness(INTERVAL, Seconds(dead_after), at(0))
        self.now = 0.0
        self.sequence = 0
        self.last_answer: float | None = None
        self.unanswered_since: float | None = None

    @rule()
    def the_deadline_passes(self) -> None:
        before = self.path.deadline()
        self.now = max(self.now, before)
        if self.path.health(at(self.now)) is PathHealth.DEAD:
            return
        if self.now >= self.path.due:
            self.sequence += 1
            self.path.sent(self.sequence, at(self.now))
            if self.unanswered_since is None:
                self.unanswered_since = self.now
        assert self.path.deadline() > self.now, "ticking made no progress"

    @rule(pause=strategies.floats(0, 1))
    def time_goes_by(self, pause: float) -> None:
        self.now += pause

    @rule(back=strategies.integers(0, 3))
    def an_answer_comes(self, back: int) -> None:
        if self.path.answered(self.sequence - back, at(self.now)) is not None:
            self.unanswered_since = None
            self.last_answer = self.now

    @invariant()
    def dead_means_unanswered_for_long_enough(self) -> None:
        dead = self.path.health(at(self.now)) is PathHealth.DEAD
        waited = (
            self.unanswered_since is not None
            and self.now >= self.unanswered_since + self.path.dead_after
        )
        assert dead == waited

    @invariant()
    def only_an_answer_proves(self) -> None:
        assert self.path.proven == (self.last_answer is not None)

    @invariant()
    def the_verdict_is_never_missed(self) -> None:
        if self.unanswered_since is not None:
            assert self.path.deadline() <= self.unanswered_since + self.path.dead_after


TestProbedPath = ProbedPath.TestCase
