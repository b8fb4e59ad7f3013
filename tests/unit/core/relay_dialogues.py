"""Words for dialogues with a relay, and relays in the middle of a story."""

from collections.abc import Iterable

from orchestrator.core.relay import Relay
from orchestrator.core.relay_events import Act, Event, Leg, Step, Steps

INNER, OUTER = Leg.INNER, Leg.OUTER
LIMIT = 8


def opened(patient: Iterable[Leg] = ()) -> Relay:
    relay = Relay(dialled=OUTER, limit=LIMIT, patient=frozenset(patient))
    assert relay.handle(Event.CONNECTED, OUTER) == ()
    return relay


def says(relay: Relay, *lines: tuple[Event, Leg, int, Steps]) -> None:
    """A dialogue: each line is what happened and what the relay must answer."""
    for event, leg, count, answer in lines:
        assert relay.handle(event, leg, count) == answer, f"{event.name} at {leg.name}"


def step(act: Act, leg: Leg) -> Step:
    return Step(act, leg)


READ_INNER = (step(Act.READ, INNER),)
READ_OUTER = (step(Act.READ, OUTER),)
WRITE_INNER = (step(Act.WRITE, INNER),)
WRITE_OUTER = (step(Act.WRITE, OUTER),)
SPOOL_OUTER = (step(Act.SPOOL, OUTER),)
UNSPOOL_OUTER = (step(Act.UNSPOOL, OUTER),)


def writing() -> Relay:
    relay = opened(patient=[INNER])
    relay.handle(Event.READABLE, OUTER)
    relay.handle(Event.READ, OUTER, LIMIT)
    return relay


def resetting() -> Relay:
    relay = writing()
    relay.handle(Event.FAULT, OUTER)
    return relay


def half_closed() -> Relay:
    relay = opened(patient=[INNER])
    relay.handle(Event.HANGUP, INNER)
    relay.handle(Event.END, INNER)
    return relay


def closing() -> Relay:
    relay = half_closed()
    relay.handle(Event.HANGUP, OUTER)
    relay.handle(Event.END, OUTER)
    return relay


def owing_a_reset() -> Relay:
    relay = opened(patient=[INNER])
    relay.handle(Event.HANGUP, OUTER)
    relay.handle(Event.READ_FAILED, OUTER)
    return relay


def spooling() -> Relay:
    relay = writing()
    relay.handle(Event.WROTE, INNER, 3)
    relay.handle(Event.AWAY, INNER)
    return relay


def spooled() -> Relay:
    relay = spooling()
    relay.handle(Event.SPOOLED, OUTER, 4)
    return relay


def loading() -> Relay:
    relay = spooled()
    relay.handle(Event.WRITABLE, INNER)
    relay.handle(Event.WROTE, INNER, 5)
    return relay


def stinted() -> Relay:
    relay = opened(patient=[INNER])
    relay.handle(Event.READABLE, OUTER)
    relay.handle(Event.NO_ROOM, OUTER)
    return relay
