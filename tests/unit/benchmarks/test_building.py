"""What is told of walks through the building."""

from orchestrator.lab.watch import Flip
from tests.benchmarks.building import Walked, Walker, as_json
from tests.benchmarks.curve import BUILDING, load

CURVE = load(BUILDING)


def walked(goodput: float, *flips: Flip) -> Walked:
    return Walked(goodput, (), 0.5, (), flips)


def test_ours_is_compared_with_the_better_link_and_with_strongswan() -> None:
    told = as_json(
        {
            Walker.OURS: walked(15.0),
            Walker.ON_WIFI: walked(10.0),
            Walker.ON_WIFI2: walked(7.5),
            Walker.STRONGSWAN: walked(5.0),
        },
        CURVE,
        180.0,
    )
    assert isinstance(told["cases"], list)
    (case,) = told["cases"]
    assert (case["to_best_link"], case["to_strongswan"], case["crossings"]) == (1.5, 3.0, 3)


def test_flips_are_counted_with_their_reasons() -> None:
    better, dead = ("better-link", "negotiated"), ("path-dead",)
    flips = [Flip(at, "wlan0", why) for at, why in ((1.0, better), (2.0, dead), (3.0, better))]
    told = walked(1.0, *flips).as_json()
    assert told["flips"] == 3
    assert told["reasons"] == {"better-link, negotiated": 2, "path-dead": 1}


def test_connections_that_ended_are_reconnects() -> None:
    ended = Walked(1.0, (), 0.5, ("bulk: the receiver saw the end",), None)
    assert ended.as_json() == {
        "goodput_mbit": 1.0,
        "reconnects": 1,
        "longest_silence_ms": 500.0,
    }
