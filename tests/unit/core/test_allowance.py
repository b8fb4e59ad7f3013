"""How much may be kept, who goes on when there is room: dialogues, and any order of events."""

from collections import Counter

import pytest
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.core.allowance import Allowance, AllowanceLimits, Share, Shortage
from orchestrator.core.quantities import Instant

NOW = Instant(1.0)
PORTION = 4


def an_allowance(
    per_stream: int = 1000, per_session: int = 1000, in_all: int = 1000, *, floor: bool = False
) -> Allowance[str]:
    return Allowance(AllowanceLimits(PORTION, per_stream, per_session, in_all, floor=floor))


@pytest.mark.parametrize(
    ("limits", "shortage"),
    [
        ((8, 100, 100), Shortage.STREAM),
        ((100, 8, 100), Shortage.SESSION),
        ((100, 100, 8), Shortage.ALL),
    ],
)
def test_a_portion_that_does_not_fit_into_a_limit_is_refused(
    limits: tuple[int, int, int], shortage: Shortage
) -> None:
    allowance = an_allowance(*limits)
    share = allowance.open("anna", "a")
    allowance.take(share, 4)
    assert allowance.shortage(share) is None
    allowance.take(share, 1)
    assert allowance.shortage(share) is shortage


def test_with_a_floor_a_stream_that_has_nothing_may_always_have_a_portion() -> None:
    for floor in (False, True):
        allowance = an_allowance(in_all=4, floor=floor)
        asleep, awake = allowance.open("anna", "asleep"), allowance.open("bert", "awake")
        allowance.take(asleep, 4)
        assert allowance.shortage(asleep) is Shortage.ALL
        assert (allowance.shortage(awake) is None) is floor


def test_sessions_take_turns_whoever_has_more_streams() -> None:
    allowance = an_allowance(in_all=2 * PORTION)
    many = [allowance.open("anna", f"a{number}") for number in range(4)]
    one = allowance.open("bert", "b")
    full = allowance.open("carl", "c")
    allowance.take(full, 2 * PORTION)
    for share in (*many, one):
        allowance.wait(share, NOW)
    assert allowance.turn() == []
    allowance.give_back(full, 2 * PORTION)
    assert allowance.turn() == ["a0", "b"]
    assert allowance.waiting == 3
    assert allowance.turn() == ["a1", "a2"]


def test_who_had_a_portion_goes_last_in_the_next_turn() -> None:
    allowance = an_allowance(in_all=PORTION)
    for session in ("anna", "bert"):
        for number in (1, 2):
            allowance.wait(allowance.open(session, f"{session}{number}"), NOW)
    turns = [allowance.turn() for _ in range(4)]
    assert turns == [["anna1"], ["bert1"], ["anna2"], ["bert2"]]


def test_a_session_at_its_limit_does_not_stop_the_others() -> None:
    allowance = an_allowance(per_session=PORTION)
    for session in ("anna", "bert"):
        allowance.wait(allowance.open(session, f"{session}2"), NOW)
    full = allowance.open("anna", "anna1")
    allowance.take(full, 1)
    assert allowance.turn() == ["bert2"]


def test_says_since_when_somebody_waits() -> None:
    allowance = an_allowance()
    first, second = allowance.open("anna", "a"), allowance.open("bert", "b")
    assert allowance.waiting == 0
    allowance.wait(second, Instant(2.0))
    allowance.wait(first, Instant(3.0))
    allowance.wait(second, Instant(4.0))
    before = allowance.since
    allowance.leave(second)
    assert (before, allowance.since) == (Instant(2.0), Instant(3.0))
    allowance.close(first)
    assert (allowance.since, allowance.waiting) == (None, 0)


def test_what_left_unnoticed_is_found_before_anybody_is_refused() -> None:
    allowance = an_allowance(per_session=16)
    one, other = allowance.open("anna", "a"), allowance.open("anna", "b")
    allowance.take(one, 14)
    assert allowance.shortage(other) is Shortage.SESSION
    allowance.look(other, lambda _: 0)
    assert allowance.shortage(other) is None
    assert allowance.octets == 0


def test_a_look_at_everybody_is_not_worth_it_again_at_once() -> None:
    allowance = an_allowance(per_session=16)
    one, other = allowance.open("anna", "a"), allowance.open("anna", "b")
    allowance.take(one, 14)
    looked: Counter[str] = Counter()

    def kept(owner: str) -> int:
        looked[owner] += 1
        return 14 if owner == "a" else 0

    for _ in range(10):
        allowance.look(other, kept)
    assert looked == {"a": 1, "b": 10}


def test_limits_into_which_no_portion_fits_are_refused() -> None:
    with pytest.raises(ValueError, match="fits into no limit"):
        AllowanceLimits(PORTION, PORTION, PORTION, PORTION - 1, floor=True)


class KeepingWithinLimits(RuleBasedStateMachine):
    """Streams that read when they may, and are acknowledged unnoticed; any limits."""

    @initialize(
        per_stream=strategies.integers(PORTION, 12),
        per_session=strategies.integers(PORTION, 20),
        in_all=strategies.integers(PORTION, 40),
        floor=strategies.booleans(),
    )
    def begin(self, per_stream: int, per_session: int, in_all: int, floor: bool) -> None:
        self.limits = AllowanceLimits(PORTION, per_stream, per_session, in_all, floor)
        self.allowance = Allowance[int](self.limits)
        self.shares: dict[int, Share[int]] = {}
        self.kept: Counter[int] = Counter()
        self.session: dict[int, int] = {}
        self.serial = 0

    @rule(session=strategies.integers(0, 2))
    def opens(self, session: int) -> None:
        self.serial += 1
        self.shares[self.serial] = self.allowance.open(session, self.serial)
        self.session[self.serial] = session

    @rule(data=strategies.data())
    def closes(self, data: strategies.DataObject) -> None:
        if self.shares:
            owner = data.draw(strategies.sampled_from(sorted(self.shares)))
            self.allowance.close(self.shares.pop(owner))
            del self.kept[owner]

    @rule(data=strategies.data(), octets=strategies.integers(1, PORTION))
    def reads(self, data: strategies.DataObject, octets: int) -> None:
        if self.shares:
            self.read(data.draw(strategies.sampled_from(sorted(self.shares))), octets)

    def read(self, owner: int, octets: int) -> None:
        share = self.shares[owner]
        if self.allowance.shortage(share) is not None:
            self.allowance.look(share, self.kept.__getitem__)
        if self.allowance.shortage(share) is None:
            self.allowance.take(share, octets)
            self.kept[owner] += octets
        else:
            assert self.kept[owner] or not self.limits.floor, "starved"
            self.allowance.wait(share, NOW)

    @rule(data=strategies.data(), octets=strategies.integers(1, 20))
    def is_acknowledged(self, data: strategies.DataObject, octets: int) -> None:
        if self.shares:
            owner = data.draw(strategies.sampled_from(sorted(self.shares)))
            self.kept[owner] = max(0, self.kept[owner] - octets)

    @rule(octets=strategies.integers(1, PORTION))
    def turn(self, octets: int) -> None:
        self.allowance.look_around(self.kept.__getitem__)
        granted = self.allowance.turn()
        assert len(set(granted)) == len(granted)
        for owner in granted:
            assert self.shares[owner].since is None
            self.read(owner, octets)
            assert self.shares[owner].since is None, "granted what there was not"

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        if not hasattr(self, "limits"):
            return
        floors = PORTION if self.limits.floor else 0
        assert self.kept.total() <= self.limits.in_all + floors * len(self.shares)
        of_session = Counter[int]()
        streams = Counter(self.session[owner] for owner in self.shares)
        for owner, octets in self.kept.items():
            assert octets <= self.limits.per_stream
            of_session[self.session[owner]] += octets
        for session, octets in of_session.items():
            assert octets <= self.limits.per_session + floors * streams[session]

    @invariant()
    def it_counts_what_is_kept_or_more(self) -> None:
        if hasattr(self, "limits"):
            octets = [share.octets for share in self.shares.values()]
            assert sum(octets) == self.allowance.octets
            assert all(self.kept[o] <= share.octets for o, share in self.shares.items())
            waiting = sum(share.since is not None for share in self.shares.values())
            assert waiting == self.allowance.waiting

    def teardown(self) -> None:
        """When all is acknowledged, whoever waits goes on within a few turns."""
        if hasattr(self, "limits"):
            self.kept.clear()
            for _ in range(len(self.shares)):
                self.allowance.look_around(self.kept.__getitem__)
                self.allowance.turn()
            assert self.allowance.waiting == 0


TestKeepingWithinLimits = KeepingWithinLimits.TestCase
