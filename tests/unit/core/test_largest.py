"""Whoever has most is found, whatever was gained and lost."""

from dataclasses import dataclass

import pytest
from hypothesis import given, strategies

from orchestrator.core.largest import Largest


@dataclass(eq=False)
class Purse:
    weight: int = 0


def test_nobody_has_most_of_nothing() -> None:
    with pytest.raises(IndexError):
        Largest[Purse]().first()


CHANGES = strategies.lists(
    strategies.tuples(strategies.integers(0, 5), strategies.integers(-9, 9))
)


@given(CHANGES)
def test_the_first_has_most(changes: list[tuple[int, int]]) -> None:
    purses = [Purse() for _ in range(6)]
    found: Largest[Purse] = Largest()
    for index, change in changes:
        purse = purses[index]
        purse.weight = max(purse.weight + change, 0)
        if not purse.weight:
            found.gone(purse)
        elif change > 0:
            found.grown(purse)
        assert len(found) == sum(each.weight > 0 for each in purses)
        if len(found):
            assert found.first().weight == max(each.weight for each in purses)


def test_what_is_kept_to_find_it_stays_small() -> None:
    purses = [Purse() for _ in range(10)]
    found: Largest[Purse] = Largest()
    for turn in range(10_000):
        purses[turn % 10].weight += 1
        found.grown(purses[turn % 10])
    assert len(found._heap) < 500
