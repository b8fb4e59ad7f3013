"""The walk through the building, as data."""

from pathlib import Path

import pytest

from orchestrator.lab.internet import Quality
from tests.benchmarks.curve import BUILDING, Moment, crossings, load
from tests.benchmarks.tunnels import FIRST_LINK, OTHER_LINK


def test_a_table_has_comments_a_header_and_a_line_for_each_moment(tmp_path: Path) -> None:
    file = tmp_path / "curve.csv"
    file.write_text("# said\nsecond,a_loss_percent,a_delay_ms\n0,1.5,8\n0.5,60,44\n")
    assert load(file) == (
        Moment(0.0, {"a": Quality(delay_ms=8.0, loss_percent=1.5)}),
        Moment(0.5, {"a": Quality(delay_ms=44.0, loss_percent=60.0)}),
    )


def moments(*losses: tuple[float, float]) -> list[Moment]:
    return [
        Moment(at, {"a": Quality(loss_percent=a), "b": Quality(loss_percent=b)})
        for at, (a, b) in enumerate(losses)
    ]


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        (((0, 5), (1, 4), (3, 2), (5, 0)), [2]),
        (((0, 5), (5, 0), (0, 5)), [1, 2]),
        (((0, 5), (3, 3), (0, 5)), []),
        (((0, 5), (3, 3), (5, 0)), [2]),
    ],
)
def test_curves_cross_where_the_other_link_becomes_better(
    losses: tuple[tuple[float, float], ...], found: list[float]
) -> None:
    assert crossings(moments(*losses)) == found


def test_the_building_lasts_three_minutes_and_its_curves_cross_three_times() -> None:
    curve = load(BUILDING)
    assert [moment.at for moment in curve] == list(range(181))
    assert crossings(curve) == pytest.approx([30, 90, 150], abs=1)


def test_the_building_has_a_good_link_at_any_time_and_a_bad_one_at_both_ends() -> None:
    for moment in load(BUILDING):
        assert set(moment.links) == {FIRST_LINK, OTHER_LINK}
        losses = sorted(each.loss_percent for each in moment.links.values())
        assert losses[0] < 10
        if moment.at % 60 in (0, 1, 59):
            assert losses == pytest.approx([0, 60], abs=0.1)
