"""Judges what `orchestrator doctor` has read: readings in, findings out, each with its remedy.

What could not be read is a finding too. What is fine is silent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from orchestrator.core.kernel import MARK_UNDERLAY, TUN_ENDPOINT, TUN_SERVER
from orchestrator.core.quantities import IPAddress, IPNetwork

Role = Literal["endpoint", "server"]


class Severity(StrEnum):
    ERROR = "error"
    """Something does not work, or is not protected."""
    WARNING = "warning"
    """Something works worse than it could, or will stop working."""
    NOTICE = "notice"
    """Worth knowing."""


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    subject: str
    """What was looked at: "kernel", "sysctl", "charon", "addresses", …"""
    what: str
    remedy: str


class Feature(StrEnum):
    """What the kernel must be able to do, found out by trying."""

    ESP = "ESP with AES-GCM"
    TUN = "TUN devices"
    RULES = "policy routing"
    ENDPOINT_FIREWALL = "the endpoint's firewall"
    SERVER_FIREWALL = "the server's firewall, with tproxy"


@dataclass(frozen=True, slots=True)
class Tried:
    feature: Feature
    problem: str | None
    """Why it does not work; None: it does."""


@dataclass(frozen=True, slots=True)
class CharonReading:
    version: str | None = None
    """None: it does not answer."""
    problem: str = ""
    """Why it does not: a sentence about charon."""
    forbidden: bool = False
    """It does not because we may not ask it."""
    socket: str = ""
    settings: Mapping[str, str] | None = None
    """Its strongswan.conf by dotted names; None: could not be read."""
    settings_problem: str = ""
    settings_file: str = ""


@dataclass(frozen=True, slots=True)
class NetworkReading:
    """Addresses and default gateways as one source has them, the loopback and our own devices
    left away."""

    addresses: frozenset[tuple[str, IPAddress]] = frozenset()
    """With the name of their link."""
    gateways: frozenset[tuple[str, IPAddress]] = frozenset()


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the configuration says about this machine's networks."""

    links: tuple[str, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    pools: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True, slots=True)
class Readings:
    role: Role | None
    """None: no configuration was given; what concerns one role only is left away."""
    tried: tuple[Tried, ...] = ()
    not_tried: str = ""
    """Why nothing could be tried; empty: everything was."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """By path below /proc/sys; a setting that this kernel lacks is not there."""
    xfrm_counters: Mapping[str, int] = field(default_factory=dict)
    charon: CharonReading = CharonReading()
    links: frozenset[str] = frozenset()
    first: NetworkReading = NetworkReading()
    """rtnetlink, as the daemon reads it; only what stood still meanwhile."""
    second: NetworkReading = NetworkReading()
    """netifaces."""
    daemon_paths: tuple[tuple[str, IPAddress], ...] | None = None
    """Links and points of presence of a running endpoint's paths; None: none runs."""
    daemon_warnings: tuple[str, ...] = ()
    daemon_detached: tuple[str, ...] | None = None
    """Why a running endpoint has no path that carries traffic; None: it has one."""
    expected: Expectations = Expectations()


def judge(readings: Readings) -> tuple[Finding, ...]:
    """Every finding, the worst first."""
    found = (
        *_features(readings),
        *_settings(readings),
        *_counters(readings),
        *_charon(readings),
        *_networks(readings),
        *_daemon(readings),
    )
    order = list(Severity)
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


# The kernel

_NEEDED_BY: Final[Mapping[Feature, tuple[Role, ...]]] = {
    Feature.ESP: ("endpoint", "server"),
    Feature.TUN: ("endpoint", "server"),
    Feature.RULES: ("endpoint", "server"),
    Feature.ENDPOINT_FIREWALL: ("endpoint",),
    Feature.SERVER_FIREWALL: ("server",),
}
_FEATURE_REMEDY: Final[Mapping[Feature, str]] = {
    Feature.ESP: (
        "use a kernel with CONFIG_INET_ESP, CONFIG_INET6_ESP and CONFIG_CRYPTO_GCM, or load "
        "them: `modprobe esp4 esp6 gcm`"
    ),
    Feature.TUN: "`modprobe tun`, or use a kernel with CONFIG_TUN; in a container, give it "
    "/dev/net/tun",
    Feature.RULES: "use a kernel with CONFIG_IP_MULTIPLE_TABLES and its IPv6 counterpart",
    Feature.ENDPOINT_FIREWALL: "install nftables, and use a kernel with CONFIG_NF_TABLES_INET "
    "and CONFIG_NFT_XFRM",
    Feature.SERVER_FIREWALL: "install nftables, and use a kernel with CONFIG_NF_TABLES_INET, "
    "CONFIG_NFT_XFRM, CONFIG_NFT_TPROXY, CONFIG_NFT_SOCKET and CONFIG_NFT_FIB_INET",
}


def _features(readings: Readings) -> Iterator[Finding]:
    if readings.not_tried:
        yield Finding(
            Severity.WARNING,
            "kernel",
            f"its features could not be tried: {readings.not_tried}",
            "run this as root",
        )
    for tried in readings.tried:
        needed = readings.role is None or readings.role in _NEEDED_BY[tried.feature]
        if tried.problem is not None and needed:
            yield Finding(
                Severity.ERROR,
                "kernel",
                f"{tried.feature} does not work: {tried.problem}",
                _FEATURE_REMEDY[tried.feature],
            )


_STRICT: Final = "1"


def _settings(readings: Readings) -> Iterator[Finding]:
    sysctls = readings.sysctls
    if sysctls.get("net/ipv4/ip_no_pmtu_disc", "0") != "0":
        yield _setting(
            Severity.ERROR,
            "net.ipv4.ip_no_pmtu_disc",
            "charon's updates of SAs fail on some kernels, and large packets vanish",
            "0",
        )
    if sysctls.get("net/core/xfrm_larval_drop", "1") == "0":
        yield _setting(
            Severity.WARNING,
            "net.core.xfrm_larval_drop",
            "applications hang while an SA is missing, instead of repeating their packets",
            "1",
        )
    yield from _per_link(readings)
    for family in ("ipv4", "ipv6"):
        linkdown = f"net/{family}/conf/all/ignore_routes_with_linkdown"
        if readings.role != "server" and sysctls.get(linkdown) == "1":
            yield _setting(
                Severity.ERROR,
                linkdown.replace("/", "."),
                "while no daemon runs the TUN has no carrier, and its route is passed over",
                "0",
            )
    forwarding = {"net/ipv4/ip_forward": 4, "net/ipv6/conf/all/forwarding": 6}
    for path, version in forwarding.items():
        served = any(pool.version == version for pool in readings.expected.pools)
        running = readings.daemon_paths is not None
        if readings.role == "server" and served and running and sysctls.get(path) == "0":
            yield _setting(
                Severity.ERROR,
                path.replace("/", "."),
                "somebody switched off what the daemon had switched on: nothing is forwarded",
                "1",
            )


def _per_link(readings: Readings) -> Iterator[Finding]:
    sysctls = readings.sysctls
    relaxed = sysctls.get("net/ipv4/conf/all/rp_filter") == "2"
    for link in sorted(readings.links):
        prefix = f"net/ipv4/conf/{link}"
        strict = _STRICT in (
            sysctls.get(f"{prefix}/rp_filter"),
            sysctls.get("net/ipv4/conf/all/rp_filter"),
        )
        loose = relaxed or sysctls.get(f"{prefix}/rp_filter") == "2"
        if strict and not loose:
            yield _setting(
                Severity.ERROR,
                "net.ipv4.conf.all.rp_filter",
                f"is strict on {link}: with several links, or behind a tunnel, what comes in "
                "there is dropped",
                "2",
            )
        for name in ("disable_xfrm", "disable_policy"):
            if sysctls.get(f"{prefix}/{name}", "0") != "0":
                yield _setting(
                    Severity.ERROR,
                    f"net.ipv4.conf.{link}.{name}",
                    "IPsec is switched off on this link: what should be protected is not",
                    "0",
                )


def _setting(severity: Severity, name: str, why: str, value: str) -> Finding:
    return Finding(
        severity,
        "sysctl",
        f"{name}: {why}",
        f"`sysctl -w {name}={value}`, and the same line in /etc/sysctl.d/",
    )


_COUNTERS: Final[Mapping[str, str]] = {
    "XfrmInNoStates": "ESP came for SAs that are not here: somebody keeps using an old SPI",
    "XfrmInStateProtoError": "ESP came that could not be decrypted: keys differ, or somebody "
    "forges packets",
    "XfrmInStateSeqError": "ESP was dropped as a replay: paths of very different delay, or "
    "somebody replays packets",
    "XfrmInTmplMismatch": "packets came that a policy does not accept: unprotected, or out of "
    "the wrong SA",
    "XfrmInNoPols": "packets came out of an SA for which there is no policy",
    "XfrmOutNoStates": "packets were to be protected while there was no SA",
    "XfrmOutStateSeqError": "the sequence numbers of an SA ran out",
    "XfrmInBufferError": "the kernel had no memory for packets",
}
MANY_PACKETS: Final = 100
"""Below, a count says no more than that a tunnel was replaced once upon a time."""


def _counters(readings: Readings) -> Iterator[Finding]:
    for name, meaning in _COUNTERS.items():
        count = readings.xfrm_counters.get(name, 0)
        if count >= MANY_PACKETS:
            yield Finding(
                Severity.NOTICE,
                "xfrm",
                f"{name} is {count} since boot: {meaning}",
                "look whether it still grows: `cat /proc/net/xfrm_stat`",
            )


# charon

OLDEST_CHARON: Final = (5, 9, 2)
"""The first whose ike-update event comes for moves by authenticated packets."""
_WANTED_SETTINGS: Final[Mapping[str, tuple[str, Severity, str]]] = {
    "charon.install_routes": ("no", Severity.ERROR, "charon's routes get in our routes' way"),
    "charon.routing_table": (
        "0",
        Severity.ERROR,
        "charon's rule `lookup 220` stands even without its routes",
    ),
    "charon.install_virtual_ip": (
        "no",
        Severity.ERROR,
        "charon puts the virtual address on whatever link is up",
    ),
    "charon.reuse_ikesa": (
        "no",
        Severity.ERROR,
        "a path is not renewed by an IKE_SA of its own",
    ),
    "charon.plugins.kernel-netlink.roam_events": (
        "no",
        Severity.ERROR,
        "charon reacts to new addresses itself, against us",
    ),
    "charon.plugins.socket-default.fwmark": (
        f"{MARK_UNDERLAY:#x}",
        Severity.ERROR,
        "IKE goes into the tunnel that it is to set up",
    ),
    "charon.plugins.socket-default.set_source": (
        "yes",
        Severity.WARNING,
        "IKE packets may leave from another address than their path's",
    ),
}
_YES: Final = frozenset({"yes", "true", "1", "enabled"})
_NO: Final = frozenset({"no", "false", "0", "disabled"})


def _charon(readings: Readings) -> Iterator[Finding]:
    charon = readings.charon
    if charon.version is None:
        yield Finding(
            Severity.ERROR,
            "charon",
            charon.problem.removeprefix("charon "),
            "run this as root"
            if charon.forbidden
            else "start it: `systemctl start orchestrator-charon`, the unit of the README; if "
            "its VICI socket is another one, name that in [charon] socket",
        )
        return
    numbers = tuple(int(part) for part in charon.version.split(".") if part.isdigit())
    if numbers and numbers < OLDEST_CHARON:
        oldest = ".".join(str(number) for number in OLDEST_CHARON)
        yield Finding(
            Severity.ERROR,
            "charon",
            f"strongSwan {charon.version} is too old",
            f"install {oldest} or newer",
        )
    if charon.settings is None:
        yield Finding(
            Severity.WARNING,
            "charon",
            f"its settings could not be read: {charon.settings_problem}",
            "run this as root, on the machine that charon runs on",
        )
        return
    for name, (value, severity, why) in _WANTED_SETTINGS.items():
        found = charon.settings.get(name)
        if not _same(found, value):
            told = "is not set" if found is None else f"is {found}"
            yield Finding(
                severity,
                "charon",
                f"{name} {told} in {charon.settings_file}: {why}",
                f"set it to {value} there (`include` our strongswan-conf), and restart charon",
            )


def _same(found: str | None, wanted: str) -> bool:
    if found is None:
        return False
    if wanted in _YES | _NO and wanted not in ("0", "1"):
        return found.lower() in (_YES if wanted in _YES else _NO)
    try:
        return int(found.partition("/")[0], 0) == int(wanted, 0)
    except ValueError:
        return found == wanted


# Networks

OURS: Final = frozenset({"lo", TUN_ENDPOINT, TUN_SERVER})


def _networks(readings: Readings) -> Iterator[Finding]:
    first, second = readings.first, readings.second
    both = "restart the daemon, and send us the output of `orchestrator doctor --json`"
    for link, address in sorted(first.addresses - second.addresses, key=str):
        yield Finding(
            Severity.ERROR,
            "addresses",
            f"rtnetlink has {address} on {link}, netifaces has not",
            both,
        )
    for link, address in sorted(second.addresses - first.addresses, key=str):
        yield Finding(
            Severity.ERROR,
            "addresses",
            f"netifaces has {address} on {link}, rtnetlink has not",
            both,
        )
    # The other way round proves nothing: netifaces looks into all routing tables.
    for link, gateway in sorted(first.gateways - second.gateways, key=str):
        yield Finding(
            Severity.ERROR,
            "gateways",
            f"rtnetlink has the gateway {gateway} on {link}, netifaces has not",
            both,
        )
    yield from _expected(readings)


def _expected(readings: Readings) -> Iterator[Finding]:
    expected = readings.expected
    present = {address for _, address in readings.first.addresses}
    for link in expected.links:
        if link not in readings.links:
            yield Finding(
                Severity.ERROR,
                "configuration",
                f"there is no interface {link} here",
                "correct the configuration, or see `ip link`",
            )
    for wanted in expected.addresses:
        if wanted not in present:
            yield Finding(
                Severity.ERROR,
                "configuration",
                f"{wanted} is on no interface here",
                "correct [underlay] addresses, or see `ip address`",
            )
    for link, address in sorted(readings.first.addresses, key=str):
        for pool in expected.pools:
            if address in pool:
                yield Finding(
                    Severity.ERROR,
                    "configuration",
                    f"{address} on {link} is in the pool {pool} of virtual addresses",
                    "choose pools that are no network of this machine",
                )


def _daemon(readings: Readings) -> Iterator[Finding]:
    if readings.daemon_paths is None:
        yield Finding(
            Severity.NOTICE,
            "daemon",
            "it is not running",
            "start it: `orchestrator run CONFIG`",
        )
        return
    for link, pop in readings.daemon_paths:
        if (link, pop) not in readings.second.addresses:
            yield Finding(
                Severity.ERROR,
                "addresses",
                f"the daemon has a path from {pop} on {link}, netifaces has no such address",
                "restart the daemon, and send us the output of `orchestrator doctor --json`",
            )
    if readings.daemon_detached is not None:
        yield Finding(
            Severity.WARNING,
            "daemon",
            f"the endpoint is detached: {', '.join(readings.daemon_detached)}",
            "see `orchestrator paths`, and `orchestrator watch` for what is tried",
        )
    for warning in readings.daemon_warnings:
        yield Finding(Severity.WARNING, "daemon", warning, "see `orchestrator status`")
