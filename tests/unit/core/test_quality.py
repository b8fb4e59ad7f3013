"""What is measured of a place, from single probes and looks at the traffic."""

from math import isclose

import pytest
from hypothesis import given, strategies

from orchestrator.core.mobility_events import Reason, TrafficSeen
from orchestrator.core.places import place_of
from orchestrator.core.quality import (
    CHANCE,
    LEAST_LOSS,
    LEAST_RTT,
    LOST_AFTER,
    MEMORY,
    MOST_PROBES,
    RATE_MEMORY,
    SECONDS_COUNTED,
    SIGNAL_MEMORY,
    TRAFFIC_MEMORY,
    WEAK,
    WEAK_BURDEN,
    Meter,
    Meters,
    Quality,
    burden,
    compare,
)
from orchestrator.core.quantities import Instant, Seconds
from tests.unit.core.builders import LTE, WIFI, at, path, tunnel

HERE = place_of(path(WIFI))
THERE = place_of(path(LTE))


def seen(
    received: int, highest: int, octets_in: int = 0, octets_out: int = 0, number: int = 1
) -> TrafficSeen:
    return TrafficSeen(tunnel(path(WIFI), number), received, 0, octets_in, octets_out, highest)


class TestProbes:
    def test_one_that_is_answered_late_is_lost(self) -> None:
        meters = Meters()
        meters.asked(1, HERE, at(0), begins=True)
        meters.answered(1, at(LOST_AFTER + 0.1))
        assert meters.of(HERE, at(2)).probe_loss == 0.1
        assert meters.of(HERE, at(2)).rtt is None

    def test_a_repetition_tells_the_round_trip_and_nothing_of_loss(self) -> None:
        meters = Meters()
        meters.asked(1, HERE, at(0), begins=False)
        meters.answered(1, at(0.04))
        found = meters.of(HERE, at(1))
        assert found.rtt == pytest.approx(0.04)
        assert found.probe_loss is None

    def test_each_place_has_its_own(self) -> None:
        meters = Meters()
        meters.asked(1, HERE, at(0), begins=True)
        meters.asked(2, THERE, at(0), begins=True)
        meters.answered(2, at(0.05))
        assert meters.of(THERE, at(0.1)).rtt == pytest.approx(0.05)
        assert meters.of(HERE, at(0.1)) == Quality()

    def test_a_few_lost_ones_are_shown_and_do_not_count(self) -> None:
        meter = Meter()
        for number in range(MOST_PROBES):
            rtt = None if number < CHANCE else Seconds(0.02)
            meter.settled(rtt, at(number), begins=True)
        found = meter.read(at(MOST_PROBES))
        assert found.probe_loss == CHANCE / MOST_PROBES
        assert found.felt_loss == 0

    def test_the_round_trip_is_the_shortest_of_the_last_ones(self) -> None:
        meter = Meter()
        for number, rtt in enumerate((0.01, 0.3, 0.2, 0.3, 0.3)):
            meter.settled(Seconds(rtt), at(number), begins=True)
        assert meter.read(at(5)).rtt == 0.2

    def test_what_a_sleep_interrupted_is_not_lost(self) -> None:
        meters = Meters()
        meters.asked(1, HERE, at(0), begins=True)
        meters.drop_open()
        meters.settle(at(100))
        assert meters.of(HERE, at(100)) == Quality()

    def test_all_of_it_grows_old(self) -> None:
        meter = Meter()
        meter.settled(Seconds(0.02), at(0), begins=True)
        meter.settled(None, at(0), begins=True)
        assert meter.read(at(MEMORY + 1)) == Quality()

    def test_a_place_that_is_gone_has_no_past(self) -> None:
        meters = Meters()
        meters.asked(1, HERE, at(0), begins=True)
        meters.asked(2, THERE, at(0), begins=True)
        meters.keep({THERE})
        meters.settle(at(10))
        assert meters.of(HERE, at(10)) == Quality()
        assert meters.of(THERE, at(10)).probe_loss == 0.1


class TestTraffic:
    def counted(self, *losses: float, packets: int = 100) -> Meter:
        """A meter that saw one second after the other with these losses."""
        meter = Meter()
        received = highest = 0
        meter.seen(seen(0, 0), at(0))
        for second, loss in enumerate(losses, 1):
            highest += packets
            received += round(packets * (1 - loss))
            meter.seen(seen(received, highest), at(second))
        return meter

    def test_numbers_that_never_came_are_loss(self) -> None:
        assert self.counted(*[0.07] * 5).read(at(5)).felt_loss == pytest.approx(0.07)

    def test_a_burst_is_none(self) -> None:
        assert self.counted(0, 0, 0.9, 0.9, 0).read(at(5)).felt_loss == 0

    def test_few_seconds_say_nothing(self) -> None:
        found = self.counted(*[0.07] * (SECONDS_COUNTED - 1)).read(at(5))
        assert found.traffic_loss is None

    def test_few_packets_say_nothing(self) -> None:
        assert self.counted(*[0.5] * 9, packets=10).read(at(9)).traffic_loss is None

    def test_what_comes_late_is_no_more_loss_than_it_looks(self) -> None:
        meter = Meter()
        meter.seen(seen(0, 0), at(0))
        for second in range(1, 8):
            behind = 3 if second % 2 else -3
            meter.seen(seen(second * 100 - behind, second * 100), at(second))
        assert meter.read(at(8)).felt_loss < 0.07

    def test_it_is_forgotten_soon_where_the_traffic_is(self) -> None:
        meter = self.counted(*[0.3] * 5)
        assert meter.read(at(5 + TRAFFIC_MEMORY + 1), used=True).traffic_loss is None

    def test_and_not_so_soon_where_it_was(self) -> None:
        assert self.counted(*[0.3] * 5).read(at(60)).felt_loss == pytest.approx(0.3)

    def test_another_sa_counts_from_its_beginning(self) -> None:
        meter = self.counted(*[0.0] * 4)
        meter.seen(seen(7, 1000, number=2), at(5))
        meter.seen(seen(107, 1100, number=2), at(6))
        assert meter.read(at(6)).felt_loss == 0

    def test_the_rate_is_the_best_second(self) -> None:
        meter = Meter()
        for second, octets in enumerate((0, 1000, 9000, 9500)):
            meter.seen(seen(0, 0, octets, 2 * octets), at(second))
        found = meter.read(at(4))
        assert (found.rate_in, found.rate_out) == (8000, 16000)
        assert meter.read(at(RATE_MEMORY + 10)).rate_in == 0

    def test_a_queue_of_our_own_is_no_round_trip(self) -> None:
        meter = Meter()
        meter.settled(Seconds(0.02), at(0), begins=True)
        for second in range(3):
            meter.seen(seen(0, 0, second * 10_000_000), at(second))
        for _ in range(6):
            meter.settled(Seconds(0.4), at(2), begins=True)
        assert meter.read(at(9)).rtt == 0.02

    def test_nor_for_longer_than_it_is_looked_at(self) -> None:
        meter = Meter()
        for second in range(3):
            meter.seen(seen(0, 0, second * 10_000_000), at(second))
        meter.settled(Seconds(0.4), at(20), begins=True)
        assert meter.read(at(20)).rtt == 0.4


class TestBurden:
    def test_is_that_of_rfc_5348(self) -> None:
        """Its equation at R = 100 ms, p = 1 %, t_RTO = 4 R."""
        assert isclose(burden(Seconds(0.1), 0.01), 0.00890, rel_tol=0.01)

    def test_of_small_differences_is_equal(self) -> None:
        assert burden(Seconds(0.001), 0) == burden(LEAST_RTT, LEAST_LOSS)

    @given(
        strategies.floats(0, 2), strategies.floats(0, 2), strategies.floats(0, 1),
        strategies.floats(0, 1),
    )  # fmt: skip
    def test_grows_with_both(self, rtt: float, more: float, loss: float, worse: float) -> None:
        here = burden(Seconds(rtt), loss)
        assert burden(Seconds(rtt + more), loss) >= here
        assert burden(Seconds(rtt), max(loss, worse)) >= here

    def test_of_a_radio_that_hardly_hears_is_more_while_that_is_known(self) -> None:
        meters = Meters()
        meters.asked(1, HERE, at(0), begins=True)
        meters.answered(1, at(0.02))
        well = meters.of(HERE, at(1)).burden
        meters.signal_seen(HERE.link, WEAK, at(1))
        weak = meters.of(HERE, at(1)).burden
        assert None not in (well, weak)
        assert weak == pytest.approx(WEAK_BURDEN * (well or 0))
        meters.signal_seen(HERE.link, WEAK + 1, at(1))
        assert meters.of(HERE, at(1)).burden == well
        meters.signal_seen(HERE.link, WEAK, at(1))
        assert meters.of(HERE, at(1 + SIGNAL_MEMORY + 1)).burden == well

    def test_what_was_not_measured_is_not_compared(self) -> None:
        assert compare(Quality(), Quality(Seconds(0.1))) is None
        assert compare(Quality(Seconds(0.1)), Quality()) is None

    def test_the_reasons_are_what_it_is_better_in(self) -> None:
        found = compare(Quality(Seconds(0.05)), Quality(Seconds(0.2), 0.1, 0.1))
        assert found is not None
        assert found.ratio > 1
        assert found.reasons == {Reason.LESS_LOSS, Reason.SHORTER_RTT}
        back = compare(Quality(Seconds(0.2), 0.1, 0.1), Quality(Seconds(0.05)))
        assert back is not None
        assert isclose(back.ratio * found.ratio, 1)
        assert not back.reasons


@given(
    strategies.lists(
        strategies.tuples(
            strategies.floats(0, 3),
            strategies.none() | strategies.floats(0, 2),
            strategies.booleans(),
        ),
        max_size=60,
    )
)
def test_whatever_is_measured_is_within_its_range(
    probes: list[tuple[float, float | None, bool]],
) -> None:
    meters, now = Meters(), 0.0
    for number, (pause, answer, begins) in enumerate(probes):
        now += pause
        meters.asked(number, HERE, Instant(now), begins=begins)
        if answer is not None:
            meters.answered(number, Instant(now + answer))
            now += answer
        found = meters.of(HERE, Instant(now))
        assert found.probe_loss is None or 0 <= found.felt_loss <= found.probe_loss <= 1
        assert found.rtt is None or 0 <= found.rtt <= LOST_AFTER
