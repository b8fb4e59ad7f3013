"""How much may be kept for a stream, a session and in all; who goes on when there is room.

Who is about to keep more asks `shortage` first, and says afterwards what it kept (`take`) and
what has left (`give_back`). One allowance is for memory, one for the disk.

The rules:

1. Another portion is kept only where it fits into every limit: none is exceeded by an octet.
2. With a floor, a stream for which nothing is kept may always have one portion. Those that are
   away can fill every limit, and connections of those that are there still move: by a portion
   each round trip. So with a floor the most that is kept is the limit and a portion for each
   stream.
3. Who was refused waits. Room goes around by session, one portion at a time; within a session,
   who waits longest comes first. A session with a thousand waiting streams gets as much as one
   with a single stream.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from typing import Final, Generic, TypeVar

from orchestrator.core.quantities import Instant

WORTHWHILE: Final = 8
"""What was kept is looked at anew when it seems to have grown by this part of a limit: then a
look at every stream costs each octet next to nothing."""


class Shortage(StrEnum):
    """Which limit a stream met."""

    STREAM = "stream"
    SESSION = "session"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class AllowanceLimits:
    """In octets. Raises ValueError where not one portion fits."""

    portion: int
    """kept at once, at most"""
    per_stream: int
    per_session: int
    in_all: int
    floor: bool
    """Rule 2 holds."""

    def __post_init__(self) -> None:
        if not 0 < self.portion <= min(self.per_stream, self.per_session, self.in_all):
            raise ValueError(f"a portion of {self.portion} octets fits into no limit")


Owner = TypeVar("Owner", bound=Hashable)


class Share(Generic[Owner]):
    """What is kept for one stream."""

    __slots__ = ("account", "octets", "owner", "since")

    def __init__(self, owner: Owner, account: "_Account[Owner]") -> None:
        self.owner = owner
        self.account = account
        self.octets = 0
        self.since: Instant | None = None
        """when it began to wait; None: it does not"""


class _Account(Generic[Owner]):
    """What is kept for one session."""

    __slots__ = ("key", "looked", "octets", "shares", "waiting")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.octets = 0
        self.looked = 0
        """octets when they were last looked at anew"""
        self.shares: dict[Share[Owner], None] = {}
        self.waiting: dict[Share[Owner], None] = {}


class Allowance(Generic[Owner]):
    def __init__(self, limits: AllowanceLimits) -> None:
        self.limits = limits
        """May be replaced; what is kept beyond new ones stays."""
        self.octets = 0
        self.waiting = 0
        """streams"""
        self._looked = 0
        self._accounts: dict[Hashable, _Account[Owner]] = {}
        self._crowded: dict[_Account[Owner], None] = {}
        """those with waiting streams, in the order of their turns"""

    def open(self, session: Hashable, owner: Owner) -> Share[Owner]:
        account = self._accounts.get(session)
        if account is None:
            account = self._accounts[session] = _Account(session)
        share = Share(owner, account)
        account.shares[share] = None
        return share

    def close(self, share: Share[Owner]) -> None:
        """Nothing is kept for it any more; once."""
        self.give_back(share, share.octets)
        self.leave(share)
        account = share.account
        del account.shares[share]
        if not account.shares:
            del self._accounts[account.key]

    def shortage(self, share: Share[Owner]) -> Shortage | None:
        """Which limit forbids another portion; None: none does."""
        limits = self.limits
        portion = limits.portion
        if share.octets + portion > limits.per_stream:
            found = Shortage.STREAM
        elif share.account.octets + portion > limits.per_session:
            found = Shortage.SESSION
        elif self.octets + portion > limits.in_all:
            found = Shortage.ALL
        else:
            return None
        return None if limits.floor and not share.octets else found

    def take(self, share: Share[Owner], octets: int) -> None:
        """So many more are kept: a portion at most."""
        share.octets += octets
        share.account.octets += octets
        self.octets += octets

    def give_back(self, share: Share[Owner], octets: int) -> None:
        self.take(share, -octets)

    # ---- what is kept, when nobody tells that it left

    def look(self, share: Share[Owner], kept: Callable[[Owner], int]) -> None:
        """Before `share` is refused: what is kept of late, where it is worth asking.

        `kept` finds out how much is kept for a stream.
        """
        account, limits = share.account, self.limits
        account.looked = min(account.looked, account.octets)
        self._looked = min(self._looked, self.octets)
        if self.octets - self._looked >= limits.in_all // WORTHWHILE:
            self.count(kept)
        elif account.octets - account.looked >= limits.per_session // WORTHWHILE:
            self._count((account,), kept)
        else:
            self.take(share, kept(share.owner) - share.octets)

    def look_around(self, kept: Callable[[Owner], int]) -> None:
        """Before a `turn`: what is kept of all that the waiting streams depend on."""
        if self.octets + self.limits.portion > self.limits.in_all:
            self.count(kept)
        else:
            self._count(tuple(self._crowded), kept)

    def count(self, kept: Callable[[Owner], int]) -> None:
        """What is kept of all."""
        self._count(tuple(self._accounts.values()), kept)
        self._looked = self.octets

    def _count(
        self, accounts: Sequence["_Account[Owner]"], kept: Callable[[Owner], int]
    ) -> None:
        for account in accounts:
            for share in account.shares:
                self.take(share, kept(share.owner) - share.octets)
            account.looked = account.octets

    # ---- who waits

    @property
    def since(self) -> Instant | None:
        """When the first of those that wait began to; None: nobody does."""
        firsts = (next(iter(account.waiting)).since for account in self._crowded)
        return min((since for since in firsts if since is not None), default=None)

    def wait(self, share: Share[Owner], now: Instant) -> None:
        if share.since is None:
            share.since = now
            share.account.waiting[share] = None
            self._crowded[share.account] = None
            self.waiting += 1

    def leave(self, share: Share[Owner]) -> None:
        """It does not wait, or not any more."""
        if share.since is not None:
            share.since = None
            del share.account.waiting[share]
            self.waiting -= 1
            if not share.account.waiting:
                del self._crowded[share.account]

    def turn(self, most: int | None = None) -> Sequence[Owner]:
        """Those that may have a portion now, each once, in their order; they wait no more."""
        granted = list(islice(chain(self._with_nothing(), self._around()), most))
        for share in granted:
            self.leave(share)
        return [share.owner for share in granted]

    def _with_nothing(self) -> Iterator[Share[Owner]]:
        """By rule 2."""
        if self.limits.floor:
            for account in self._crowded:
                yield from (share for share in account.waiting if not share.octets)

    def _around(self) -> Iterator[Share[Owner]]:
        """By rule 3; what is granted counts as kept, until the turn is over."""
        limits, portion = self.limits, self.limits.portion
        line = deque(
            (account, iter(tuple(account.waiting)), account.octets) for account in self._crowded
        )
        in_all = self.octets
        while line and in_all + portion <= limits.in_all:
            account, waiting, octets = line.popleft()
            if octets + portion > limits.per_session:
                continue
            for share in waiting:
                if (share.octets or not limits.floor) and (
                    share.octets + portion <= limits.per_stream
                ):
                    in_all += portion
                    line.append((account, waiting, octets + portion))
                    # Whoever had something goes last in the next turn.
                    del self._crowded[account]
                    self._crowded[account] = None
                    yield share
                    break
