"""A probe is known by its timer; nothing else is ever taken for one."""

from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, rule

from orchestrator.core.freeze import MOST_FLOWS, TIMER_GAP, Freeze, Signature
from tests.unit.core.builders import at

PROBE = Signature(99, 500, 1000)


def test_the_same_again_after_a_while_is_a_probe() -> None:
    freeze = Freeze()
    assert not freeze.is_probe("ssh", PROBE, at(0))
    assert freeze.is_probe("ssh", PROBE, at(5))
    assert freeze.is_probe("ssh", PROBE, at(10))


def test_the_same_again_at_once_is_not() -> None:
    freeze = Freeze()
    assert not freeze.is_probe("ssh", PROBE, at(0))
    assert not freeze.is_probe("ssh", PROBE, at(TIMER_GAP / 2))
    assert freeze.is_probe("ssh", PROBE, at(TIMER_GAP))


def test_another_window_or_number_is_an_announcement() -> None:
    freeze = Freeze()
    for later, other in enumerate(
        (PROBE, PROBE._replace(window=2000), PROBE._replace(sequence=100), PROBE)
    ):
        assert not freeze.is_probe("ssh", other, at(later))


def test_a_sender_that_waits_for_acknowledgment_does_not_probe() -> None:
    freeze = Freeze()
    freeze.is_probe("ssh", PROBE, at(0))
    freeze.waits("ssh", at(1))
    assert not freeze.is_probe("ssh", PROBE, at(5))
    freeze.is_probe("http", PROBE, at(5))
    assert freeze.is_probe("http", PROBE, at(10)), "that is another connection's"


def test_an_outage_is_forgotten_with_its_end() -> None:
    freeze = Freeze()
    freeze.is_probe("ssh", PROBE, at(0))
    freeze.forget()
    assert not freeze.is_probe("ssh", PROBE, at(5))


def test_the_flows_that_are_watched_are_bounded() -> None:
    freeze = Freeze()
    for flow in range(MOST_FLOWS + 1):
        freeze.is_probe(flow, PROBE, at(0))
    assert not freeze.is_probe(0, PROBE, at(5)), "the first one was forgotten"
    assert freeze.is_probe(MOST_FLOWS, PROBE, at(5))


class OneSender(RuleBasedStateMachine):
    """A TCP sender without a far end: it writes, reads, and its timers fire.

    To take an acknowledgment (which has the number of the next octet) for a probe (one less)
    would acknowledge an octet that the far end never had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.freeze = Freeze()
        self.now = 0.0
        self.next = 1000
        self.unacknowledged = 1000
        self.window = 100

    def _emit(self, sequence: int) -> bool:
        return self.freeze.is_probe("it", Signature(sequence, 7, self.window), at(self.now))

    @rule(octets=strategies.integers(1, 9))
    def it_writes(self, octets: int) -> None:
        self.next += octets
        self.freeze.waits("it", at(self.now))

    @rule(octets=strategies.integers(1, 50))
    def its_application_reads(self, octets: int) -> None:
        """It says that it has more room."""
        self.window += octets
        assert not self._emit(self.next)

    @rule(pause=strategies.floats(0, TIMER_GAP / 2))
    def it_acknowledges_twice_at_once(self, pause: float) -> None:
        self.window += 1
        assert not self._emit(self.next)
        self.now += pause
        assert not self._emit(self.next)

    @rule(pause=strategies.floats(0.2, 60))
    def its_probe_timer_fires(self, pause: float) -> None:
        """It only does while nothing waits for acknowledgment: RFC 9293, 3.8.4."""
        self.now += pause
        if self.unacknowledged == self.next:
            self._emit(self.unacknowledged - 1)


TestOneSender = OneSender.TestCase
