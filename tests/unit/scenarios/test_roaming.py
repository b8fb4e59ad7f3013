"""Random roams are what their seed says, possible, and as many and as long as was asked for."""

import pytest

from tests.scenarios.roaming import ADDRESSES, HOME, SHORTEST, Kind, roams

SEEDS = range(200)


def test_the_same_seed_makes_the_same_roams() -> None:
    assert roams(7, 50, 100.0) == roams(7, 50, 100.0)
    assert roams(7, 50, 100.0) != roams(8, 50, 100.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_they_are_as_many_and_take_as_long_as_was_asked_for(seed: int) -> None:
    made = roams(seed, 50, 100.0)
    assert len(made) == 50
    assert sum(roam.seconds for roam in made) == pytest.approx(100.0)
    assert all(roam.pause >= SHORTEST for roam in made)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_is_possible_where_the_ones_before_have_led(seed: int) -> None:
    on = dict(HOME.on)
    for roam in roams(seed, 50, 100.0):
        if roam.kind in (Kind.BREAK, Kind.JOIN):
            assert roam.link not in on
        else:
            assert roam.link in on
        if roam.kind is Kind.BREAK:
            on = {}
        if roam.kind is Kind.LEAVE:
            del on[roam.link]
        if roam.addresses:
            assert roam.addresses in ADDRESSES[roam.link]
            assert on.get(roam.link) != roam.addresses
            on[roam.link] = roam.addresses
        assert on, "no link is left"


def test_all_kinds_happen() -> None:
    kinds = {roam.kind for seed in SEEDS for roam in roams(seed, 20, 40.0)}
    assert kinds == set(Kind)


def test_what_takes_longer_than_there_is_time_is_refused() -> None:
    with pytest.raises(ValueError, match="seed 7"):
        roams(7, 50, 10.0)
