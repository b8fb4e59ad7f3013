"""What we know of our tunnels, when charon tells of them and the places under them change."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Final

import pytest

from orchestrator.core.ike import IkeMoved, Tunnel
from orchestrator.core.liveness import Liveness
from orchestrator.core.mobility_events import Bury, Reason
from orchestrator.core.paths import LinkChoice
from orchestrator.core.places import Places
from orchestrator.core.quantities import IPAddress, Seconds, Spi, UniqueId
from orchestrator.core.tunnels import MOVE_HORIZON, Held, Tunnels
from tests.unit.core.builders import (
    LTE,
    LTE6,
    SERVER4,
    SERVER6,
    VIP4,
    WIFI,
    WIFI2,
    Place,
    at,
    path,
    snapshot,
    tunnel,
)

OVER_WIFI: Final = tunnel(path(WIFI), 1)
OVER_LTE: Final = tunnel(path(LTE), 2)


class Endpoint:
    """Has both tunnels, the one over LTE heard last, and is at these places."""

    def __init__(self, *here: Place) -> None:
        self.places = Places((SERVER4, SERVER6), LinkChoice())
        self.tunnels = Tunnels(self.places)
        self.wifi, self.lte = (
            self.tunnels.take(
                over, path(place), at(0), Liveness(Seconds(2.0), Seconds(2.0), at(0))
            )
            for over, place in ((OVER_WIFI, WIFI), (OVER_LTE, LTE))
        )
        self.wifi.heard, self.lte.heard = at(100), at(101)
        self.is_at(*here)

    def is_at(self, *here: Place) -> None:
        self.places.look(snapshot(*here), (VIP4,))

    def can_move(self, place: Place, now: float = 102) -> Held | None:
        return self.tunnels.movable(path(place), at(now))


def ike_moved(to: IPAddress, port: int = 4500) -> IkeMoved:
    return IkeMoved(OVER_WIFI.ike, to, port, SERVER4, 4501)


class TestMovable:
    def test_is_whose_place_is_gone(self) -> None:
        endpoint = Endpoint(LTE)
        assert endpoint.can_move(LTE) is endpoint.wifi

    def test_is_none_whose_place_is_there(self) -> None:
        assert Endpoint(WIFI, LTE).can_move(LTE) is None

    def test_is_the_last_heard_of_several(self) -> None:
        endpoint = Endpoint(WIFI2)
        assert endpoint.can_move(WIFI2) is endpoint.lte

    def test_is_none_that_retires(self) -> None:
        endpoint = Endpoint(WIFI2)
        endpoint.lte.retire_at = at(200)
        assert endpoint.can_move(WIFI2) is endpoint.wifi

    def test_is_none_to_the_other_family(self) -> None:
        assert Endpoint(LTE6).can_move(LTE6) is None

    def test_is_none_to_another_address_of_the_server(self) -> None:
        endpoint = Endpoint(WIFI2)
        elsewhere = path(WIFI2, ip_address("203.0.113.11"))
        assert endpoint.tunnels.movable(elsewhere, at(102)) is None

    def test_is_none_unheard_for_too_long(self) -> None:
        endpoint = Endpoint(WIFI2)
        assert endpoint.can_move(WIFI2, 100.9 + MOVE_HORIZON) is endpoint.lte
        assert endpoint.can_move(WIFI2, 101 + MOVE_HORIZON) is None

    def test_has_to_prove_itself_again_when_it_was_moved(self) -> None:
        endpoint = Endpoint(LTE)
        endpoint.wifi.answered = True
        endpoint.wifi.move(path(LTE))
        assert not endpoint.wifi.answered
        assert endpoint.wifi.tunnel.local == ip_address(LTE.pop)
        assert endpoint.tunnels.at(path(WIFI)) is None


class TestFollowing:
    def test_a_rekeyed_child_sa(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        fresh = replace(OVER_WIFI, child=UniqueId(777), spi_in=Spi(7), spi_out=Spi(8))
        endpoint.tunnels.rekeyed(OVER_WIFI.child, fresh)
        assert endpoint.wifi.tunnel == fresh
        assert endpoint.lte.tunnel == OVER_LTE

    def test_a_rekeyed_ike_sa(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        endpoint.tunnels.ike_rekeyed(OVER_WIFI.ike, UniqueId(31))
        assert endpoint.tunnels.of(UniqueId(31), None) == (endpoint.wifi,)
        assert endpoint.tunnels.of(OVER_WIFI.ike, None) == ()

    def test_ike_to_another_usable_path(self) -> None:
        endpoint = Endpoint(WIFI2, LTE)
        endpoint.tunnels.ike_moved(ike_moved(ip_address(WIFI2.pop)))
        assert endpoint.wifi.path == path(WIFI2)
        assert endpoint.wifi.tunnel.local == ip_address(WIFI2.pop)
        assert endpoint.wifi.tunnel.remote_port == 4501

    @pytest.mark.parametrize("where", [VIP4, ip_address(WIFI2.pop)])
    def test_not_to_where_no_path_is(self, where: IPAddress) -> None:
        endpoint = Endpoint(WIFI, LTE)
        endpoint.tunnels.ike_moved(ike_moved(where))
        assert endpoint.wifi.path == path(WIFI)
        assert endpoint.wifi.tunnel.local == OVER_WIFI.local

    def test_not_one_that_we_moved(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        endpoint.wifi.move(path(LTE))
        endpoint.tunnels.ike_moved(ike_moved(OVER_WIFI.local))
        assert endpoint.wifi.path == path(LTE)

    def test_the_keys_of_one_that_we_moved_but_not_its_addresses(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        endpoint.wifi.move(path(LTE))
        fresh = replace(OVER_WIFI, child=UniqueId(777), spi_in=Spi(7), spi_out=Spi(8))
        moved = endpoint.wifi.tunnel
        assert endpoint.tunnels.rekeyed(OVER_WIFI.child, fresh) == (Bury(moved),)
        assert endpoint.wifi.tunnel == replace(fresh, local=ip_address(LTE.pop))

    def test_the_last_of_two_successors_when_both_sides_rekeyed(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        theirs = replace(OVER_WIFI, child=UniqueId(777), spi_in=Spi(7), spi_out=Spi(8))
        ours = replace(OVER_WIFI, child=UniqueId(778), spi_in=Spi(9), spi_out=Spi(10))
        endpoint.tunnels.rekeyed(OVER_WIFI.child, theirs)
        endpoint.tunnels.rekeyed(OVER_WIFI.child, ours)
        assert endpoint.wifi.tunnel == ours
        again = replace(ours, child=UniqueId(779), spi_in=Spi(11), spi_out=Spi(12))
        endpoint.tunnels.rekeyed(ours.child, again)
        assert endpoint.wifi.tunnel == again


class TestEnding:
    def test_charon_finds_what_was_not_moved(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        assert endpoint.tunnels.ended(endpoint.wifi) == ()
        assert endpoint.tunnels.held == [endpoint.lte]

    def test_what_was_moved_is_buried(self) -> None:
        endpoint = Endpoint(LTE)
        endpoint.wifi.move(path(LTE))
        moved = endpoint.wifi.tunnel
        assert endpoint.tunnels.ended(endpoint.wifi) == (Bury(moved),)


class TestComparing:
    def test_what_charon_knows_needs_no_renewal(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        endpoint.tunnels.compare([])
        known = replace(OVER_WIFI, ike=UniqueId(70), child=UniqueId(71))
        assert endpoint.tunnels.compare([known, OVER_LTE]) == ()
        assert endpoint.wifi.tunnel == known
        assert endpoint.wifi.renew is None
        assert not endpoint.wifi.moved

    def test_what_it_does_not_know_is_to_be_renewed(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        endpoint.tunnels.compare([OVER_LTE])
        assert endpoint.wifi.renew is Reason.CHARON_RESTARTED
        assert endpoint.lte.renew is None

    def test_and_has_no_number_that_the_new_charon_could_have_given_to_another(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        endpoint.tunnels.compare([OVER_LTE])
        assert (endpoint.wifi.tunnel.ike, endpoint.wifi.tunnel.child) == (0, 0)
        assert endpoint.lte.tunnel == OVER_LTE

    def test_what_a_rekeying_left_under_an_ike_sa_of_ours_ends_by_itself(self) -> None:
        left = replace(OVER_WIFI, child=UniqueId(70), spi_in=Spi(7), spi_out=Spi(8))
        assert Endpoint(WIFI, LTE).tunnels.compare([left, OVER_WIFI, OVER_LTE]) == ()

    def test_what_we_do_not_have_is_named(self) -> None:
        stranger: Tunnel = tunnel(path(WIFI2), 9)
        assert Endpoint(WIFI, LTE).tunnels.compare([stranger, OVER_LTE]) == (stranger,)

    def test_what_it_believes_elsewhere_was_moved(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        endpoint.tunnels.compare([OVER_WIFI, replace(OVER_LTE, local=OVER_WIFI.local)])
        assert endpoint.lte.moved
        assert endpoint.lte.tunnel.local == ip_address(LTE.pop)


class TestRetiring:
    def test_is_used_no_more_and_over_in_time(self) -> None:
        endpoint = Endpoint(WIFI, LTE)
        endpoint.lte.retire_at = at(200)
        assert endpoint.tunnels.latest() == [endpoint.wifi]
        assert endpoint.tunnels.over(at(199)) == ()
        assert endpoint.tunnels.over(at(200)) == (endpoint.lte,)

    def test_what_stays_comes_last_heard_first(self) -> None:
        endpoint = Endpoint()
        assert endpoint.tunnels.latest() == [endpoint.lte, endpoint.wifi]
