"""One endpoint and one server, joined by a tiny internet with two kernels and two charons.

No I/O and no waiting: `Internet.run` jumps from event to event. A packet is looked up in the
policies that the machines ordered, goes into the SA that these name or into the hold, and
crosses the network only while its place is up at both ends of the journey. Nothing else is
modelled: no random loss, no reordering, no sequence numbers.

Both hosts are stories, so that the standing rules of both machines hold throughout.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import pairwise
from typing import Final

from orchestrator.core import mobility_events as endpoint_events
from orchestrator.core import session_events as server_events
from orchestrator.core.absence import SessionPolicy
from orchestrator.core.hold import HoldLimits, HoldQueue, Kind, Label
from orchestrator.core.ike import (
    CharonGone,
    CharonUp,
    IkeDown,
    IkeFailure,
    IkeMoved,
    Tunnel,
    TunnelUp,
)
from orchestrator.core.kernel import Direction, Template, Verdict
from orchestrator.core.mobility_policy import MobilityPolicy
from orchestrator.core.quantities import Instant, IPAddress, Seconds, Spi, UniqueId
from tests.unit.core.builders import (
    LTE,
    LTE6,
    VIP4,
    WIFI,
    WIFI2,
    Place,
    at,
    mirrored,
    tunnel,
)
from tests.unit.core.server_stories import LAPTOP, NAT, REQID, ServerStory, policies
from tests.unit.core.stories import POLICY, EndpointStory

SEND_INTERVAL: Final = 0.005
FOLLOWING: Final = 0.005
"""What charon needs from MAPPING to the rewritten SA, which receives nothing meanwhile."""
DELAYS: Final = {WIFI.pop: 0.005, WIFI2.pop: 0.008, LTE.pop: 0.025, LTE6.pop: 0.025}
"""One way, by point of presence."""
NO_HOLD: Final = HoldLimits(max_packets=0)
FLIPS_PER_RUN: Final = 65536


PACKET: Final = Label("traffic", Kind.DATAGRAM)


def drained(queue: HoldQueue, now: Instant) -> list[bytes]:
    packets = []
    while (packet := queue.first(now)) is not None:
        packets.append(packet)
        queue.sent()
    return packets


@dataclass(frozen=True, slots=True)
class Answer:
    sequence: int
    agreed: Seconds | None = None


Inner = bytes | server_events.Heard | server_events.HeardWarm | Answer
"""What an application sends, a probe, its answer."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """ESP in UDP."""

    source: IPAddress
    destination: IPAddress
    spi: Spi
    inner: Inner


@dataclass(slots=True)
class Sa:
    """Both SAs of a tunnel in one kernel."""

    tunnel: Tunnel
    """As charon believes."""
    local: IPAddress
    remote: IPAddress
    following: bool = False
    sent: int = 0
    received: int = 0

    def leads(self, template: Template) -> bool:
        return (self.local, self.remote) == (template.source, template.destination)


@dataclass(slots=True)
class Flow:
    """What applications sent in one direction, and what arrived."""

    sent: dict[bytes, float] = field(default_factory=dict)
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)

    def next_packet(self, now: float) -> bytes:
        packet = len(self.sent).to_bytes(8, "big")
        self.sent[packet] = now
        return packet

    @property
    def lost(self) -> int:
        return len(self.sent) - len({packet for _, packet in self.arrivals})

    @property
    def doubled(self) -> int:
        return len(self.arrivals) - len({packet for _, packet in self.arrivals})

    @property
    def in_order(self) -> bool:
        packets = [packet for _, packet in self.arrivals]
        return packets == sorted(packets)

    def first_since(self, time: float) -> float:
        """How long after `time` the first packet arrived."""
        return next(then - time for then, _ in self.arrivals if then > time)

    def longest_gap(self, since: float) -> float:
        times = [since, *(then for then, _ in self.arrivals if then > since)]
        return max(after - before for before, after in pairwise(times))


class Internet:
    """The whole world; `endpoint` and `server` are its two hosts."""

    def __init__(
        self,
        *places: Place,
        policy: MobilityPolicy = POLICY,
        limits: HoldLimits = HoldLimits(datagram_age=Seconds(300)),
    ) -> None:
        self.now = 0.0
        self.places: tuple[Place, ...] = places
        """Where the endpoint is, and sees that it is."""
        self.silent: set[str] = set()
        """POPs that look well and carry nothing."""
        self.loses_probes = False
        """Of the active path, and nothing else."""
        self.public = {pop: ip_address(pop) for pop in DELAYS}
        self.public[WIFI.pop] = ip_address(NAT)
        self.up, self.down = Flow(), Flow()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.server = ServerHost(self, limits)
        self.endpoint = EndpointHost(self, policy, limits)
        self.server.remembers()
        self.endpoint.starts(*places)
        self.endpoint.finds_charon()

    # Time

    def later(self, delay: float, work: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, work))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self._next()) <= end:
            self.now = max(self.now, due)
            if self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            for host in (self.endpoint, self.server):
                wake = host.machine.deadline()
                if wake is not None and wake <= self.now:
                    host.tick()
        self.now = end

    def _next(self) -> float:
        wakes = (self.endpoint.machine.deadline(), self.server.machine.deadline())
        due = [float(wake) for wake in wakes if wake is not None]
        return min((*due, *(time for time, _, _ in self._events[:1])), default=float("inf"))

    def talk(self, seconds: float) -> None:
        """Both applications send a packet at each interval."""
        for number in range(round(seconds / SEND_INTERVAL)):
            self.later(number * SEND_INTERVAL, self._say_something)
        self.run(seconds)

    def _say_something(self) -> None:
        self.endpoint.send(self.up.next_packet(self.now))
        self.server.send(self.down.next_packet(self.now))

    # The network

    def roam(self, *places: Place) -> None:
        self.places = places
        self.endpoint.is_at(*places)

    def carries(self, pop: IPAddress, work: Callable[[], None], trips: int = 1) -> None:
        """Does the work after so many one-way delays, if the place is alive then as now."""
        if not self._alive(pop):
            return

        def arrive() -> None:
            if self._alive(pop):
                work()

        self.later(trips * DELAYS[str(pop)], arrive)

    def _alive(self, pop: IPAddress) -> bool:
        here = {place.pop for place in self.places if place.up} - self.silent
        return str(pop) in here

    def uplink(self, datagram: Datagram) -> None:
        if self.loses_probes and isinstance(datagram.inner, server_events.Heard):
            return
        outside = replace(datagram, source=self.public[str(datagram.source)])
        self.carries(datagram.source, lambda: self.server.receives(outside))

    def downlink(self, datagram: Datagram) -> None:
        pop = self.behind(datagram.destination)
        if pop is not None:
            inside = replace(datagram, destination=pop)
            self.carries(pop, lambda: self.endpoint.receives(inside))

    def behind(self, public: IPAddress) -> IPAddress | None:
        """Whom the NAT means by this address now."""
        found = (pop for pop, address in self.public.items() if address == public)
        return next((ip_address(pop) for pop in found), None)


class EndpointHost(EndpointStory):
    """The endpoint's machine, kernel, hold and charon."""

    def __init__(
        self,
        internet: Internet,
        policy: MobilityPolicy,
        limits: HoldLimits,
        first_flip: int = 0,
    ) -> None:
        super().__init__(policy, first_flip)
        self.internet = internet
        self.now = internet.now
        self.sas: list[Sa] = []
        self.queue = HoldQueue(limits)
        self.refuses_moves = False
        self.kernel_tells = True
        """When an SA counts, if it was asked to."""
        self.probes = 0
        """Sent, over whatever tunnel."""
        self.ticks = 0
        """How often a deadline woke it."""
        self.abandoned: set[str] = set()

    def handles(self, event: endpoint_events.Event) -> list[endpoint_events.Effect]:
        self.now = self.internet.now
        return super().handles(event)

    def tick(self) -> None:
        self.ticks += 1
        self.hears(endpoint_events.Tick())

    # Packets

    def send(self, inner: Inner) -> None:
        template = None if self.kernel is None else self.kernel.active
        if self.kernel is not None and not isinstance(inner, bytes):
            template = template or self.kernel.probed
        if template is None:
            assert isinstance(inner, bytes), "a probe was sent into the hold"
            self.queue.push(inner, at(self.internet.now), PACKET)
            return
        self._send_by(template, inner)

    def _send_by(self, template: Template, inner: Inner) -> None:
        for sa in reversed(self.sas):
            if sa.leads(template):
                sa.sent += 1
                self._counts(sa.tunnel.spi_out)
                datagram = Datagram(sa.local, sa.remote, sa.tunnel.spi_out, inner)
                self.internet.uplink(datagram)
                return

    def _counts(self, spi: Spi) -> None:
        """The kernel tells, if it was asked to."""
        if self.watched and self.kernel_tells:
            stirs = endpoint_events.TrafficStirs(frozenset({spi}))

            def tell() -> None:
                self.hears(stirs)

            self.internet.later(0, tell)

    def receives(self, datagram: Datagram) -> None:
        inner = datagram.inner
        for sa in self.sas:
            if (sa.local, sa.tunnel.spi_in) != (datagram.destination, datagram.spi):
                continue
            sa.received += 1
            self._counts(sa.tunnel.spi_in)
            if isinstance(inner, Answer):
                self.hears(endpoint_events.ProbeAnswered(inner.sequence, inner.agreed))
            elif isinstance(inner, bytes):
                self.internet.down.arrivals.append((self.internet.now, inner))
            return

    # Acts

    def _carry_out(self, effect: endpoint_events.Effect) -> endpoint_events.Event | None:
        if isinstance(effect, endpoint_events.MoveTunnel):
            self.kernel_moves = self._rewritten(effect)
        if isinstance(effect, endpoint_events.LookAtTraffic):
            looked_at = (sa for sa in self.sas if sa.tunnel.spi_in == effect.tunnel.spi_in)
            for sa in looked_at:
                self.received, self.sent = sa.received, sa.sent
        outcome = super()._carry_out(effect)
        match effect:
            case endpoint_events.SendProbe(sequence, flip, spi, asleep, None, within):
                self.probes += 1
                self.send(server_events.Heard(VIP4, flip, spi, sequence, asleep, within))
            case endpoint_events.SendProbe(sequence, flip, spi, slot=int(slot), within=within):
                self.probes += 1
                assert self.kernel is not None
                asks = server_events.HeardWarm(VIP4, flip, spi, sequence, within=within)
                self._send_by(dict(self.kernel.warm)[slot], asks)
            case endpoint_events.Release():
                for packet in drained(self.queue, at(self.internet.now)):
                    self.send(packet)
            case endpoint_events.Negotiate():
                self._negotiate(effect)
            case endpoint_events.Abandon(connection):
                self.abandoned.add(connection)
            case endpoint_events.Terminate(ended):
                self._terminate(ended)
        return outcome

    def _rewritten(self, order: endpoint_events.MoveTunnel) -> bool:
        for sa in self.sas:
            if sa.tunnel.spi_in == order.tunnel.spi_in and not self.refuses_moves:
                sa.local = order.path.pop
                return True
        return False

    # charon

    def _negotiate(self, order: endpoint_events.Negotiate) -> None:
        """Two round trips: IKE_SA_INIT, IKE_AUTH. The server is there after one and a half."""
        self.numbers += 1
        agreed = tunnel(order.path, self.numbers, order.connection)
        net = self.internet

        def refused() -> None:
            why = endpoint_events.AttemptFailed(
                order.connection, IkeFailure.SILENT, "no answer"
            )
            net.endpoint.hears(why)  # nothing, if there was an outcome before

        def answered() -> None:
            if order.connection in net.endpoint.abandoned:
                return
            net.endpoint.answered_attempts.add(order.connection)
            net.endpoint.hears(endpoint_events.AttemptAnswered(order.connection))
            net.carries(agreed.local, accepted)

        def accepted() -> None:
            if net.server.charon_lives:
                net.server.agrees(agreed, net.public[str(agreed.local)])
                net.carries(agreed.local, lambda: net.endpoint.agrees(agreed))

        net.later(order.limit, refused)
        net.carries(agreed.local, answered, trips=2)

    def agrees(self, agreed: Tunnel) -> None:
        if agreed.connection in self.abandoned:
            return  # charon destroyed it without a word
        self.sas.append(Sa(agreed, agreed.local, agreed.remote))
        self.hears(TunnelUp(agreed))

    def _terminate(self, ended: Tunnel) -> None:
        """charon says good-bye from where it believes to be: one that was moved cannot."""
        net = self.internet
        for sa in [sa for sa in self.sas if sa.tunnel.ike == ended.ike]:
            self.sas.remove(sa)
            net.carries(sa.tunnel.local, lambda: net.server.told_of_the_end(ended.ike))

    def told_of_the_end(self, ike: UniqueId) -> None:
        if any(sa.tunnel.ike == ike for sa in self.sas):
            self.sas = [sa for sa in self.sas if sa.tunnel.ike != ike]
            self.hears(IkeDown(ike))

    def is_killed_and_started(self) -> None:
        """The successor adopts what the kernel has. charon lives on."""
        machine, active = self.machine, self.machine.active
        found = None
        if active is not None:
            found = replace(active, ike=UniqueId(0), child=UniqueId(0), connection="")
        first_flip = machine.flip + FLIPS_PER_RUN
        fresh = EndpointHost(self.internet, machine.policy, self.queue.limits, first_flip)
        fresh.sas, fresh.numbers, fresh.connections = self.sas, self.numbers, self.connections
        fresh.abandoned, fresh.kernel = self.abandoned, self.kernel
        self.internet.endpoint = fresh
        fresh.starts(*self.internet.places, vips=machine.vips, adopted=found)
        fresh.hears(CharonUp("5.9.8", tuple(sa.tunnel for sa in fresh.sas)))


class ServerHost(ServerStory):
    """The server's machine, kernel, hold and charon."""

    def __init__(self, internet: Internet, limits: HoldLimits) -> None:
        super().__init__(SessionPolicy(detach_after=Seconds(30.0)))
        self.internet = internet
        self.sas: list[Sa] = []
        self.queue = HoldQueue(limits)
        self.answers_held: list[Inner] = []
        self.charon_lives = True
        self.charon_follows = True
        """Whether it rewrites the SAs of an endpoint that moved."""
        self.agrees_to_silence = True
        """As a server of an older release does not."""

    def hears(self, event: server_events.Event, after: float = 0.0) -> list[str]:
        self.now = self.internet.now
        return super().hears(event, after)

    def tick(self) -> None:
        self.hears(server_events.Tick())

    # Packets

    def send(self, inner: Inner) -> None:
        template = policies(self.kernel[LAPTOP], Direction.OUT)[0].template
        if template is None:
            if isinstance(inner, bytes):
                self.queue.push(inner, at(self.internet.now), PACKET)
            else:
                self.answers_held.append(inner)
            return
        for sa in reversed(self.sas):
            if sa.leads(template):
                datagram = Datagram(sa.local, sa.remote, sa.tunnel.spi_out, inner)
                self.internet.downlink(datagram)
                return

    def receives(self, datagram: Datagram) -> None:
        for sa in self.sas:
            if sa.tunnel.spi_in != datagram.spi:
                continue
            if sa.following:
                return
            if sa.remote != datagram.source:
                self._mapping(sa, datagram.source)
            accepts = policies(self.kernel[LAPTOP], Direction.IN)[0].verdict
            probes = server_events.Heard | server_events.HeardWarm
            if accepts is Verdict.PROTECT and isinstance(datagram.inner, probes):
                self.hears(datagram.inner)
            elif accepts is Verdict.PROTECT and isinstance(datagram.inner, bytes):
                self.internet.up.arrivals.append((self.internet.now, datagram.inner))
            return

    def _mapping(self, sa: Sa, source: IPAddress) -> None:
        self.hears(server_events.MappingChanged(sa.tunnel.spi_in))
        if sa.following or not self.charon_follows or not self.charon_lives:
            return
        sa.following = True

        def follow() -> None:
            sa.following = False
            mine = sa.tunnel
            self.hears(IkeMoved(mine.ike, mine.local, 4500, source, 4500))
            sa.remote = source
            moved = server_events.StateMoved(mine.spi_out, mine.local, source, mine.reqid)
            self.hears(moved)

        self.internet.later(FOLLOWING, follow)

    # Acts

    def _carry_out(self, effect: server_events.Effect) -> None:
        super()._carry_out(effect)
        match effect:
            case server_events.Release():
                held, self.answers_held = self.answers_held, []
                for packet in (*held, *drained(self.queue, at(self.internet.now))):
                    self.send(packet)
            case server_events.AnswerProbe(server_events.Heard() as probe, _, agreed):
                said = agreed if self.agrees_to_silence else None
                self.send(Answer(probe.sequence, said))
            case server_events.AnswerProbe(server_events.HeardWarm() as probe):
                self._answer_warm(probe)
            case server_events.Terminate(ended):
                self.internet.later(0, lambda: self._terminate(ended))

    def _answer_warm(self, probe: server_events.HeardWarm) -> None:
        for sa in self.sas:
            if sa.tunnel.spi_out == probe.spi:
                answer = Answer(probe.sequence)
                self.internet.downlink(Datagram(sa.local, sa.remote, probe.spi, answer))

    def _terminate(self, ended: Tunnel) -> None:
        net = self.internet
        for sa in [sa for sa in self.sas if sa.tunnel.ike == ended.ike]:
            pop = net.behind(sa.remote)
            if pop is not None:
                net.carries(pop, lambda: net.endpoint.told_of_the_end(ended.ike))
        self.told_of_the_end(ended.ike)

    # charon

    def agrees(self, agreed: Tunnel, public: IPAddress) -> None:
        mine = mirrored(agreed, reqid=REQID, nat=str(public))
        self.sas.append(Sa(mine, mine.local, mine.remote))
        self.admits(mine)

    def told_of_the_end(self, ike: UniqueId) -> None:
        if any(sa.tunnel.ike == ike for sa in self.sas):
            self.sas = [sa for sa in self.sas if sa.tunnel.ike != ike]
            self.hears(IkeDown(ike))

    def charon_crashes(self) -> None:
        self.charon_lives = False
        self.sas.clear()
        self.hears(CharonGone("crashed"))

    def charon_starts(self) -> None:
        self.charon_lives = True
        self.hears(CharonUp("5.9.8", ()))
