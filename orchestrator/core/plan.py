"""From a desired state and what is there to the operations between them, in a safe order.

1. What restrains comes first: policies that hold, block or demand protection, and the firewall.
2. Then what others stand on: devices; rules before the addresses whose packets they keep in the
   tunnel; routes, which need the addresses; settings, because a server must not forward before
   its firewall and its routes stand.
3. Last comes what lets traffic out: policies that send it into an SA.
4. Dropping is the same order backwards, and after all putting, so that nothing is uncovered
   while its successor is not there yet, and an address goes before what restrains it.

Applying a state twice plans nothing the second time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.core.kernel import (
    Address,
    Direction,
    KernelObject,
    Key,
    Policy,
    Route,
    Rule,
    Ruleset,
    Sysctl,
    Tun,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Put:
    """Create the object, or replace the version of it that is there."""

    subject: KernelObject


@dataclass(frozen=True, slots=True)
class Drop:
    subject: KernelObject


Operation = Put | Drop


def plan(
    wanted: Iterable[KernelObject], present: Mapping[Key, KernelObject]
) -> tuple[Operation, ...]:
    """The operations that turn `present` into `wanted`, in the order to do them in."""
    by_key: dict[Key, KernelObject] = {subject.key: subject for subject in wanted}
    puts = [subject for key, subject in by_key.items() if present.get(key) != subject]
    drops = [subject for key, subject in present.items() if key not in by_key]
    puts.sort(key=stage)
    drops.sort(key=stage, reverse=True)
    return (*map(Put, puts), *map(Drop, drops))


def stage(subject: KernelObject) -> int:
    """When an object is put, relative to the others; smaller is earlier."""
    match subject:
        case Policy(direction=Direction.OUT, verdict=Verdict.PROTECT):
            return 7
        case Policy():
            return 0
        case Ruleset():
            return 1
        case Tun():
            return 2
        case Rule():
            return 3
        case Address():
            return 4
        case Route():
            return 5
        case Sysctl():
            return 6
