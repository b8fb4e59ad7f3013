"""Where the server is, as seen from each link: by its names, by its addresses, through NAT64.

What a name means is asked over every link by itself, for it may mean something else there, or
nothing. The rules, each with the method that keeps it:

1. Each name is asked over each link that has a way out, for addresses of both families. A
   network with IPv6 is also asked for its NAT64 prefixes (RFC 7050), where they could be needed
   (`network`).
2. A network that is entered, or changes, is asked at once, whatever is known. When none of the
   addresses that we had on a link is left, it is another network: what was learned there is
   forgotten, and so is an answer that comes after that (`_enter`, `answered`).
3. An answer is good for its time to live, within bounds; then it is asked again. The bound is
   closer while nothing works, and farther while the way in use is good: it does not stop being
   good because a name may mean something else by now (`_due`).
4. What was answered stays behind what is answered last, so many addresses for each name, while
   nobody answers and beyond restarts (RFC 8767) (`_remember`).
5. No answer at all is asked for again after a growing pause (`_due`).
6. An IPv6 address under a prefix of the network stands for an IPv4 address, and is that address
   everywhere else. Nothing is remembered of a network before its prefixes are known, or known
   not to be: its translations would be taken for the server's own addresses (`_native`).
7. Where a link has no way out for IPv4, the network's translations of IPv4 addresses come
   behind the addresses themselves (`_seen_from`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

from orchestrator.core.nat64 import ASKED_NAME, extract, prefixes, synthesize
from orchestrator.core.network import Gateway, Snapshot
from orchestrator.core.paths import LinkChoice, Servers, ways_out
from orchestrator.core.quantities import Instant, IPAddress, LinkIndex, Seconds

KEPT: Final = 8
"""Addresses of a name: more than any operator gives it, and few enough to try them all."""
LONGEST: Final = Seconds(3600.0)
"""A server that moves is found within the hour, whatever its zone says."""
SHORTEST: Final = Seconds(300.0)
"""While something works: four questions over two links are 10 kB an hour then."""
SHORTEST_WITHOUT: Final = Seconds(10.0)
"""While nothing works. Resolvers answer for such a time out of their own memory."""
PAUSE_MIN: Final = Seconds(1.0)
"""DHCP may name the resolvers a moment after the address has come."""
PAUSE_MAX: Final = Seconds(60.0)
_DOUBLINGS: Final = 6


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    version: int
    """Of the addresses that are wanted."""


@dataclass(frozen=True, slots=True)
class Question:
    """To be asked over this link, from these addresses of ours, and no other way."""

    topic: Topic
    link: LinkIndex
    link_name: str
    pops: tuple[IPAddress, ...]
    visit: int
    """Which of our stays in a network it belongs to."""


@dataclass(frozen=True, slots=True)
class Answer:
    addresses: tuple[IPAddress, ...]
    """Empty: the name has none of this family, or is not there."""
    lives: Seconds
    """The time to live: how long it is good."""


@dataclass(slots=True)
class _Known:
    """What came of one question in one network."""

    since: Instant
    """Of the latest outcome, or of our coming here."""
    answer: Answer | None = None
    asking: bool = False
    asked: bool = False
    """Since we came here, or it changed here."""
    failures: int = 0
    """In a row."""


@dataclass(slots=True)
class _Network:
    """One that a link leads to, or led to."""

    name: str
    visit: int
    pops: tuple[IPAddress, ...] = ()
    gateways: frozenset[Gateway] = frozenset()
    here: bool = True
    """Whether the link has a way out now."""
    known: dict[Topic, _Known] = field(default_factory=dict)

    def is_as(self, seen: "_Network") -> bool:
        """Whether nothing is new about it."""
        return self.here and (self.pops, self.gateways) == (seen.pops, seen.gateways)

    def speaks(self, version: int) -> bool:
        return any(pop.version == version for pop in self.pops)


_PREFIXES: Final = Topic(ASKED_NAME, 6)


class Lookups:
    """Those of one endpoint; `begin` says what to ask, `servers` what is known."""

    def __init__(
        self,
        addresses: Sequence[IPAddress],
        names: Sequence[str],
        choice: LinkChoice,
        remembered: Mapping[str, tuple[IPAddress, ...]],
    ) -> None:
        """`remembered` is of an earlier run."""
        self.remembered = {name: remembered.get(name, ())[:KEPT] for name in names}
        """What each name meant, last answers first: for starts without a network."""
        self._addresses = tuple(addresses)
        self._names = tuple(names)
        self._choice = choice
        self._networks: dict[LinkIndex, _Network] = {}
        self._visits = 0

    @property
    def servers(self) -> Servers:
        remembered = (a for name in self._names for a in self.remembered[name])
        everywhere = _first((*self._addresses, *remembered))
        on = {
            link: _first(self._seen_from(network))
            for link, network in self._networks.items()
            if network.here
        }
        return Servers(everywhere, {k: v for k, v in on.items() if v != everywhere})

    # The network

    def network(self, snapshot: Snapshot, vips: Iterable[IPAddress], now: Instant) -> None:
        """Rules 1 and 2."""
        for gone in self._networks.keys() - {link.index for link in snapshot.links}:
            del self._networks[gone]
        found: dict[LinkIndex, _Network] = {}
        for link, pop, gateway in ways_out(snapshot, self._choice, frozenset(vips)):
            seen = found.setdefault(link.index, _Network(link.name, self._visits + 1))
            seen.pops += (pop,)
            seen.gateways |= {gateway}
        for index, seen in found.items():
            self._enter(index, seen, now)
        for index, network in self._networks.items():
            network.here = index in found

    def _enter(self, index: LinkIndex, seen: _Network, now: Instant) -> None:
        before = self._networks.get(index)
        if before is not None and before.is_as(seen):
            return
        same = before is not None and not set(before.pops).isdisjoint(seen.pops)
        if before is None or not same:
            self._visits += 1
            before = seen
        seen.visit = before.visit
        for topic in self._topics(seen):
            known = before.known.get(topic, _Known(now))
            if not known.asking:
                known = _Known(now, known.answer)
            seen.known[topic] = known
        self._networks[index] = seen

    def _topics(self, network: _Network) -> Iterator[Topic]:
        needed = any(address.version == 4 for address in self._addresses)
        if network.speaks(6) and (self._names or (needed and not network.speaks(4))):
            yield _PREFIXES
        for name in self._names:
            yield Topic(name, 6)
            yield Topic(name, 4)

    # Questions and answers

    def begin(self, now: Instant, *, works: bool) -> tuple[Question, ...]:
        """What is due, which counts as being asked from now on. `works`: whether the server is
        reached in some way."""
        due: list[Question] = []
        for index, network in self._networks.items():
            for topic, known in network.known.items() if network.here else ():
                at = _due(known, works=works)
                if at is not None and at <= now:
                    known.asking = True
                    due.append(
                        Question(topic, index, network.name, network.pops, network.visit)
                    )
        return tuple(due)

    def deadline(self, *, works: bool) -> Instant | None:
        """When `begin` has something; None: never, as things are."""
        times = (
            _due(known, works=works)
            for network in self._networks.values()
            if network.here
            for known in network.known.values()
        )
        return min((at for at in times if at is not None), default=None)

    def answered(self, question: Question, answer: Answer | None, now: Instant) -> None:
        """`answer` None: nobody gave one."""
        network = self._networks.get(question.link)
        if network is None or network.visit != question.visit:
            return
        known = network.known.get(question.topic)
        if known is None or not known.asking:
            return
        known.since, known.asking, known.asked = now, False, True
        if answer is None:
            known.failures += 1
            return
        known.failures = 0
        known.answer = Answer(answer.addresses[:KEPT], answer.lives)
        self._remember()

    def _remember(self) -> None:
        for name in self._names:
            answered = (
                _native(network, address)
                for network in self._networks.values()
                if _prefixes_are_settled(network)
                for address in _answers(network, name)
            )
            self.remembered[name] = _first((*answered, *self.remembered[name]))[:KEPT]

    # What it means

    def _seen_from(self, network: _Network) -> Iterator[IPAddress]:
        """Rule 7."""
        own = [
            *self._addresses,
            *(
                _native(network, address)
                for name in self._names
                for address in (*_answers(network, name), *self.remembered[name])
            ),
        ]
        yield from own
        if not network.speaks(4):
            for address in own:
                yield from _translations(network, address)


def _due(known: _Known, *, works: bool) -> Instant | None:
    """Rules 3 and 5."""
    if known.asking:
        return None
    if not known.asked:
        return known.since
    if known.failures:
        pause = PAUSE_MIN * 2 ** min(known.failures - 1, _DOUBLINGS)
        return Instant(known.since + min(pause, PAUSE_MAX))
    lives = known.answer.lives if known.answer is not None else PAUSE_MAX
    least = SHORTEST if works else SHORTEST_WITHOUT
    return Instant(known.since + min(max(lives, least), LONGEST))


def _answers(network: _Network, name: str) -> Iterator[IPAddress]:
    """IPv6 first: there is no translation in its way, or one that the network prefers."""
    for version in (6, 4):
        known = network.known.get(Topic(name, version))
        if known is not None and known.answer is not None:
            yield from known.answer.addresses


def _prefixes_are_settled(network: _Network) -> bool:
    known = network.known.get(_PREFIXES)
    return known is None or known.answer is not None


def _prefixes_of(network: _Network) -> tuple[IPv6Network, ...]:
    known = network.known.get(_PREFIXES)
    if known is None or known.answer is None:
        return ()
    return prefixes(a for a in known.answer.addresses if isinstance(a, IPv6Address))


def _native(network: _Network, address: IPAddress) -> IPAddress:
    """Rule 6: the server's own address."""
    if isinstance(address, IPv6Address):
        for prefix in _prefixes_of(network):
            inside = extract(prefix, address)
            if inside is not None:
                return inside
    return address


def _translations(network: _Network, address: IPAddress) -> Iterator[IPAddress]:
    if isinstance(address, IPv4Address):
        for prefix in _prefixes_of(network):
            whole = synthesize(prefix, address)
            if whole is not None:
                yield whole


def _first(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """Each where it stands first."""
    return tuple(dict.fromkeys(addresses))
