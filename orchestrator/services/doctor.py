"""Examines this machine: gathers the readings that `core.diagnosis` judges."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Protocol

from orchestrator.adapters import diagnosis
from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.config.endpoint import EndpointConfig
from orchestrator.config.server import ServerConfig
from orchestrator.core.diagnosis import (
    OURS,
    CharonReading,
    Expectations,
    Feature,
    Finding,
    NetworkReading,
    Readings,
    Tried,
    judge,
)
from orchestrator.core.endpoint_state import SERVICE_PORT
from orchestrator.core.errors import CharonError
from orchestrator.core.firewall import (
    ProxyPorts,
    ServerFirewall,
    endpoint_ruleset,
    server_ruleset,
)
from orchestrator.core.kernel import MARK_MASK, MARK_UNDERLAY, TUN_ENDPOINT
from orchestrator.core.network import Snapshot
from orchestrator.core.quantities import IPNetwork

ESP: Final = (
    "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100 mode tunnel "
    "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128"
)
"""A key that everybody knows, in a namespace that vanishes."""
_MARKED: Final = f"rule add priority 11150 fwmark {MARK_UNDERLAY:#x}/{MARK_MASK:#x}"
RULES: Final = f"""\
{_MARKED} lookup 11100
rule add priority 11160 lookup main suppress_prefixlength 0
"""

_ERRNO: Final = re.compile(r"\[Errno -?\d+\] ")
"""As Python begins the text of an OSError."""


class CharonProbe(Protocol):
    """As much of charon as the doctor needs (`adapters.charon.Charon`)."""

    async def version(self) -> str: ...


@dataclass(frozen=True, slots=True)
class DaemonReading:
    """What a running daemon says of itself."""

    paths: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]
    detached: Sequence[str] | None = None
    """The reasons of an endpoint that is; None: it is not."""


async def examine(
    config: EndpointConfig | ServerConfig | None,
    charon: CharonProbe,
    vici: Path,
    daemon: DaemonReading | None,
) -> tuple[Finding, ...]:
    """Every finding, the worst first. `daemon` None: it is not running."""
    not_tried = in_words(await asyncio.to_thread(diagnosis.may_try))
    readings = Readings(
        role=config.role if config else None,
        tried=() if not_tried else await asyncio.to_thread(_try_features, config),
        not_tried=not_tried,
        sysctls=diagnosis.sysctls(),
        xfrm_counters=diagnosis.xfrm_counters(),
        charon=await _charon(charon, vici),
        links=diagnosis.links(),
        expected=_expectations(config),
    )
    first, second = await _networks()
    readings = replace(readings, first=first, second=second)
    if daemon is not None:
        paths = tuple((str(way["link"]), ip_address(way["pop"])) for way in daemon.paths)
        readings = replace(
            readings,
            daemon_paths=paths,
            daemon_warnings=tuple(daemon.warnings),
            daemon_detached=None if daemon.detached is None else tuple(daemon.detached),
        )
    return judge(readings)


def _try_features(config: EndpointConfig | ServerConfig | None) -> tuple[Tried, ...]:
    pools: tuple[IPNetwork, ...] = ()
    underlay: tuple[str, ...] = ("lo",)
    if isinstance(config, ServerConfig):
        pools, underlay = config.vip.pools, config.underlay.interfaces
    check = ["nft", "--check", "--file", "-"]
    ports = ProxyPorts(1, 2)  # any will do: the ruleset is checked, not loaded
    server = server_ruleset(ServerFirewall(underlay, pools, SERVICE_PORT, ports))
    endpoint = endpoint_ruleset((), TUN_ENDPOINT)
    run = diagnosis.try_in_namespace
    ip = ["ip", "-batch", "-"]
    problems = {
        Feature.ESP: run(ESP.split()),
        Feature.TUN: diagnosis.try_tun(),
        Feature.RULES: run(ip, RULES) or run(["ip", "-6", *ip[1:]], RULES),
        Feature.ENDPOINT_FIREWALL: run(check, endpoint),
        Feature.SERVER_FIREWALL: run(check, server),
    }
    return tuple(
        Tried(feature, problem and in_words(problem)) for feature, problem in problems.items()
    )


def in_words(problem: str) -> str:
    """What the system says, without its number."""
    return _ERRNO.sub("", problem)


async def _charon(charon: CharonProbe, vici: Path) -> CharonReading:
    try:
        version = await charon.version()
    except CharonError as error:
        return CharonReading(
            problem=in_words(str(error)),
            forbidden=isinstance(error.__cause__, PermissionError),
            socket=str(vici),
        )
    return replace(diagnosis.charon_settings(vici), version=version)


async def _networks() -> tuple[NetworkReading, NetworkReading]:
    """Both readings; what changed between two looks with rtnetlink is left out of both."""
    async with Rtnetlink() as rtnetlink:
        before = network_reading(await rtnetlink.snapshot())
        second = diagnosis.second_reading()
        after = network_reading(await rtnetlink.snapshot())
    moving = before.addresses ^ after.addresses
    first = NetworkReading(before.addresses & after.addresses, before.gateways & after.gateways)
    return first, replace(second, addresses=second.addresses - moving)


def network_reading(snapshot: Snapshot) -> NetworkReading:
    """The daemon's own picture, in the terms that netifaces has."""
    names = {link.index: link.name for link in snapshot.links}
    addresses = frozenset(
        (names[entry.link], entry.address)
        for entry in snapshot.addresses
        if names.get(entry.link, "lo") not in OURS and not entry.address.is_link_local
    )
    gateways = frozenset(
        (names[gateway.link], gateway.address)
        for gateway in snapshot.gateways
        if gateway.address is not None and names.get(gateway.link, "lo") not in OURS
    )
    return NetworkReading(addresses, gateways)


def _expectations(config: EndpointConfig | ServerConfig | None) -> Expectations:
    if not isinstance(config, ServerConfig):
        return Expectations()
    return Expectations(
        links=(*config.underlay.interfaces, *config.lan.interfaces),
        addresses=config.underlay.addresses,
        pools=config.vip.pools,
    )
