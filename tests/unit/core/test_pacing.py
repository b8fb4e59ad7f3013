"""A release begins with a burst, and doubles with each round trip."""

from hypothesis import given, strategies

from orchestrator.core.pacing import BURST, UNKNOWN_RTT, Pacer
from orchestrator.core.quantities import Seconds
from tests.unit.core.builders import at


def test_doubles_with_each_round_trip() -> None:
    pacer = Pacer(at(5), Seconds(0.25))
    assert pacer.allowance(at(5)) == BURST
    pacer.left(BURST)
    assert pacer.allowance(at(5)) == 0
    assert pacer.allowance(at(5.25)) == BURST
    assert pacer.allowance(at(5.5)) == 3 * BURST


def test_an_unknown_round_trip_is_a_long_one() -> None:
    pacer = Pacer(at(0), None)
    assert pacer.allowance(at(UNKNOWN_RTT)) == 2 * BURST


@given(strategies.floats(0, 1e6), strategies.floats(0.0001, 10))
def test_is_finite_however_long_it_takes(later: float, rtt: float) -> None:
    assert Pacer(at(0), Seconds(rtt)).allowance(at(later)) >= BURST
