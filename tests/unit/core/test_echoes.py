"""When echoes are stale, and how long."""

from collections.abc import Callable

import pytest

from orchestrator.core.echoes import FRESH_AFTER, STALE_AFTER, Echoes
from orchestrator.core.quantities import Instant

EARLY = 0.001


def at(seconds: float) -> Instant:
    return Instant(seconds)


@pytest.fixture
def stale() -> Echoes:
    echoes = Echoes()
    echoes.long_lost(at(0))
    assert echoes.turn(at(0))
    return echoes


def test_echoes_are_stale_when_an_outage_lasts() -> None:
    echoes = Echoes()
    echoes.lost(at(10))
    assert echoes.turns_at == at(10 + STALE_AFTER)
    assert not echoes.turn(at(10 + STALE_AFTER - EARLY))
    assert echoes.turn(at(10 + STALE_AFTER))
    assert echoes.stale
    assert echoes.turns_at is None


def test_a_short_outage_makes_nothing_stale() -> None:
    echoes = Echoes()
    echoes.lost(at(10))
    echoes.answered(at(10 + STALE_AFTER - EARLY))
    assert echoes.turns_at is None
    assert not echoes.turn(at(20))


def test_an_outage_is_as_long_as_it_is_however_many_paths_are_tried() -> None:
    echoes = Echoes()
    echoes.lost(at(10))
    echoes.lost(at(10 + STALE_AFTER / 2))
    assert echoes.turn(at(10 + STALE_AFTER))


def test_what_nobody_knows_the_length_of_is_long() -> None:
    echoes = Echoes()
    echoes.lost(at(10))
    echoes.long_lost(at(10))
    assert echoes.turn(at(10))
    assert echoes.stale


def test_echoes_are_fresh_a_while_after_an_answer(stale: Echoes) -> None:
    echoes = stale
    echoes.answered(at(60))
    assert not echoes.turn(at(60 + FRESH_AFTER - EARLY))
    assert echoes.turn(at(60 + FRESH_AFTER))
    assert not echoes.stale


@pytest.mark.parametrize("again", [Echoes.lost, Echoes.long_lost])
def test_an_outage_soon_after_another_leaves_them_stale(
    stale: Echoes, again: Callable[[Echoes, Instant], None]
) -> None:
    echoes = stale
    echoes.answered(at(60))
    again(echoes, at(60.5))
    assert echoes.turns_at is None
    assert not echoes.turn(at(100))
    assert echoes.stale
