"""Roaming stories end to end: both machines in one process, an application at either end.

Each story has its negative control: without the move, the hold or the follow-up the same roam
costs what the mechanism saves. Times are those of the fake internet: 5, 8 and 25 ms one way.
"""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, strategies

from orchestrator.core import trust
from orchestrator.core.absence import SessionState
from orchestrator.core.mobility_events import FallsAsleep, State, Woke
from orchestrator.core.quantities import Seconds
from orchestrator.core.race import REST
from orchestrator.core.session import MAX_TUNNELS
from orchestrator.core.session_events import SessionReason
from orchestrator.core.trust import SERVER_TURNS
from tests.unit.core.builders import (
    LTE,
    LTE6,
    SERVER4,
    SERVER6,
    WIFI,
    WIFI2,
    Place,
    path,
    without_carrier,
)
from tests.unit.core.fake_internet import DELAYS, FOLLOWING, NO_HOLD, SEND_INTERVAL, Internet
from tests.unit.core.stories import POLICY

LTE_DELAY = DELAYS[LTE.pop]
LTE_RTT = 2 * LTE_DELAY
IDLE_NOTICED = 20.0
"""Seconds after which a silent path was left, although nobody sends anything."""
PROBED = 3.0
"""Seconds after which a roam is over: renewed, drained, retired."""


def running(*places: Place, **options: object) -> Internet:
    net = Internet(*places, **options)  # type: ignore[arg-type]
    net.run(PROBED)
    settled(net)
    return net


def settled(net: Internet) -> None:
    """Both ends agree on one tunnel, and nothing is left of others."""
    assert net.endpoint.state() is State.ATTACHED
    assert net.server.state() is SessionState.ATTACHED
    (used,) = net.endpoint.sas
    active = net.server.session().active
    assert active is not None
    assert active.ike == used.tunnel.ike
    # A tunnel whose place went first could not be taken leave of: the server keeps it, idle.
    assert len(net.server.sas) <= MAX_TUNNELS
    assert len(net.endpoint.queue) == len(net.server.queue) == 0


class TestBreakBeforeMake:
    def test_the_first_packet_is_at_the_peer_after_half_a_round_trip(self) -> None:
        net = running(WIFI)
        net.talk(1)
        roamed = net.now
        net.roam(LTE)
        net.talk(1)
        assert net.up.first_since(roamed) <= LTE_DELAY + SERVER_TURNS + SEND_INTERVAL
        assert net.down.first_since(roamed) <= LTE_RTT + 2 * SEND_INTERVAL

    def test_without_the_move_it_is_there_after_ike(self) -> None:
        net = running(WIFI)
        net.endpoint.refuses_moves = True
        roamed = net.now
        net.roam(LTE)
        net.talk(1)
        assert 2.4 * LTE_RTT < net.up.first_since(roamed) < 3 * LTE_RTT

    def test_what_was_sent_while_nowhere_arrives_once_and_in_order(self) -> None:
        net = running(WIFI)
        net.roam()
        net.talk(1)
        net.roam(LTE)
        net.talk(1)
        net.run(1)
        assert (net.up.lost, net.up.doubled, net.up.in_order) == (0, 0, True)
        assert net.down.doubled == 0

    def test_without_the_hold_it_is_lost(self) -> None:
        net = running(WIFI, limits=NO_HOLD)
        net.roam()
        net.talk(1)
        net.roam(LTE)
        net.talk(1)
        net.run(1)
        waits = LTE_RTT + 2 * FOLLOWING  # for the answer
        assert 1 <= net.up.lost * SEND_INTERVAL <= 1 + waits

    def test_nothing_is_sent_to_a_server_that_is_deaf_because_it_follows(self) -> None:
        net = running(WIFI)
        net.talk(1)
        net.roam(LTE)
        net.talk(1)
        net.run(1)
        assert (net.up.lost, net.up.in_order) == (0, True)

    def test_without_the_wait_it_is_lost_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trust, "SERVER_TURNS", Seconds(0.0))
        net = running(WIFI)
        net.talk(1)
        net.roam(LTE)
        net.talk(1)
        net.run(1)
        assert net.up.lost > 0

    def test_the_server_loses_only_what_it_sent_before_it_could_know(self) -> None:
        net = running(WIFI)
        net.roam(LTE)
        net.talk(1)
        net.run(1)
        assert net.down.lost <= (LTE_DELAY + SEND_INTERVAL) / SEND_INTERVAL + 1

    def test_the_moved_tunnel_is_replaced_and_removed_at_both_ends(self) -> None:
        net = running(WIFI)
        net.roam(LTE)
        net.run(PROBED)
        settled(net)
        assert net.endpoint.machine.active_path == path(LTE)
        assert [sa.tunnel.ike for sa in net.endpoint.sas] == [2]
        assert [sa.tunnel.ike for sa in net.server.sas] == [2]

    def test_a_server_that_does_not_follow_is_told_by_the_renewal(self) -> None:
        net = running(WIFI)
        net.server.charon_follows = False
        roamed = net.now
        net.roam(LTE)
        net.talk(1)
        assert net.up.first_since(roamed) <= LTE_DELAY + SERVER_TURNS + SEND_INTERVAL
        assert net.down.first_since(roamed) <= REST + 3 * LTE_RTT
        net.run(PROBED)
        assert net.endpoint.machine.active_path == path(LTE)

    def test_to_another_family_costs_ike_and_loses_nothing_upwards(self) -> None:
        both = replace(POLICY, servers=(SERVER4, SERVER6))
        net = running(WIFI, policy=both)
        net.roam(LTE6)
        net.talk(1)
        net.run(PROBED)
        settled(net)
        assert net.up.lost == 0

    def test_many_quick_roams_end_in_one_tunnel(self) -> None:
        net = running(WIFI)
        for _ in range(10):
            for place in (LTE, WIFI2, WIFI):
                net.roam(place)
                net.talk(0.06)
        net.run(2 * PROBED)
        settled(net)
        assert net.up.doubled == net.down.doubled == 0


class TestMakeBeforeBreak:
    def test_loses_and_delays_nothing(self) -> None:
        net = running(LTE)
        net.talk(0.5)
        before = net.now
        net.roam(LTE, WIFI)
        net.talk(1)
        net.run(1)
        assert (net.up.lost, net.down.lost) == (0, 0)
        assert net.up.longest_gap(before) <= SEND_INTERVAL + LTE_DELAY
        assert net.endpoint.machine.active_path == path(WIFI)
        net.run(PROBED)
        settled(net)

    def test_the_worse_link_may_go_as_soon_as_it_is_drained(self) -> None:
        net = running(LTE)
        net.roam(LTE, WIFI)
        net.talk(0.2)
        net.roam(WIFI)
        net.talk(0.5)
        net.run(PROBED)
        assert net.up.lost == net.down.lost == 0
        assert net.endpoint.machine.active_path == path(WIFI)


class TestAway:
    @pytest.mark.parametrize("seconds", [30, 110])
    def test_both_sides_continue_where_they_stopped(self, seconds: float) -> None:
        net = running(WIFI)
        net.roam(*without_carrier(WIFI))
        net.run(45)  # the server notices
        assert net.server.reason() is SessionReason.UNHEARD
        net.talk(0.2)
        net.run(seconds)
        net.roam(WIFI)
        net.run(PROBED)
        assert (net.up.lost, net.down.lost) == (0, 0)
        assert net.up.in_order
        assert net.down.in_order

    def test_the_session_outlives_a_night(self) -> None:
        net = running(WIFI)
        session = net.server.session()
        net.roam()
        net.run(8 * 3600)
        net.roam(LTE)
        net.run(PROBED)
        net.talk(1)
        net.run(1)
        assert net.server.session() is session
        assert net.up.lost == net.down.lost == 0

    def test_a_silent_path_is_left_for_one_that_works(self) -> None:
        net = running(WIFI, LTE)
        net.silent.add(WIFI.pop)
        net.run(IDLE_NOTICED)
        assert net.endpoint.machine.active_path == path(LTE)
        assert net.endpoint.state() is State.ATTACHED

    def test_and_is_used_again_when_it_works_again(self) -> None:
        net = running(WIFI, LTE)
        net.silent.add(WIFI.pop)
        net.run(120)
        net.silent.clear()
        net.run(60)
        assert net.endpoint.machine.active_path == path(WIFI)
        settled(net)

    def test_a_captive_portal_does_not_keep_it_from_the_link_that_works(self) -> None:
        net = running(LTE)
        net.silent.add(WIFI.pop)
        net.roam(LTE, WIFI)
        net.talk(20)
        net.run(1)
        assert net.up.lost == net.down.lost == 0
        assert net.endpoint.machine.active_path == path(LTE)


class TestNeighbours:
    def test_a_new_nat_mapping_is_followed_by_the_server(self) -> None:
        net = running(WIFI)
        net.public[WIFI.pop] = ip_address("198.51.100.77")
        net.talk(1)
        net.run(1)
        assert net.up.lost <= FOLLOWING / SEND_INTERVAL, "nobody here knew that it is deaf"
        assert net.down.lost <= 2 * DELAYS[WIFI.pop] / SEND_INTERVAL + 2
        assert net.server.reason() is SessionReason.FOLLOWED
        settled(net)

    def test_without_a_packet_from_inside_the_server_cannot_know(self) -> None:
        net = running(WIFI)
        net.public[WIFI.pop] = ip_address("198.51.100.77")
        net.server.send(net.down.next_packet(net.now))
        net.run(0.01)
        assert net.down.lost == 1

    def test_killing_the_endpoints_daemon_loses_no_packet(self) -> None:
        net = running(WIFI)
        net.talk(0.1)
        net.endpoint.is_killed_and_started()
        net.talk(0.5)
        net.run(1)
        assert net.up.lost == net.down.lost == 0
        settled(net)

    def test_one_that_has_lost_count_of_its_flips_is_followed_to_a_fresh_tunnel(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tests.unit.core.fake_internet.FLIPS_PER_RUN", -(2**16))
        net = running(WIFI)
        net.endpoint.is_killed_and_started()
        net.run(PROBED)
        net.roam(LTE)
        net.talk(PROBED)
        net.run(PROBED)
        settled(net)

    def test_killing_it_in_mid_move_ends_in_one_fresh_tunnel(self) -> None:
        net = running(WIFI)
        net.roam(LTE)
        net.run(0.01)
        net.endpoint.is_killed_and_started()
        net.talk(0.5)
        net.run(2 * PROBED)
        settled(net)
        assert net.up.lost == 0

    def test_a_crash_of_the_servers_charon_is_survived(self) -> None:
        net = running(WIFI)
        net.server.charon_crashes()
        net.run(20)
        assert net.server.state() is SessionState.AWAY
        assert net.endpoint.state() is State.DETACHED
        net.talk(0.1)
        net.server.charon_starts()
        net.run(45)
        settled(net)
        assert net.up.lost == net.down.lost == 0


journeys = strategies.lists(
    strategies.tuples(
        strategies.sampled_from(
            ((WIFI,), (LTE,), (WIFI2,), (WIFI, LTE), (WIFI2, LTE), (LTE6,), (LTE, LTE6), ())
        ),
        strategies.sampled_from((0.0, 0.02, 0.07, 0.3, 2.0)),
        strategies.sampled_from((None, None, WIFI.pop, LTE.pop)),
    ),
    max_size=8,
)


@given(journeys)
def test_wherever_it_goes_it_arrives(
    journey: list[tuple[tuple[Place, ...], float, str | None]],
) -> None:
    """Whatever happened: nothing doubled, then one tunnel, and traffic both ways."""
    net = Internet(WIFI, policy=replace(POLICY, servers=(SERVER4, SERVER6)))
    for places, pause, silent in journey:
        net.silent = set() if silent is None else {silent}
        net.roam(*places)
        net.talk(pause)
    net.silent.clear()
    net.roam(WIFI)
    net.run(45)
    settled(net)
    lost = net.up.lost + net.down.lost
    net.talk(0.5)
    net.run(1)
    assert net.up.lost + net.down.lost == lost
    assert net.up.doubled == net.down.doubled == 0


class TestSleep:
    def goes_to_bed(self, **options: object) -> Internet:
        net = running(WIFI, **options)
        net.talk(0.5)
        net.endpoint.hears(FallsAsleep())
        return net

    def test_the_server_holds_as_soon_as_it_was_told(self) -> None:
        net = self.goes_to_bed()
        net.run(DELAYS[WIFI.pop])
        assert net.server.state() is SessionState.ASLEEP
        net.talk(1)
        net.endpoint.hears(Woke(Seconds(1)))
        net.talk(1)
        net.run(PROBED)
        settled(net)
        assert net.up.lost == 0
        assert net.up.in_order
        assert net.down.doubled == 0

    def test_without_being_told_it_would_send_on(self) -> None:
        net = running(WIFI)
        net.talk(1)
        assert net.server.state() is SessionState.ATTACHED

    def test_nothing_leaves_before_the_probe_is_answered(self) -> None:
        net = running(WIFI)
        net.endpoint.hears(Woke(Seconds(3600)))
        asked = net.now
        net.talk(0.5)
        assert net.up.first_since(asked) > 2.9 * DELAYS[WIFI.pop], (
            "a round trip, and half of one"
        )
        assert net.up.lost == 0

    def test_a_night_elsewhere_ends_in_a_fresh_tunnel_that_was_proven(self) -> None:
        net = self.goes_to_bed()
        net.run(0.1)
        net.places = (LTE,)
        net.endpoint.hears(Woke(Seconds(8 * 3600)))
        net.endpoint.is_at(LTE)
        net.talk(1)
        net.run(PROBED)
        settled(net)
        assert net.up.lost == 0
