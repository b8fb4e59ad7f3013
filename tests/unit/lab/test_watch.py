"""On which link an endpoint was, from what its daemon told."""

from typing import Any

from orchestrator.lab.watch import Flip, flips


def record(at: float, event: str, link: str | None, *reasons: str) -> dict[str, Any]:
    told: dict[str, Any] = {"boottime": at, "event": event, "reasons": list(reasons)}
    return told | ({} if link is None else {"path": f"{link} 192.0.2.130 -> 203.0.113.10"})


def test_a_flip_has_the_reasons_of_the_move() -> None:
    told = [
        record(1.0, "negotiating", "wlan1", "better-link"),
        record(2.0, "moving", "wlan1", "better-link", "negotiated"),
        record(3.0, "attached", "wlan1", "answered"),
    ]
    assert flips(told, "wlan0") == [Flip(2.0, "wlan1", ("better-link", "negotiated"))]


def test_a_move_to_the_same_link_is_no_flip() -> None:
    told = [
        record(1.0, "detached", None, "path-dead"),
        record(2.0, "moving", "wlan0", "path-returned"),
        record(3.0, "moving", "wlan0", "negotiated"),
    ]
    assert flips(told, "wlan0") == []


def test_there_and_back_are_two() -> None:
    told = [
        record(1.0, "moving", "wlan1", "path-dead"),
        record(2.0, "moving", "wlan0", "better-link"),
    ]
    assert [flip.link for flip in flips(told, "wlan0")] == ["wlan1", "wlan0"]
