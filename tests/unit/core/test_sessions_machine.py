"""One server and three endpoints that do what they like: the rules of `server_stories` hold.

News comes at any time, true, late, doubled and stray; a lease may change hands; two endpoints
may choose the same SPI. At the end every endpoint negotiates, probes, and has to be attached.
"""

from dataclasses import replace
from typing import Final

from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from orchestrator.core.absence import Patience, SessionPolicy, SessionState
from orchestrator.core.ike import (
    CharonGone,
    CharonUp,
    IkeDown,
    IkeMoved,
    IkeRekeyed,
    Tunnel,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.quantities import IPAddress, Reqid, Seconds, Spi, UniqueId
from orchestrator.core.session import Session
from orchestrator.core.session_events import (
    Heard,
    HeardWarm,
    MappingChanged,
    StateMoved,
    Tick,
)
from tests.unit.core.builders import LTE, VIP4, VIP6, WIFI, WIFI2, Place
from tests.unit.core.server_stories import POLICY, ServerStory, from_endpoint, ways

NAMES: Final = ("anna", "bert", "carla")
VIPS: Final[dict[str, tuple[IPAddress, ...]]] = {
    "anna": (VIP4, VIP6),
    "bert": (VIP4 + 1,),
    "carla": (VIP4 + 2,),
}
REQIDS: Final = {"anna": Reqid(1), "bert": Reqid(2), "carla": Reqid(3)}
names = strategies.sampled_from(NAMES)
places = strategies.sampled_from((WIFI, WIFI2, LTE))
choice = strategies.integers(0, 20)
policies = strategies.sampled_from(
    (
        POLICY,
        SessionPolicy(patience=Patience(None, None)),
        SessionPolicy(
            patience=Patience(Seconds(60), Seconds(600)),
            of_identity={"bert": Patience(Seconds(1), Seconds(2))},
        ),
        SessionPolicy(patience=Patience(Seconds(60), Seconds(20)), most=2),
        SessionPolicy(most=2, evict=True),
        SessionPolicy(patience=Patience(None, Seconds(900)), most=1, evict=True),
    )
)
flips = strategies.sampled_from((0, 1, 2, 3, 2**31, 2**31 + 1, 2**32 - 1))


class ServerInAnyWorld(RuleBasedStateMachine):
    @initialize(remembered=strategies.sets(names), policy=policies)
    def begin(self, remembered: set[str], policy: SessionPolicy) -> None:
        self.policy = policy
        self.story = ServerStory(policy)
        self.number = 0
        self.owners = dict(VIPS)
        """Which virtual addresses each identity's lease has now."""
        self.gone: list[Tunnel] = []
        for name in sorted(remembered)[: policy.most]:
            self.story.remembers(VIPS[name], name)

    @rule(policy=policies)
    def the_operator_changes_the_policy(self, policy: SessionPolicy) -> None:
        self.policy = policy
        self.story.is_configured(policy)

    # Tunnels

    @rule(name=names, place=places, adopted=strategies.booleans())
    def a_tunnel_is_admitted(self, name: str, place: Place, *, adopted: bool) -> None:
        fresh = self._negotiated(name, place)
        self.story.admits(fresh, self.owners[name], name, adopted=adopted)

    @rule(name=names, place=places, which=choice)
    def a_tunnel_is_admitted_whose_spi_another_has(
        self, name: str, place: Place, which: int
    ) -> None:
        other = self._one(which)
        if other is None or other.reqid == REQIDS[name]:
            return
        spi = other.spi_in if which % 2 else other.spi_out
        session = self.story.machine.by_identity.get(name)
        if session is not None and any(spi == own.spi_out for own in session.tunnels):
            return  # the kernel has no two SAs with one SPI to one address
        fresh = replace(self._negotiated(name, place), spi_out=spi)
        self.story.admits(fresh, self.owners[name], name)

    @rule(which=choice)
    def a_tunnel_is_admitted_twice(self, which: int) -> None:
        known = self._one(which)
        name = self._owner(known)
        if known is not None and name is not None:
            self.story.admits(known, self.owners[name], name)

    @rule(which=choice)
    def a_tunnel_ends(self, which: int) -> None:
        ended = self._one(which)
        if ended is not None:
            self.gone.append(ended)
            event = TunnelDown(ended.ike, ended.child) if which % 2 else IkeDown(ended.ike)
            self.story.hears(event)

    @precondition(lambda self: self.gone)
    @rule(which=choice)
    def a_tunnel_ends_again(self, which: int) -> None:
        ended = self.gone[which % len(self.gone)]
        if ended.ike not in self.story.in_charon:
            self.story.hears(TunnelDown(ended.ike, ended.child))
            self.story.hears(IkeDown(ended.ike))
            self.story.hears(TunnelRekeyed(ended.child, ended))
            self.story.hears(IkeMoved(ended.ike, ended.local, 4500, ended.remote, 4500))

    @rule(which=choice, unsent=strategies.booleans())
    def a_child_sa_is_rekeyed(self, which: int, *, unsent: bool) -> None:
        old = self._one(which)
        if old is None:
            return
        self.number += 1
        fresh = replace(
            old,
            child=UniqueId(2000 + self.number),
            spi_in=Spi(0x7000_0000 + self.number),
            spi_out=Spi(0x7100_0000 + self.number),
        )
        if which % 3 == 0:  # both sides did, and the endpoint lost
            lost = replace(
                fresh,
                child=UniqueId(5000 + self.number),
                spi_in=Spi(0x7200_0000 + self.number),
                spi_out=Spi(0x7300_0000 + self.number),
            )
            self.story.hears(TunnelRekeyed(old.child, lost, unsent=True))
        self.story.hears(TunnelRekeyed(old.child, fresh, unsent=unsent))

    @rule(which=choice)
    def the_outbound_sa_of_a_rekeying_comes(self, which: int) -> None:
        tunnel = self._one(which)
        if tunnel is not None:
            self.story.sa_moved(tunnel, str(tunnel.remote))

    @rule(which=choice)
    def an_ike_sa_is_rekeyed(self, which: int) -> None:
        old = self._one(which)
        if old is not None:
            self.number += 1
            self.story.hears(IkeRekeyed(old.ike, UniqueId(3000 + self.number)))

    @rule(vici_only=strategies.booleans())
    def charon_goes_and_returns(self, *, vici_only: bool) -> None:
        listed = [] if vici_only is False else list(self._owned())
        self.story.hears(CharonGone("for a reason"))
        self.story.hears(CharonUp("5.9.8", tuple(tunnel for _, tunnel in listed)))
        for name, tunnel in listed:
            self.story.admits(tunnel, self.owners[name], name, adopted=True)
        if not vici_only:
            self.number = 0  # it counts from 1 again

    @rule(place=places)
    def a_tunnel_without_a_lease_is_told_of(self, place: Place) -> None:
        self.story.hears(TunnelUp(from_endpoint(place, 9000)))

    # Endpoints

    @rule(name=names, which=choice, flip=flips)
    def a_probe_comes(self, name: str, which: int, flip: int) -> None:
        named = self._one(which)
        for vip in self.owners[name][:1]:
            spi = Spi(1) if named is None else named.spi_out
            said = self.story.hears(Heard(vip, flip, spi))
            session = self.story.machine.session_of_vip(vip)
            active = session.active if session else None
            in_use = active is not None and active.spi_out == spi
            assert said[-1:] == (["answer"] if in_use else []), "or over another way"

    @rule(name=names, which=choice, flip=flips, sequence=flips)
    def an_endpoint_says_that_it_sleeps(
        self, name: str, which: int, flip: int, sequence: int
    ) -> None:
        named = self._one(which)
        for vip in self.owners[name][:1]:
            session = self.story.machine.session_of_vip(vip)
            spi = Spi(1) if named is None else named.spi_out
            said = self.story.hears(Heard(vip, flip, spi, sequence, asleep=True))
            if said and session is not None:
                assert session.state is SessionState.ASLEEP

    @rule(name=names, which=choice, flip=flips, carries=strategies.booleans())
    def an_endpoint_asks_whether_a_tunnel_works(
        self, name: str, which: int, flip: int, *, carries: bool
    ) -> None:
        """Whatever it says, nothing but the ways of answers and of its flows changes."""
        named = self._one(which)
        for vip in self.owners[name][:1]:
            session = self.story.machine.session_of_vip(vip)
            before = None if session is None else self._decided(session)
            spi = Spi(1) if named is None else named.spi_out
            said = self.story.hears(HeardWarm(vip, flip, spi, carries=carries))
            assert said[-1:] in ([], ["answer there"])
            told = [words for words in said if not words.startswith("carry")]
            assert len(said) - len(told) <= 1
            assert len(told) <= 3, "two ways at most, and the answer"
            own = session is not None and any(t.spi_out == spi for t in session.tunnels)
            assert own or not said
            assert before == (None if session is None else self._decided(session))

    @rule(which=choice, place=places, charon_follows=strategies.booleans())
    def an_endpoint_moves(self, which: int, place: Place, *, charon_follows: bool) -> None:
        moving = self._one(which)
        if moving is None:
            return
        self.story.hears(MappingChanged(moving.spi_in))
        if charon_follows:
            to = from_endpoint(place, 1).remote
            self.story.hears(IkeMoved(moving.ike, moving.local, 4500, to, 4500))
            self.story.sa_moved(moving, str(to))

    @rule(which=choice, place=places)
    def an_sa_is_rewritten_late(self, which: int, place: Place) -> None:
        moved = self._one(which)
        if moved is not None:
            self.story.sa_moved(moved, str(from_endpoint(place, 1).remote))

    @rule(spi=strategies.integers(1, 3).map(Spi))
    def the_kernel_speaks_of_unknown_sas(self, spi: Spi) -> None:
        here = from_endpoint(WIFI, 1).local
        self.story.hears(MappingChanged(spi))
        self.story.hears(StateMoved(spi, here, here, Reqid(spi)))

    # Leases and time

    @rule(heir=names, former=names)
    def a_lease_changes_hands(self, heir: str, former: str) -> None:
        self.owners[heir], self.owners[former] = self.owners[former], self.owners[heir]

    @rule(seconds=strategies.sampled_from((0.01, 0.3, 1.5, 4.0, 30.0, 700.0)))
    def time_goes_by(self, seconds: float) -> None:
        self.story.waits(seconds)

    @rule()
    def a_tick_comes_early(self) -> None:
        self.story.hears(Tick())

    def teardown(self) -> None:
        """Whoever negotiates and probes is attached where it says, and hears an answer."""
        if not hasattr(self, "story"):
            return
        for name in NAMES:
            self._comes_home(name)
        self.story.waits(Seconds(20))
        for session in tuple(self.story.machine.by_identity.values()):
            assert session.state is not SessionState.ATTACHED
        self.story.waits(Seconds(2000))
        for name, session in self.story.machine.by_identity.items():
            patience = self.policy.patience_with(name)
            assert patience.expire_after is None
            sleeps = patience.asleep_after is not None
            assert not sleeps or session.state is SessionState.ASLEEP
        assert self.story.machine.deadline() is None

    def _comes_home(self, name: str) -> None:
        others = [s for n, s in self.story.machine.by_identity.items() if n != name]
        absent = any(session.state is not SessionState.ATTACHED for session in others)
        admissible = len(others) < self.policy.most or (self.policy.evict and absent)
        admissible = admissible or name in self.story.machine.by_identity
        self.story.admits(self._negotiated(name, LTE), self.owners[name], name)
        assert (name in self.story.machine.by_identity) == admissible
        if name not in self.story.machine.by_identity:
            return
        session = self.story.session(name)
        assert session.vips == self.owners[name]
        flip = 0 if session.flip is None else (session.flip + 1) % 2**32
        fresh = session.tunnels[-1]
        said = self.story.hears(Heard(session.vips[0], flip, fresh.spi_out))
        assert said[-1] == "answer"
        assert session.active == fresh
        assert session.state is SessionState.ATTACHED

    # Small things

    def _decided(self, session: Session) -> tuple[object, ...]:
        return (
            session.state,
            session.active,
            session.flip,
            session.sequence,
            session.awaited,
            session.following,
            session.since,
            session.left,
            session.roams,
            tuple(session.tunnels),
            ways(session.objects()),
        )

    def _negotiated(self, name: str, place: Place) -> Tunnel:
        self.number += 1
        fresh = from_endpoint(place, self.number, self.owners[name], REQIDS[name])
        return replace(fresh, remote_id=name)

    def _owned(self) -> list[tuple[str, Tunnel]]:
        sessions = self.story.machine.by_identity.items()
        return [(name, tunnel) for name, session in sessions for tunnel in session.tunnels]

    def _one(self, which: int) -> Tunnel | None:
        owned = self._owned()
        return owned[which % len(owned)][1] if owned else None

    def _owner(self, wanted: Tunnel | None) -> str | None:
        return next((name for name, tunnel in self._owned() if tunnel == wanted), None)


TestServerInAnyWorld = ServerInAnyWorld.TestCase
