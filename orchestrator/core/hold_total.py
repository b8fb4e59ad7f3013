"""What all sessions of one server hold together, kept within one limit.

1. Counted is memory: a packet's octets, and PACKET_COST for what is kept to find it. Otherwise
   packets of 40 octets would take thirty times what the operator granted.
2. When the total is full, the session that holds most gives first, by its queue's own rules:
   whoever holds little loses nothing while somebody holds more.
3. Each packet costs a logarithm of the number of sessions, however many there are.
"""

from typing import Final, Protocol

from orchestrator.core.largest import Largest

PACKET_COST: Final = 1400
"""Octets: of Python's objects for a packet that is the only one of its flow, measured by
tests/unit/core/test_hold_total.py. One of many of a flow takes some 800."""
UNLIMITED: Final = 2**63 - 1
"""For a holder with one session only, whose own limits are enough."""


class Giver(Protocol):
    """A queue of the session."""

    @property
    def weight(self) -> int:
        """What it holds, in octets of rule 1."""

    def give(self) -> None:
        """Loses one packet to the others; it has one."""


class HoldTotal:
    """All sessions."""

    def __init__(self, limit: int = UNLIMITED) -> None:
        self._limit = limit
        self.octets = 0
        self._largest: Largest[Account] = Largest()

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def is_limited(self) -> bool:
        return self._limit != UNLIMITED

    @property
    def sessions(self) -> int:
        """How many hold something."""
        return len(self._largest)

    def change_limit(self, limit: int) -> None:
        """A lower one takes at once what is too much."""
        self._limit = limit
        self.settle()

    def settle(self) -> None:
        """Rule 2."""
        while self.octets > self._limit:
            self._largest.first().give()

    def changed(self, account: "Account", octets: int) -> None:
        self.octets += octets
        if not account.weight:
            self._largest.gone(account)
        elif octets > 0:
            self._largest.grown(account)


class Account:
    """What one session holds, in all its queues."""

    def __init__(self, total: HoldTotal) -> None:
        self._total = total
        self.weight = 0
        """In octets of rule 1."""
        self._queues: list[Giver] = []
        """One for each virtual address."""

    def join(self, queue: Giver) -> None:
        self._queues.append(queue)

    def leave(self, queue: Giver) -> None:
        """The queue, which is empty, is no more."""
        self._queues.remove(queue)

    def changed(self, octets: int) -> None:
        """A queue of this session holds as much more, or less, now."""
        self.weight += octets
        self._total.changed(self, octets)

    def settle(self) -> None:
        """The limit holds again, whoever pays for it."""
        self._total.settle()

    def give(self) -> None:
        """Rule 2: of its queues the one that holds most."""
        max(self._queues, key=lambda queue: queue.weight).give()
