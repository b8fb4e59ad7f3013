"""An agenda names whom it was asked to look at, in time, and stays small."""

from hypothesis import given, strategies

from orchestrator.core.agenda import SLACK, Agenda
from tests.unit.core.builders import at

names = strategies.sampled_from("abc")
times = strategies.integers(0, 50)


def test_names_each_once_at_the_earliest_time_asked_for() -> None:
    agenda = Agenda()
    agenda.add("a", at(5))
    agenda.add("a", at(3))
    agenda.add("a", at(9))
    agenda.add("b", at(4))
    assert agenda.next() == at(3)
    assert list(agenda.due(at(4))) == ["a", "b"]
    assert agenda.next() is None


def test_who_was_dropped_is_not_looked_at() -> None:
    agenda = Agenda()
    agenda.add("a", at(5))
    agenda.drop("a")
    assert agenda.next() is None
    assert list(agenda.due(at(9))) == []


@given(strategies.lists(strategies.tuples(names, times) | names))
def test_agrees_with_a_plain_table(orders: "list[tuple[str, int] | str]") -> None:
    agenda, plain = Agenda(), dict[str, int]()
    for order in orders:
        if isinstance(order, str):
            agenda.drop(order)
            plain.pop(order, None)
        else:
            name, time = order
            agenda.add(name, at(time))
            plain[name] = min(time, plain.get(name, time))
        assert agenda.next() == (at(min(plain.values())) if plain else None)
    assert sorted(agenda.due(at(50))) == sorted(plain)


def test_moving_one_to_and_fro_leaves_nothing_behind() -> None:
    agenda = Agenda()
    for time in range(1000, 0, -1):
        agenda.add("a", at(time))
    assert len(agenda) <= 2 + SLACK
    assert list(agenda.due(at(1))) == ["a"]
