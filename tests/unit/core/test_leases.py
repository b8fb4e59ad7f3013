"""Who gets which virtual address: cases, then a random life of a server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orchestrator.core.leases import (
    Accept,
    Lease,
    Reassign,
    Refusal,
    Refuse,
    decide,
    fits,
    free,
    names_many,
    next_free,
    overruled,
)
from orchestrator.core.quantities import IPAddress, IPNetwork


@dataclass(frozen=True)
class Plan:
    pools: tuple[IPNetwork, ...] = (ip_network("10.99.0.0/29"), ip_network("fd00:99::/64"))
    static: Mapping[str, tuple[IPAddress, ...]] = field(default_factory=dict)


def vips(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(ip_address(text) for text in texts)


def lease(identity: str, *texts: str) -> Lease:
    return Lease(identity, vips(*texts))


PLAN = Plan()
FIXED = Plan(static={"truck": vips("10.99.0.3", "fd00:99::7")})


def test_free_is_what_may_be_given_and_belongs_to_nobody() -> None:
    small, large = PLAN.pools
    assert free(small, PLAN, ()) == 5, "of eight: no network, router or broadcast address"
    assert free(large, PLAN, ()) == 2**64 - 2
    held = [lease("a", "10.99.0.2", "fd00:99::2"), lease("moved", "10.98.0.2")]
    assert free(small, PLAN, held) == 4
    assert free(small, FIXED, held) == 3
    assert free(small, FIXED, [lease("truck", "10.99.0.3")]) == 4


class TestNewcomers:
    def test_may_use_the_free_address_they_were_offered(self) -> None:
        assert decide(PLAN, (), "a", vips("10.99.0.4")) == Accept(vips("10.99.0.4"), fresh=True)

    def test_may_have_one_of_each_family(self) -> None:
        decision = decide(PLAN, (), "a", vips("fd00:99::5", "10.99.0.4"))
        assert decision == Accept(vips("10.99.0.4", "fd00:99::5"), fresh=True)

    def test_do_not_get_what_is_leased_to_somebody_absent(self) -> None:
        decision = decide(PLAN, [lease("b", "10.99.0.2")], "a", vips("10.99.0.2"))
        assert decision == Reassign(vips("10.99.0.3"))

    def test_do_not_get_what_is_fixed_for_somebody_who_never_came(self) -> None:
        decision = decide(FIXED, [lease("b", "10.99.0.2")], "a", vips("10.99.0.3"))
        assert decision == Reassign(vips("10.99.0.4"))

    def test_do_not_get_addresses_outside_the_pools(self) -> None:
        assert decide(PLAN, (), "a", vips("10.98.0.2")) == Reassign(vips("10.99.0.2"))

    def test_do_not_get_network_router_or_broadcast_address(self) -> None:
        for text in ("10.99.0.0", "10.99.0.1", "10.99.0.7", "fd00:99::", "fd00:99::1"):
            assert isinstance(decide(PLAN, (), "a", vips(text)), Reassign), text

    def test_do_not_get_two_addresses_of_one_family(self) -> None:
        decision = decide(PLAN, (), "a", vips("10.99.0.2", "10.99.0.3"))
        assert decision == Reassign(vips("10.99.0.2"))

    def test_are_told_what_they_may_have_when_they_offer_nothing(self) -> None:
        assert decide(PLAN, (), "a", ()) == Reassign(vips("10.99.0.2", "fd00:99::2"))

    def test_are_refused_when_the_pool_is_exhausted(self) -> None:
        plan = Plan(pools=(ip_network("10.99.0.0/29"),))
        full = [lease(f"e{last}", f"10.99.0.{last}") for last in range(2, 7)]
        assert next_free(plan.pools[0], plan, full) is None
        assert decide(plan, full, "a", vips("10.99.0.2")) == Refuse(Refusal.EXHAUSTED)
        assert decide(plan, full[1:], "a", vips("10.99.0.3")) == Reassign(vips("10.99.0.2"))


class TestKnown:
    LEASES = (lease("a", "10.99.0.4", "fd00:99::5"),)

    def test_keep_what_they_have(self) -> None:
        offered = vips("10.99.0.4", "fd00:99::5")
        assert decide(PLAN, self.LEASES, "a", offered) == Accept(offered, fresh=False)

    def test_may_use_one_family_and_keep_both(self) -> None:
        decision = decide(PLAN, self.LEASES, "a", vips("10.99.0.4"))
        assert decision == Accept(vips("10.99.0.4", "fd00:99::5"), fresh=False)

    def test_are_sent_back_to_their_own_addresses(self) -> None:
        decision = decide(PLAN, self.LEASES, "a", vips("10.99.0.2"))
        assert decision == Reassign(vips("10.99.0.4", "fd00:99::5"))

    def test_get_new_ones_when_the_operator_moved_the_pools(self) -> None:
        plan = Plan(pools=(ip_network("10.77.0.0/29"),))
        assert not fits(plan, self.LEASES[0])
        decision = decide(plan, self.LEASES, "a", vips("10.77.0.2"))
        assert decision == Accept(vips("10.77.0.2"), fresh=True)

    def test_get_new_ones_when_the_operator_fixed_theirs_for_somebody_else(self) -> None:
        before = [lease("a", "10.99.0.3")]
        assert not fits(FIXED, before[0])
        assert decide(FIXED, before, "a", vips("10.99.0.3")) == Reassign(vips("10.99.0.2"))


class TestFixed:
    def test_get_what_the_operator_fixed(self) -> None:
        offered = vips("10.99.0.3", "fd00:99::7")
        assert decide(FIXED, (), "truck", offered) == Accept(offered, fresh=True)
        known = [Lease("truck", offered, static=True)]
        assert decide(FIXED, known, "truck", offered) == Accept(offered, fresh=False)

    def test_are_sent_to_it_whatever_was_leased_to_them_before(self) -> None:
        before = [lease("truck", "10.99.0.5")]
        decision = decide(FIXED, before, "truck", vips("10.99.0.5"))
        assert decision == Reassign(vips("10.99.0.3", "fd00:99::7"))

    def test_an_identity_is_one(self) -> None:
        one = (
            "carol@example.org",
            "C=CH, O=Ex, CN=carol",
            "10.0.0.1",
            "fd00::1",
            "dead-beef.x",
        )
        many = ("*@example.org", "%any", "C=*, O=*", "10.0.0.0/8", "10.0.0.1-10.0.0.9", "::/0")
        assert [name for name in one if names_many(name)] == []
        assert [name for name in many if not names_many(name)] == []

    def test_overrule_whoever_has_them(self) -> None:
        assert overruled(FIXED, lease("b", "10.99.0.3"))
        assert overruled(FIXED, lease("b", "10.99.0.2", "fd00:99::7"))
        assert not overruled(FIXED, lease("b", "10.99.0.2"))
        assert not overruled(FIXED, lease("truck", "10.99.0.3"))

    def test_wait_while_somebody_else_still_has_it(self) -> None:
        before = [lease("a", "10.99.0.3")]
        decision = decide(FIXED, before, "truck", vips("10.99.0.3"))
        assert decision == Refuse(Refusal.TAKEN)


IDENTITIES = st.sampled_from(["a", "b", "c", "d", "truck", "cart"])
OFFERS = st.lists(
    st.sampled_from(
        [
            *(ip_network("10.99.0.0/29")),
            *(ip_address(f"fd00:99::{last}") for last in range(4)),
            ip_address("10.98.0.2"),
        ]
    ),
    max_size=3,
)


@settings(max_examples=100, stateful_step_count=30, deadline=None)
class LifeOfAServer(RuleBasedStateMachine):
    """Endpoints come, offer what they like, follow or ignore what they are told; leases go."""

    plan = Plan(
        pools=(ip_network("10.99.0.0/29"), ip_network("fd00:99::/64")),
        static={"truck": vips("10.99.0.3", "fd00:99::2"), "cart": vips("10.99.0.5")},
    )

    def __init__(self) -> None:
        super().__init__()
        self.leases: dict[str, Lease] = {}

    @rule(identity=IDENTITIES, offered=OFFERS, obedient=st.booleans())
    def comes(self, identity: str, offered: list[IPAddress], obedient: bool) -> None:
        before = self.leases.get(identity)
        decision = decide(self.plan, self.leases.values(), identity, offered)
        assert decision == decide(self.plan, self.leases.values(), identity, offered)
        match decision:
            case Accept(given, fresh):
                assert set(offered) <= set(given)
                assert fresh == (before is None)
                assert before is None or set(before.vips) == set(given)
                self.leases[identity] = Lease(identity, given)
            case Reassign(given) if obedient:
                again = decide(self.plan, self.leases.values(), identity, given)
                assert isinstance(again, Accept)
                self.comes(identity, list(given), obedient=True)
            case Reassign(given):
                assert given

    @rule(identity=IDENTITIES)
    def lease_ends(self, identity: str) -> None:
        self.leases.pop(identity, None)

    @invariant()
    def no_address_has_two_owners(self) -> None:
        given = [vip for each in self.leases.values() for vip in each.vips]
        assert len(given) == len(set(given))

    @invariant()
    def fixed_addresses_belong_to_nobody_else(self) -> None:
        for identity, fixed in self.plan.static.items():
            for other in self.leases.values():
                assert other.identity == identity or set(other.vips).isdisjoint(fixed)

    @invariant()
    def every_lease_lies_in_a_pool_off_its_reserved_ends(self) -> None:
        for each in self.leases.values():
            assert fits(self.plan, each)
            for vip in each.vips:
                pool = next(pool for pool in self.plan.pools if vip in pool)
                assert vip not in (pool[0], pool[1])
                assert pool.version == 6 or vip != pool[-1]

    @invariant()
    def next_free_is_the_lowest_that_nobody_has(self) -> None:
        pool = self.plan.pools[0]
        owned = {vip for each in self.leases.values() for vip in each.vips}
        owned |= {vip for fixed in self.plan.static.values() for vip in fixed}
        free = [vip for vip in list(pool)[2:-1] if vip not in owned]
        assert next_free(pool, self.plan, self.leases.values()) == (free[0] if free else None)


TestLifeOfAServer = LifeOfAServer.TestCase
