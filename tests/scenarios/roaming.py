"""Random roams: what happens to an endpoint's links, as values, made of a seed. Pure.

The rules, each with the function that keeps it:

1. The same seed makes the same roams, on any machine (`roams`).
2. Each is possible where the ones before it have led (`Whereabouts`): nobody loses a link that
   they are not on, and one link at least stays, or returns within the roam.
3. All of them take the time that they are given, pauses and outages included (`roams`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Final

LINKS: Final = ("wifi", "wifi2", "lte")
ADDRESSES: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "wifi": (("192.168.10.2",), ("192.168.10.3",)),
    "wifi2": (("192.0.2.130",), ("192.0.2.131",)),
    "lte": (
        ("100.64.0.2", "2001:db8:64::2"),
        ("100.64.0.3", "2001:db8:64::3"),
        ("100.64.0.2",),
        ("2001:db8:64::2",),
    ),
}
"""What each network may give, first what it gives to whoever comes."""
BOTH_FAMILIES: Final = 2
"""So many of LTE's have both, the others one alone."""
BEHIND_NAT: Final = ("wifi",)
SHORTEST: Final = 0.2
"""Seconds from one roam to the next: less than any of them needs to be over."""
OUTAGES: Final = (0.3, 2.5)
"""Seconds that a link stays away, or silent: above and below what a path is believed."""
FLAPS: Final = (2, 4)
FLAP: Final = 0.15
"""Seconds without the link, and as many with it."""


class Kind(StrEnum):
    BREAK = "break before make on another link"
    JOIN = "another link comes"
    LEAVE = "one of several links goes"
    PLANNED = "asked for on another link"
    ADDRESS = "another address on the same link"
    FAMILY = "the other address family"
    FLAP = "the link flaps"
    RETURN = "away, and back at the same place"
    SILENCE = "the link drops everything for a while"
    REBIND = "the NAT forgets its mappings"


@dataclass(frozen=True, slots=True)
class Roam:
    kind: Kind
    link: str
    addresses: tuple[str, ...] = ()
    """What the link has from now on; empty: what it has, or nothing."""
    lasts: float = 0.0
    """Seconds without the link."""
    times: int = 1
    """A flap: how often."""
    pause: float = 0.0
    """Seconds after it, until the next."""

    @property
    def seconds(self) -> float:
        return (
            self.pause + self.lasts + (2 * FLAP * self.times if self.kind is Kind.FLAP else 0)
        )

    def __str__(self) -> str:
        return f"{self.link}: {self.kind}"


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """The links that the endpoint is on, and what it has there."""

    on: Mapping[str, tuple[str, ...]]

    def possible(self) -> Iterator[Roam]:
        """Rule 2: every roam that makes sense here, without its times."""
        for link in LINKS:
            if link not in self.on:
                yield Roam(Kind.BREAK, link, ADDRESSES[link][0])
                yield Roam(Kind.JOIN, link, ADDRESSES[link][0])
                continue
            if len(self.on) > 1:
                yield Roam(Kind.LEAVE, link)
                yield Roam(Kind.PLANNED, link)
            for kind in (Kind.FLAP, Kind.RETURN, Kind.SILENCE):
                yield Roam(kind, link)
            if link in BEHIND_NAT:
                yield Roam(Kind.REBIND, link)
            for number, addresses in enumerate(ADDRESSES[link]):
                if addresses != self.on[link]:
                    family = number >= BOTH_FAMILIES
                    yield Roam(Kind.FAMILY if family else Kind.ADDRESS, link, addresses)

    def after(self, roam: Roam) -> "Whereabouts":
        match roam.kind:
            case Kind.BREAK:
                return Whereabouts({roam.link: roam.addresses})
            case Kind.LEAVE:
                return Whereabouts({k: v for k, v in self.on.items() if k != roam.link})
            case _ if roam.addresses:
                return Whereabouts({**self.on, roam.link: roam.addresses})
        return self


HOME: Final = Whereabouts({"wifi": ADDRESSES["wifi"][0]})


def roams(seed: int, count: int, seconds: float, start: Whereabouts = HOME) -> tuple[Roam, ...]:
    """So many, which take so long. Raises ValueError if that is too short."""
    random = Random(seed)
    chosen: list[Roam] = []
    where = start
    for _ in range(count):
        possible = list(where.possible())
        kind = random.choice(sorted({roam.kind for roam in possible}))
        roam = random.choice([roam for roam in possible if roam.kind is kind])
        if kind in (Kind.RETURN, Kind.SILENCE):
            roam = replace(roam, lasts=round(random.uniform(*OUTAGES), 2))
        if kind is Kind.FLAP:
            roam = replace(roam, times=random.randint(*FLAPS))
        chosen.append(roam)
        where = where.after(roam)
    spare = seconds - sum(roam.seconds for roam in chosen) - count * SHORTEST
    if spare < 0:
        raise ValueError(f"{count} roams with seed {seed} take more than {seconds:g} s")
    shares = [random.expovariate(1) for _ in chosen]
    return tuple(
        replace(roam, pause=SHORTEST + spare * share / sum(shares))
        for roam, share in zip(chosen, shares, strict=True)
    )
