"""What is told of measured moves."""

import pytest

from orchestrator.lab.ticker import Way
from tests.benchmarks.handover import remarks
from tests.benchmarks.moves import LIMIT, Moves


def moves(*downlink: float) -> Moves:
    made = Moves(lost=[0 for _ in downlink])
    for way, factor in ((Way.UP, 0.5), (Way.DOWN, 1.0)):
        made.resumed[way] = [factor * value for value in downlink]
        made.gaps[way] = [factor * value + 5 for value in downlink]
    return made


def test_medians_are_told() -> None:
    told = moves(30.0, 20.0, 100.0).summary()
    assert told == {
        "uplink_ms": 15.0,
        "downlink_ms": 30.0,
        "lost": 0,
        "longest_gap_ms": {"uplink": 20.0, "downlink": 35.0},
        "moves": 3,
    }


def test_a_move_that_was_stopped_is_told() -> None:
    stopped = moves(20.0, 1000 * LIMIT, 30.0)
    assert stopped.summary()["stopped_at_s"] == LIMIT
    assert remarks(stopped) == f"  stopped at {LIMIT:g} s"
    assert not moves(20.0, 999 * LIMIT).stopped


def test_a_planned_move_is_told_with_the_gap_of_no_move() -> None:
    planned = moves(20.0)
    planned.normal = {Way.UP: [8.0], Way.DOWN: [9.0]}
    planned.made_before = [True]
    told = planned.summary()
    assert told["normal_gap_ms"] == {"uplink": 8.0, "downlink": 9.0}
    assert told["made_before_break"] == 1
    assert remarks(planned) == "  normal gap 9.0 ms, 1 of 1 made before the break"


@pytest.mark.parametrize(("field", "name"), [("action", "action_ms"), ("left", "left_ms")])
def test_what_our_daemon_did_is_told_where_it_was_watched(field: str, name: str) -> None:
    watched = moves(20.0)
    assert name not in watched.summary()
    getattr(watched, field).append(3.25)
    assert watched.summary()[name] == 3.25
