"""The mobility server's configuration. The text under each field is its reference."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from orchestrator.config.common import (
    CertificateAuth,
    CharonSocket,
    Control,
    Hold,
    Keys,
    Metrics,
    State,
    psk_file_faults,
    read_secret,
)
from orchestrator.config.reader import Contradiction
from orchestrator.config.values import (
    UNLIMITED,
    Between,
    FixedVips,
    Identity,
    Inherits,
    InterfaceName,
    Lifetime,
    Octets,
)
from orchestrator.core.absence import Patience, SessionPolicy
from orchestrator.core.hold import HoldPolicy
from orchestrator.core.quantities import IPAddress, IPNetwork, Seconds


@dataclass(frozen=True, slots=True)
class Underlay:
    """The side that the internet is on. Nothing but IKE, ESP and what comes out of the
    tunnels is accepted there."""

    interfaces: tuple[InterfaceName, ...]
    """Interfaces that endpoints come in on. All others count as LAN and are left alone."""
    addresses: tuple[IPAddress, ...] = ()
    """Our addresses there. Empty: whatever the interfaces have. Given, they are compared with
    what is there, and `doctor` says what is missing."""
    extra_tcp_ports: tuple[Annotated[int, Between(1, 65535)], ...] = ()
    """TCP ports of this host that stay reachable from the underlay and for endpoints, such as
    22. None by default: a gateway is administered from its LAN side, and a forgotten port is
    a hole."""

    def contradictions(self) -> Iterator[Contradiction]:
        if not self.interfaces:
            yield Contradiction(
                ("interfaces",), "endpoints cannot come in", 'write interfaces = ["eth0"]'
            )


@dataclass(frozen=True, slots=True)
class ServerPsk:
    """Each endpoint shares a secret with us."""

    kind: Literal["psk"]
    """How the two sides authenticate each other."""
    secret_file: Path | None = None
    """A file with the one pre-shared key of all endpoints, instead of `secrets`. Any of them
    can then pose as any other: for trying things out."""
    secrets: Mapping[Identity, Path] = field(default_factory=lambda: MappingProxyType({}))
    """A file with the pre-shared key of each endpoint, by its identity."""

    def contradictions(self) -> Iterator[Contradiction]:
        if self.secret_file is None and not self.secrets:
            yield Contradiction(
                (),
                "no secret is given",
                'add [auth.secrets] with lines like "laptop1@example.org" = "/etc/…"',
            )
        if self.secret_file is not None and self.secrets:
            yield Contradiction(
                ("secret_file",),
                "who knows this key could pose as each endpoint with a key of its own",
                "give every endpoint a key in [auth.secrets], and leave secret_file away",
            )
        if self.secret_file is not None:
            yield from psk_file_faults("secret_file", self.secret_file)
        for identity, path in self.secrets.items():
            for fault in psk_file_faults(identity, path):
                yield Contradiction(("secrets", identity), fault.problem, fault.remedy)

    def keys(self) -> tuple[tuple[Identity | None, bytes], ...]:
        """Whose pre-shared key is which, read anew each time; None: everybody else's.

        Raises ConfigError.
        """
        named = tuple((name, read_secret(path)) for name, path in self.secrets.items())
        if self.secret_file is None:
            return named
        return (*named, (None, read_secret(self.secret_file)))


@dataclass(frozen=True, slots=True)
class Vip:
    """The virtual addresses of the endpoints."""

    pools: tuple[IPNetwork, ...]
    """Networks to give virtual addresses from: IPv4, IPv6, or both, of which each endpoint then
    gets one address. Several of a family are used one after the other. The network's own
    address, its first host and, with IPv4, its broadcast address are never given out."""
    static: Mapping[Identity, FixedVips] = field(default_factory=lambda: MappingProxyType({}))
    """Fixed virtual addresses of some endpoints, by identity. They lie in the pools; nobody
    else gets them."""
    lease_time: Lifetime = None
    """How long the addresses of an endpoint that stays away are kept for it. Unlimited by
    default: connections wait for an endpoint as long as its peers do, and private addresses
    cost nothing. Looked at when the server starts."""

    def contradictions(self) -> Iterator[Contradiction]:
        if not self.pools:
            yield Contradiction(
                ("pools",), "there is nothing to give out", 'write pools = ["10.99.0.0/24"]'
            )
        for index, pool in enumerate(self.pools):
            if pool.num_addresses < 4:
                yield Contradiction(
                    ("pools", index),
                    f"{pool} is too small to give an address from",
                    f"write a larger network, /{pool.max_prefixlen - 2} at least",
                )
        for (_, one), (index, other) in combinations(enumerate(self.pools), 2):
            if one.version == other.version and one.overlaps(other):
                yield Contradiction(
                    ("pools", index), f"{other} overlaps {one}", "leave the larger one"
                )
        yield from self._static_faults()

    def _static_faults(self) -> Iterator[Contradiction]:
        owners: dict[IPAddress, Identity] = {}
        for identity, vips in self.static.items():
            for vip in vips:
                if not any(vip in pool for pool in self.pools):
                    yield Contradiction(
                        ("static", identity),
                        f"{vip} is in none of the pools",
                        "take an address of a pool, or add a pool",
                    )
                if vip in owners:
                    yield Contradiction(
                        ("static", identity),
                        f"{vip} belongs to {owners[vip]} already",
                        "give each endpoint its own",
                    )
                owners[vip] = identity


class LanSource(StrEnum):
    VIP = "vip"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Lan:
    """The side that the peers are on."""

    interfaces: tuple[InterfaceName, ...] = ()
    """Interfaces of the LAN. Given, they are compared with what is there, and `doctor` says
    what is missing. Empty: all that are not underlay."""
    source: LanSource = LanSource.VIP
    """From which address peers see the connections of endpoints: their own virtual address
    (`vip`), or this server's (`server`) where the LAN has no route to the pools. `vip` by
    default: peers' logs and firewalls then tell endpoints apart."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """The connection proxy: keeps TCP connections open while an endpoint is away."""

    enabled: bool = True
    """Without it TCP is forwarded like everything else, and an absent endpoint's peers give
    up after some minutes."""
    port: Annotated[int, Between(1024, 65534)] = 11110
    """Where the proxy listens for intercepted connections: this port for those of endpoints,
    the next one for those of peers, on 127.0.0.1 and ::1 only. Above 1023, and below the
    range the kernel picks from."""
    flows_per_session: Annotated[int, Between(1, 65535)] = 1024
    """Connections of one endpoint, counted for each of its virtual addresses, as the other
    limits of a session here; beyond it, a further one is refused. A browser with many tabs has
    some 200."""
    flows: Annotated[int, Between(1, 1_000_000)] = 20_000
    """Connections in all; beyond it, a further one is refused. Each takes two sockets;
    20,000 are far within the hard limit of descriptors that systemd grants (524,288)."""
    queue_per_flow: Annotated[Octets, Between(128 * 1024, 1024**3)] = Octets(1024 * 1024)
    """Octets kept in each direction of a connection, socket buffers included. When it is full
    the sender is told to wait, which TCP does for as long as it takes: nothing is lost. It
    bounds a connection to as much per round trip: 1 MiB carries 50 Mbit/s over 100 ms."""
    queue_per_session: Annotated[Octets, Between(1024**2)] = Octets(256 * 1024**2)
    """Octets kept of all connections of one endpoint: read from one side, and not yet
    acknowledged by the other. When it is reached, each of its connections still moves 64 KiB
    at a time; the rest waits at the sender, and room goes around. 256 connections with full
    queues: as many as a browser has."""
    queue_limit: Annotated[Octets, Between(1024**2)] = Octets(1024**3)
    """The same of all endpoints. Room goes around from endpoint to endpoint. 1 GiB is half of
    what the kernel lets all of TCP use on a machine with 16 GiB (`net.ipv4.tcp_mem`); its own
    overhead may double it, and receive buffers of a quarter of `queue_per_flow` each way of a
    connection come on top."""
    spool: Path | None = None
    """A folder on a disk, for what the peers of an absent endpoint send when the memory for it
    is full. It is root's alone, and made if it is not there. Files in it have no names, and
    are gone with the worker. None by default: what is spooled lies in clear on the disk."""
    spool_per_flow: Annotated[Octets, Between(1024**2)] = Octets(64 * 1024**2)
    """Octets on disk for each direction of a connection: some minutes of a video."""
    spool_per_session: Annotated[Octets, Between(1024**2)] = Octets(1024**3)
    """Octets on disk of all connections of one endpoint: what it fetches in 80 s at 100 Mbit/s
    when it is back."""
    spool_limit: Annotated[Octets, Between(1024**2)] = Octets(4 * 1024**3)
    """Octets on disk in all. A full disk does no harm here, but to others on it."""

    def contradictions(self) -> Iterator[Contradiction]:
        if self.flows_per_session > self.flows:
            yield Contradiction(
                ("flows_per_session",),
                "one endpoint may have more connections than all together",
                "raise flows, or lower flows_per_session",
            )
        for lower, higher in (
            ("queue_per_flow", "queue_per_session"),
            ("queue_per_session", "queue_limit"),
            ("spool_per_flow", "spool_per_session"),
            ("spool_per_session", "spool_limit"),
        ):
            if getattr(self, lower) > getattr(self, higher):
                yield Contradiction(
                    (lower,),
                    f"{lower} is more than {higher}",
                    f"raise {higher}, or lower {lower}",
                )


@dataclass(frozen=True, slots=True)
class ServerHold(Hold):
    """How much is kept of what cannot be sent now, and for how long. When all of an address is
    full, the flow that holds most loses first."""

    total: Annotated[Octets, Between(1024**2, 1024**4)] = Octets(512 * 1024**2)
    """Octets of memory for what is held for all endpoints together; a packet counts 1400 more
    than it has, for what is kept to find it. When they are taken, the session that holds most
    loses first. An eighth of a small gateway with 4 GiB; full queues of 64 virtual addresses
    fit in, which are not full all at once: an outage of some seconds leaves some KiB for
    each."""

    def contradictions(self) -> Iterator[Contradiction]:
        # super() without arguments does not know a class with slots (bpo-46768).
        yield from Hold.contradictions(self)
        if self.max_bytes > self.total:
            yield Contradiction(
                ("total",),
                "one address may hold more than all together",
                "raise total, or lower max_bytes",
            )


class WhenFull(StrEnum):
    REFUSE = "refuse"
    EVICT = "evict"


@dataclass(frozen=True, slots=True)
class Limits:
    """What endpoints can make us keep."""

    sessions: Annotated[int, Between(1, 100_000)] = 2000
    """Endpoints with a session, present or away. What they can make us keep besides, packets
    (`[hold] total`) and connections (`[proxy] flows`), has limits of its own."""
    when_full: WhenFull = WhenFull.REFUSE
    """What happens to a further endpoint: it is refused (`refuse`), or the session that has
    been away longest ends, with its connections, to make room (`evict`). An attached one never
    does. `refuse` by default: connections that wait are what a session is kept for."""


def _patience_faults(asleep_after: Lifetime, expire_after: Lifetime) -> Iterator[Contradiction]:
    if asleep_after is not None and expire_after is not None and expire_after <= asleep_after:
        yield Contradiction(
            ("expire_after",),
            "a session that is away ends before it counts as asleep",
            f'raise expire_after, or write asleep_after = "{UNLIMITED}"',
        )


@dataclass(frozen=True, slots=True)
class ServerTimers:
    """How long we wait for whom."""

    detach_after: Annotated[Seconds, Between(0.5, 600)] = Seconds(7.0)
    """An endpoint that was not heard this long counts as away: its packets are held. Three and
    a half of the endpoint's default `probe_interval`: three probes may be lost. One that says
    that it asks more rarely (`probe_idle`) than every 2 s is given the difference on top."""
    asleep_after: Annotated[Lifetime, Between(1)] = Seconds(600.0)
    """An endpoint that has been away this long counts as asleep, as one does at once that says
    so: its TCP is held on, anything else for it is dropped. After ten minutes no tunnel can be
    taken along to a new address any more, and nobody waits for a datagram. Counted from the
    start of the daemon if that was later."""
    expire_after: Annotated[Lifetime, Between(1)] = None
    """The session of an endpoint that has been away this long ends: what is held for it is
    dropped, its connections are reset; its virtual address stays leased (`[vip] lease_time`).
    Unlimited by default: a device that sleeps over a holiday finds its connections open.
    Counted like `asleep_after`."""

    def contradictions(self) -> Iterator[Contradiction]:
        yield from _patience_faults(self.asleep_after, self.expire_after)


@dataclass(frozen=True, slots=True)
class SessionRules:
    """Other rules for one endpoint than all others have."""

    asleep_after: Annotated[Lifetime, Between(1)]
    """How long it is away before it counts as asleep."""
    expire_after: Annotated[Lifetime, Between(1)]
    """How long it is away before its session ends."""
    hold: Annotated[Hold, Inherits(("hold",), Hold())]
    """How much is kept for it, and for how long. The keys are those of `[hold]` without
    `total`; what is not given is as there."""

    @property
    def patience(self) -> Patience:
        return Patience(self.asleep_after, self.expire_after)

    def contradictions(self) -> Iterator[Contradiction]:
        yield from _patience_faults(self.asleep_after, self.expire_after)


@dataclass(frozen=True, slots=True)
class ServerMetrics(Metrics):
    """What is counted, for a Prometheus. `orchestrator metrics` has it always."""

    per_session: bool = False
    """Whether there are metrics of each endpoint, with its identity as a label. False by
    default: ten lines and more for each of them, and a time series for each identity that
    ever came is what a Prometheus dies of; who is where, and when, is nobody's business
    either. `orchestrator sessions` says the same of the present moment."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A mobility server."""

    role: Literal["server"]
    """Which daemon this file is for."""
    identity: Identity
    """What we prove to be; the endpoints' `[server]` names the same."""
    underlay: Underlay
    auth: ServerPsk | CertificateAuth
    vip: Vip
    lan: Lan = Lan()
    proxy: Proxy = Proxy()
    hold: ServerHold = ServerHold()
    limits: Limits = Limits()
    timers: ServerTimers = ServerTimers()
    sessions: Mapping[
        Identity, Annotated[SessionRules, Inherits(("timers",), ServerTimers())]
    ] = field(default_factory=lambda: MappingProxyType({}))
    """Endpoints with rules of their own, by identity."""
    keys: Keys = Keys()
    control: Control = Control()
    metrics: ServerMetrics = ServerMetrics()
    charon: CharonSocket = CharonSocket()
    state: State = State()

    @property
    def session_policy(self) -> SessionPolicy:
        timers = self.timers
        return SessionPolicy(
            detach_after=timers.detach_after,
            patience=Patience(timers.asleep_after, timers.expire_after),
            of_identity={name: rules.patience for name, rules in self.sessions.items()},
            most=self.limits.sessions,
            evict=self.limits.when_full is WhenFull.EVICT,
        )

    def hold_of(self, identity: str) -> HoldPolicy:
        """How what is for this endpoint is held."""
        rules = self.sessions.get(identity)
        return (self.hold if rules is None else rules.hold).policy

    def contradictions(self) -> Iterator[Contradiction]:
        for identity, rules in self.sessions.items():
            if rules.hold.max_bytes > self.hold.total:
                yield Contradiction(
                    ("sessions", identity, "hold", "max_bytes"),
                    "one address may hold more than all together",
                    "raise [hold] total, or lower max_bytes",
                )
        for index, address in enumerate(self.underlay.addresses):
            if any(address in pool for pool in self.vip.pools):
                yield Contradiction(
                    ("underlay", "addresses", index),
                    f"{address} is in a pool of virtual addresses",
                    "keep the underlay's networks out of [vip] pools",
                )
        for index, name in enumerate(self.lan.interfaces):
            if name in self.underlay.interfaces:
                yield Contradiction(
                    ("lan", "interfaces", index),
                    f"{name} is underlay and LAN at once",
                    "leave it in one of the two",
                )
        named = self.auth.secrets if isinstance(self.auth, ServerPsk) else {}
        if self.identity in named:
            yield Contradiction(
                ("auth", "secrets", self.identity),
                "an endpoint has the server's own identity",
                "give each its own",
            )
