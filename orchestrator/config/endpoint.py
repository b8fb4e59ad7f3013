"""The endpoint's configuration. The text under each field is its reference."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

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
from orchestrator.config.flows import Flows, flows_faults
from orchestrator.config.reader import Contradiction
from orchestrator.config.values import (
    AssignedVips,
    Between,
    HostName,
    HttpUrl,
    Identity,
    InterfaceClass,
    InterfaceGlob,
    Otherwise,
    Secret,
)
from orchestrator.core.endpoint_state import Inner
from orchestrator.core.mobility_policy import MobilityPolicy
from orchestrator.core.paths import LinkChoice
from orchestrator.core.portal import PortalPolicy
from orchestrator.core.quantities import IPAddress, IPNetwork, Seconds
from orchestrator.core.race import WIDTH

PORTAL_PORTS: Final = 16
"""A listening socket for each of them and each family is handed to the daemon."""
NEVER_OUTER: Final = tuple(map(InterfaceGlob, ("lo", "vip0", "vips0")))
"""The way out of the tunnel is never through our own devices (invariant 2)."""


def _globs(*patterns: str) -> tuple[InterfaceGlob, ...]:
    return tuple(map(InterfaceGlob, patterns))


@dataclass(frozen=True, slots=True)
class Server:
    """The mobility server."""

    identity: Identity
    """What the server must prove to be, exactly as its own `identity` says."""
    addresses: tuple[
        Annotated[IPAddress, Otherwise("write an IP address; host names go into names = […]")],
        ...,
    ] = ()
    """Its addresses on the underlay, of both families if it has both, best first. Every one
    is tried: an endpoint can move from a network that only has IPv6 to one that only has
    IPv4. On a network that only has IPv6, IPv4 addresses are reached by its NAT64, if it has
    one (RFC 7050)."""
    names: tuple[HostName, ...] = ()
    """Names of it, in addition to `addresses`. They are looked up over each link by itself,
    with the resolvers of that link's network and never through the tunnel, when a link comes
    and when an answer is not good any more. What they meant last is kept for times without an
    answer, and for restarts."""

    def contradictions(self) -> Iterator[Contradiction]:
        if not self.addresses and not self.names:
            yield Contradiction(
                (),
                "[server] has neither addresses nor names",
                'add addresses = ["203.0.113.10"]',
            )
        for index, address in enumerate(self.addresses):
            if address in self.addresses[:index]:
                yield Contradiction(
                    ("addresses", index), f"{address} is there twice", "delete one of them"
                )


@dataclass(frozen=True, slots=True)
class EndpointPsk:
    """Both sides know one secret."""

    kind: Literal["psk"]
    """How the two sides authenticate each other."""
    secret_file: Path | None = None
    """A file with the pre-shared key on one line. Not readable by others."""
    secret: Secret | None = field(default=None, repr=False)
    """The pre-shared key itself, where one file is easier to distribute than two. This file
    must then belong to root and have mode 0600."""

    def contradictions(self) -> Iterator[Contradiction]:
        if (self.secret is None) == (self.secret_file is None):
            problem = "no secret is given" if self.secret is None else "two secrets are given"
            remedy = 'add secret_file = "/etc/orchestrator/secret"'
            yield Contradiction(
                (), problem, remedy if self.secret is None else "leave secret_file only"
            )
        if self.secret_file is not None:
            yield from psk_file_faults("secret_file", self.secret_file)

    def key(self) -> bytes:
        """The pre-shared key, read anew each time. Raises ConfigError."""
        if self.secret is not None:
            return self.secret.encode()
        if self.secret_file is None:
            raise ValueError("a PSK without a secret is refused when it is loaded")
        return read_secret(self.secret_file)


class TunnelMode(StrEnum):
    FULL = "full"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What goes through the tunnel, and from which address."""

    mode: TunnelMode = TunnelMode.FULL
    """`full`: everything. `split`: only `prefixes`. Full by default: what an application sends
    to a forgotten prefix would leave unprotected."""
    prefixes: tuple[IPNetwork, ...] = ()
    """With `split`, the destinations that are reached through the tunnel."""
    local_networks: bool = True
    """With `full`, whether hosts on the attached link (printers, the router's own page) are
    reached directly. True by default: who is at home or in an office expects it."""
    mtu: Annotated[int, Between(1280, 9000)] = 1380
    """The largest packet inside the tunnel. 1380 leaves 120 octets for ESP in UDP over IPv6
    on a link of 1500: AES-GCM takes 85 of them at most, AES-CBC with SHA-512 takes 116."""
    path_mtu: bool = True
    """Whether it is looked for how much of that each path carries, by a padded probe or a few
    when a path is new; all senders, also those behind the server, follow. True by default: a
    path that drops large packets without a word would stop every transfer for good."""
    vips: AssignedVips = ()
    """Our virtual addresses: `"assigned"` by the server, which always gives us the same ones,
    or fixed here, one of each family at most. Fixed ones must stand in the server's
    `[vip.static]` too."""

    def contradictions(self) -> Iterator[Contradiction]:
        if self.mode is TunnelMode.FULL and self.prefixes:
            yield Contradiction(
                ("prefixes",),
                "prefixes are given, but the whole traffic goes through the tunnel",
                'add mode = "split", or delete prefixes',
            )
        if self.mode is TunnelMode.SPLIT and not self.prefixes:
            yield Contradiction(
                ("mode",), "nothing goes through the tunnel", 'add prefixes = ["10.0.0.0/8"]'
            )


@dataclass(frozen=True, slots=True)
class Links:
    """Which network interfaces may carry the tunnel, and which do so rather."""

    include: tuple[InterfaceGlob, ...] = _globs("*")
    """Interfaces that may carry the tunnel."""
    exclude: tuple[InterfaceGlob, ...] = _globs(
        "docker*", "br-*", "veth*", "virbr*", "vnet*", "lxc*", "lxd*", "cni*", "cali*",
        "flannel*", "podman*", "dummy*", "wg*", "tun*", "tap*", "tailscale*",
    )  # fmt: skip
    """Interfaces that may not, whatever `include` says. By default those of containers and
    virtual machines, which lead nowhere, and other tunnels. `lo` and our own devices are
    always excluded."""
    preference: tuple[InterfaceClass, ...] = (
        _globs("en*", "eth*"), InterfaceGlob("wl*"), _globs("ww*", "ppp*", "usb*"),
    )  # fmt: skip
    """Best first; patterns in an array of their own are equal. Interfaces that no pattern
    matches come last, and among equals the route metric decides. By default wire, then Wi-Fi,
    then mobile networks: cheapest first."""
    metered: tuple[InterfaceGlob, ...] = ()
    """Interfaces whose traffic costs money. They come after all others, in the order of
    `preference`, and a tunnel that waits there is asked every two minutes only. None by
    default: what a contract counts is not to be seen from here."""
    quality: bool = True
    """Whether a link that proves to be worse is left for another one. Among links that are
    equal in `preference`, for one with half the burden (round trip and loss, by what they cost
    TCP) for five seconds; a `lossy` one for any other. True by default: whoever is on a bad
    link wants nothing else."""
    lossy: Annotated[int, Between(5, 100)] = 20
    """Percent of round trips that are lost on a link that is useless: any other one is better,
    whatever `preference` says, until it has had less than half of that for 20 probes. By
    default 20: there a TCP connection gets some 100 kbit/s, however fast the link is, and calls
    are beyond repair."""
    warm: Annotated[int, Between(1, 8)] = 2
    """On how many links, the best ones, a tunnel is kept at the same time. When the one in use
    is lost, traffic goes on over the next within a round trip. A tunnel that waits costs some
    40 kB an hour; 1 keeps none waiting."""

    race: Annotated[int, Between(1, 8)] = WIDTH
    """How many negotiations run at the same time while nothing works, over other links and to
    other addresses of the server: the next begins a quarter of a second after the one before.
    1: one after the other, where each network that is dead without a sign costs
    `[timers] attempt`."""

    def __post_init__(self) -> None:
        missing = tuple(glob for glob in NEVER_OUTER if glob not in self.exclude)
        object.__setattr__(self, "exclude", (*self.exclude, *missing))

    @property
    def choice(self) -> LinkChoice:
        return LinkChoice(self.include, self.exclude, self.preference, self.metered)

    def contradictions(self) -> Iterator[Contradiction]:
        if not self.include:
            yield Contradiction(("include",), "no link may be used", 'write include = ["*"]')
        if "*" in self.exclude:
            yield Contradiction(
                ("exclude",), 'no link may be used: "*" excludes all', "exclude some only"
            )


@dataclass(frozen=True, slots=True)
class Portal:
    """Networks that let nobody through before a sign-in, and the way to sign in there:
    `orchestrator portal`."""

    url: HttpUrl | None = None
    """What is asked for, through each link without a tunnel, to find out that a page answers
    instead: by default nothing, and portals are not recognised. Best on a server of your own,
    which then learns where your devices are; the request has nothing in it that tells them
    apart. With an address, not a name: many such networks answer any name."""
    status: Annotated[int, Between(200, 599)] = 204
    """The HTTP status that `url` has. 204, "No Content", is what no sign-in page answers."""
    body: str | None = None
    """Its body, blanks at both ends apart; by default any. For a `url` with status 200."""
    way: Annotated[Seconds, Between(10, 3600)] = Seconds(600.0)
    """How long the way to sign in stays open at most. Ten minutes are enough to find a voucher;
    it closes at once when a tunnel comes up."""
    ports: tuple[Annotated[int, Between(1, 65535)], ...] = (80, 443, 8080, 8443, 8880, 8843)
    """TCP ports that the way leads to: those of the web, and those where common portals have
    their pages."""

    @property
    def policy(self) -> PortalPolicy:
        versions = () if self.url is None else (self.url.host.version,)
        return PortalPolicy(frozenset(versions), self.way)

    def contradictions(self) -> Iterator[Contradiction]:
        if not 0 < len(self.ports) <= PORTAL_PORTS:
            yield Contradiction(
                ("ports",), f"{len(self.ports)} ports", f"give 1 to {PORTAL_PORTS} of them"
            )
        if 53 in self.ports:
            yield Contradiction(
                ("ports", self.ports.index(53)),
                "port 53 is the network's name server's, and open anyway",
                "delete it",
            )


@dataclass(frozen=True, slots=True)
class EndpointTimers:
    """How long we wait for whom."""

    attempt: Annotated[Seconds, Between(1, 60)] = Seconds(8.0)
    """One negotiation. charon sends its first message at 0, 1, 2.5 and 4.8 s; what is not
    answered by 8 s is tried on another path instead."""
    backoff_min: Annotated[Seconds, Between(0.1, 60)] = Seconds(0.5)
    """The pause after the first failed negotiation; it doubles with each further one."""
    backoff_max: Annotated[Seconds, Between(1, 3600)] = Seconds(30.0)
    """The longest pause. Half a minute is what a person waits who knows that the network is
    back; a change of the network ends any pause at once."""
    probe_interval: Annotated[Seconds, Between(0.1, 60)] = Seconds(2.0)
    """Between an answered probe and the next one while there is traffic: its round trip is
    what a silence is measured by. A probe and its answer are some 250 octets. Above 25 s
    some NATs forget the path in between: nothing else keeps them from it."""
    probe_idle: Annotated[Seconds, Between(0.1, 20)] = Seconds(12.5)
    """The same while nothing else is sent, where the server agrees; it is reached from
    `probe_interval` by doubling. A path that dies meanwhile is noticed when something is sent,
    and without that after this and `dead_after`. Half of the 25 s after which a waiting tunnel
    is asked, so that a device wakes once for both; some NATs forget a flow after 30 s."""
    dead_after: Annotated[Seconds, Between(0.3, 60)] = Seconds(2.0)
    """A path that leaves probes unanswered this long is given up. Mobile networks pause for
    a second at a hand-over; giving up then would cost more than waiting."""

    def contradictions(self) -> Iterator[Contradiction]:
        if self.backoff_min > self.backoff_max:
            yield Contradiction(
                ("backoff_min",), "backoff_min is above backoff_max", "exchange them"
            )


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """A mobile device."""

    role: Literal["endpoint"]
    """Which daemon this file is for."""
    identity: Identity
    """What we prove to be: a name, a mail address, or the subject of our certificate."""
    server: Server
    auth: EndpointPsk | CertificateAuth
    tunnel: Tunnel = Tunnel()
    links: Links = Links()
    flows: tuple[Flows, ...] = ()
    hold: Hold = Hold()
    timers: EndpointTimers = EndpointTimers()
    keys: Keys = Keys()
    portal: Portal = Portal()
    control: Control = Control()
    metrics: Metrics = Metrics()
    charon: CharonSocket = CharonSocket()
    state: State = State()

    def mobility_policy(self, servers: tuple[IPAddress, ...]) -> MobilityPolicy:
        """`servers` is where the server was last known."""
        links, timers, tunnel = self.links, self.timers, self.tunnel
        return MobilityPolicy(
            servers=servers,
            choice=links.choice,
            seeks_mtu=tunnel.path_mtu,
            lossy=links.lossy / 100 if links.quality else None,
            warm_links=links.warm,
            race=links.race,
            flows=tuple(each.flow_class for each in self.flows),
            inner=Inner(tunnel.prefixes, tunnel.local_networks, tunnel.mtu),
            static_vips=tuple(tunnel.vips),
            attempt_limit=timers.attempt,
            backoff_min=timers.backoff_min,
            backoff_max=timers.backoff_max,
            probe_interval=timers.probe_interval,
            probe_idle=timers.probe_idle,
            dead_after=timers.dead_after,
            portal=self.portal.policy,
        )

    def contradictions(self) -> Iterator[Contradiction]:
        if self.identity == self.server.identity:
            yield Contradiction(
                ("server", "identity"),
                "the server has the endpoint's own identity",
                "give each its own",
            )
        for index, vip in enumerate(self.tunnel.vips):
            if vip in self.server.addresses:
                yield Contradiction(
                    ("tunnel", "vips", index),
                    f"{vip} is an address of the server",
                    "use an address of the server's [vip] pools",
                )
        yield from flows_faults(self.flows)


def inline_secret_faults(config: Path, auth: object) -> Iterator[Contradiction]:
    """A secret in the configuration file makes that file a secret."""
    if not isinstance(auth, dict) or "secret" not in auth:
        return
    found = config.stat()
    others = stat.S_IMODE(found.st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    if others or found.st_uid not in (0, os.geteuid()):
        yield Contradiction(
            ("auth", "secret"),
            "the secret stands in a file that others may read",
            f"run `chown root {config}; chmod 600 {config}`, or use secret_file",
        )
