"""What is asked of the lab's agent in words."""

import pytest

from orchestrator.lab.agent import link_act
from orchestrator.lab.link import Link


class FakeLink(Link):
    """Remembers what it is set to."""

    def __init__(self) -> None:
        self.given: dict[str, float | None] = {}

    def set(self, **given: float | None) -> None:
        self.given |= given


def test_a_link_is_given_numbers() -> None:
    link = FakeLink()
    for change in ("delay=20", "loss=1.5", "rate=0"):
        link_act(change)(link)
    assert link.given == {"delay_ms": 20, "loss_percent": 1.5, "rate_mbit": 0}


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        ("loss=500", "of percent, from 0 to 100"),
        ("loss=5%", "of percent, from 0 to 100"),
        ("delay=-5", "of ms, from 0 to 60000"),
        ("delay=20ms", "of ms, from 0 to 60000"),
        ("delay=nan", "of ms, from 0 to 60000"),
        ("rate=inf", "of Mbit/s, from 0 to 100000"),
        ("rate=", "of Mbit/s, from 0 to 100000"),
    ],
)
def test_a_number_out_of_bounds_is_refused_with_its_unit(change: str, needed: str) -> None:
    with pytest.raises(ValueError, match=f"^{change}: a number is needed, {needed}$"):
        link_act(change)


@pytest.mark.parametrize("change", ["fast", "cut=1", "=5"])
def test_what_a_link_cannot_do_is_named(change: str) -> None:
    with pytest.raises(ValueError, match="is nothing a link can do; it can up, down"):
        link_act(change)
