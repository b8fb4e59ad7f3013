"""How a path is, and why we think so: for people; the decisions ask for what they need.

    unproven --answered--> alive --answer late--> suspect --unanswered for too long--> dead

A path that is dead carries nothing any more: it is seen in the reasons of what was done then.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.liveness import PathHealth
from orchestrator.core.quantities import Instant, Seconds
from orchestrator.core.tunnels import Held


class Sign(StrEnum):
    ANSWERED = "answered"
    """The latest probe, or not too long ago."""
    NEVER_ANSWERED = "never-answered"
    """Since the tunnel took the traffic, or waits."""
    ANSWER_LATE = "answer-late"
    """No answer for longer than a round trip takes here (RFC 6298)."""
    OTHERS_ANSWER = "others-answer"
    """Another tunnel has answered meanwhile: it is not the server."""
    PACKETS_COME = "packets-come"
    """More than answers to our probes, in the last quarter of a second."""


@dataclass(frozen=True, slots=True)
class Verdict:
    health: PathHealth
    signs: frozenset[Sign]


def verdict(
    held: Held, others: Iterable[Held], heard_until: Instant, patience: Seconds, now: Instant
) -> Verdict:
    """Of a tunnel that is asked; `others` are, too. `heard_until`: how long packets that it has
    brought count; `patience`: how long it may leave probes unanswered."""
    liveness = held.liveness
    since = liveness.waiting_since
    late = since is not None and now >= since + liveness.rto
    signs = set()
    if not liveness.proven:
        signs.add(Sign.NEVER_ANSWERED)
    if late:
        signs.add(Sign.ANSWER_LATE)
        if any(since is not None and other.heard >= since for other in others):
            signs.add(Sign.OTHERS_ANSWER)
    elif liveness.proven:
        signs.add(Sign.ANSWERED)
    if heard_until > now:
        signs.add(Sign.PACKETS_COME)
    return Verdict(liveness.health(now, patience), frozenset(signs))
