"""The sessions that there are: who has which, how many there may be, when to look at whom.

1. A session is found by its identity, by each of its virtual addresses, and by what charon and
   the kernel call its tunnels (`core.tunnel_index`).
2. A virtual address has one session: whoever is given it has it, and nobody else (`give`).
3. There are no more sessions than may be; who has one keeps it (`has_room`).
4. One that is not attached is absent from the moment it left, and looked at when time alone
   makes another of it (`leaves`, `look_later`; `core.absence`).
"""

from collections.abc import Collection

from orchestrator.core.absence import Absent, SessionPolicy
from orchestrator.core.agenda import Agenda
from orchestrator.core.ike import Tunnel
from orchestrator.core.quantities import Instant, IPAddress
from orchestrator.core.session import Session
from orchestrator.core.tunnel_index import TunnelIndex


class Register:
    """Of one server."""

    def __init__(self, policy: SessionPolicy) -> None:
        self.policy = policy
        self.by_identity: dict[str, Session] = {}
        self.index = TunnelIndex()
        self.absent = Absent()
        self.agenda: Agenda[str] = Agenda()
        """When to look at which identity."""
        self._by_vip: dict[IPAddress, Session] = {}

    def of_vip(self, vip: IPAddress) -> Session | None:
        return self._by_vip.get(vip)

    def vips(self) -> Collection[IPAddress]:
        """Every virtual address that a session has."""
        return self._by_vip.keys()

    # Coming and going

    def open(self, identity: str, now: Instant) -> Session:
        """The session of this identity: a new one, without addresses, if there is none."""
        session = self.by_identity.get(identity)
        if session is None:
            session = Session(identity, (), now, now)
            self.by_identity[identity] = session
            self.leaves(session, now)
        return session

    def take_back(self, session: Session) -> None:
        """Its virtual addresses."""
        for vip in session.vips:
            self._by_vip.pop(vip, None)

    def give(self, vip: IPAddress, session: Session) -> Session | None:
        """Rule 2: it is this session's. Returns the one that has lost it."""
        former = self._by_vip.get(vip)
        self._by_vip[vip] = session
        if former is not None:
            former.vips = tuple(other for other in former.vips if other != vip)
        return former

    def close(self, session: Session) -> None:
        """It is no more, and has no tunnels."""
        tunnels, session.tunnels = session.tunnels, []
        for tunnel in tunnels:
            self.index.remove(session, tunnel)
        del self.by_identity[session.identity]
        for vip in session.vips:
            del self._by_vip[vip]
        self.absent.returned(session.identity)
        self.agenda.drop(session.identity)

    def replace(self, session: Session, known: Tunnel, tunnel: Tunnel) -> None:
        """The same tunnel, of which something else is true now."""
        session.replace(known, tunnel)
        self.index.remove(session, known)

    # Room

    def has_room(self, identity: str) -> bool:
        """Whether this identity has a session, or may have one without anybody's leaving."""
        return len(self.by_identity) < self.policy.most or identity in self.by_identity

    def evictable(self) -> Session | None:
        """Who makes room for another; None: nobody."""
        longest = self.absent.longest() if self.policy.evict else None
        return None if longest is None else self.by_identity[longest]

    # Time

    def leaves(self, session: Session, now: Instant) -> None:
        """It is absent from now on."""
        session.left = now
        self.absent.left(session.identity)
        self.look_later(session)

    def returns(self, session: Session) -> None:
        """It is attached."""
        self.absent.returned(session.identity)
        self.look_later(session)

    def look_later(self, session: Session) -> None:
        """When time alone makes another of it."""
        following = session.next_state(self.policy)
        if following is not None:
            self.agenda.add(session.identity, following[1])
