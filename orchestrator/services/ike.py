"""What both daemons do with charon: follow its events, and say how to negotiate.

Connections are loaded over VICI and live as long as charon does; nothing of ours stands in
swanctl.conf. Policies are never charon's (`policies = no`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from orchestrator.adapters.charon import Charon, ViciMessage, ViciValue
from orchestrator.config.common import Keys
from orchestrator.core.errors import CharonError
from orchestrator.core.ike import CharonGone, CharonUp, IkeEvent
from orchestrator.core.kernel import ENDPOINT_REQID, MARK_MASK, MARK_UNDERLAY
from orchestrator.core.mobility_events import Ask
from orchestrator.core.paths import Path
from orchestrator.core.quantities import IPAddress, host_network

RECONNECT: Final = 0.25
"""Seconds between two tries to reach an absent charon; a try costs one connect()."""
CHILD: Final = "inner"

PROPOSALS: Final = ("aes128gcm16-prfsha256-ecp256", "aes256gcm16-prfsha384-ecp384", "default")
"""AEAD and a fast curve first: a key exchange costs 1 ms on a phone, not 20."""
ESP_PROPOSALS: Final = ("aes128gcm16-esn", "aes256gcm16-esn", "aes128gcm16", "default")
REPLAY_WINDOW: Final = 256
"""Packets. The default of 32 is too small where two paths of different delay overlap."""
NAT_PORT: Final = "4500"
"""Of IKE and ESP alike. RFC 7296, 2.23, allows it from the first message on: with ESP in UDP a
network that does not let it through is of no use, one that blocks 500 is, and a NAT has one
mapping to keep. charon marks IKE as such where neither port is 500 (libcharon, sender.c)."""
UNDERLAY_MARK: Final = f"{MARK_UNDERLAY:#x}/{MARK_MASK:#x}"
EVERYTHING: Final = ("0.0.0.0/0", "::/0")


async def follow(
    charon: Charon, prepare: Callable[[], Awaitable[None]], post: Callable[[IkeEvent], None]
) -> None:
    """Posts charon's events for ever. `prepare` runs each time that charon appears, before."""
    absent = False
    while True:
        try:
            async for event in charon.events():
                if isinstance(event, CharonUp):
                    await prepare()
                    absent = False
                post(event)
        except CharonError as error:
            if not absent:
                post(CharonGone(str(error)))
            absent = True
        await asyncio.sleep(RECONNECT)


def endpoint_connection(
    path: Path,
    ask: Ask,
    fixed: Sequence[IPAddress],
    local_auth: ViciMessage,
    remote_auth: ViciMessage,
    keys: Keys,
) -> ViciMessage:
    """An IKE_SA on this path alone; how it gets its virtual addresses is `ask`."""
    offered = {
        Ask.LEASED: list(EVERYTHING),
        Ask.ASSIGN: ["dynamic"],
        Ask.FIXED: [str(host_network(vip)) for vip in fixed],
    }
    return {
        **_common(keys),
        "local_addrs": [str(path.pop)],
        "remote_addrs": [str(path.server)],
        "local_port": NAT_PORT,
        "remote_port": NAT_PORT,
        # The server must take us for being behind a NAT, so that it follows our packets.
        "encap": "yes",
        **({"vips": ["0.0.0.0", "::"]} if ask is Ask.ASSIGN else {}),
        "local": local_auth,
        "remote": remote_auth,
        "children": {
            CHILD: {
                **_child(keys),
                "local_ts": offered[ask],
                "remote_ts": list(EVERYTHING),
                "reqid": str(ENDPOINT_REQID),
                # ESP is underlay: our rules keep packets with this mark out of the tunnel.
                "set_mark_out": UNDERLAY_MARK,
            }
        },
    }


def newcomer_connection(
    pools: Sequence[str], local_auth: ViciMessage, remote_auth: ViciMessage, keys: Keys
) -> ViciMessage:
    """For every endpoint that can prove an identity without a lease: it must request one.

    charon answers FAILED_CP_REQUIRED to those that do not (libcharon child_create.c).
    """
    return {
        **_server_connection(local_auth, remote_auth, ["dynamic"], keys),
        "pools": list(pools),
    }


def leased_connection(
    vips: Sequence[IPAddress], local_auth: ViciMessage, remote_auth: ViciMessage, keys: Keys
) -> ViciMessage:
    """For one identity (in `remote_auth`): whatever it offers is narrowed to its lease.

    charon prefers the connection with the more specific remote identity. Each has traffic
    selectors of its own, so that charon gives each session a reqid of its own.
    """
    hosts = [str(host_network(vip)) for vip in vips]
    return _server_connection(local_auth, remote_auth, hosts, keys)


def _server_connection(
    local_auth: ViciMessage, remote_auth: ViciMessage, remote_ts: list[str], keys: Keys
) -> ViciMessage:
    child = {**_child(keys), "local_ts": list(EVERYTHING), "remote_ts": remote_ts}
    return {
        **_common(keys),
        "local_addrs": ["%any"],
        "remote_addrs": ["%any"],
        "local": local_auth,
        "remote": remote_auth,
        "children": {CHILD: child},
    }


def _common(keys: Keys) -> dict[str, ViciValue]:
    return {
        "version": "2",
        "proposals": list(PROPOSALS),
        # Moving is ours: MOBIKE would update addresses after its own timers.
        "mobike": "no",
        # The old and the new IKE_SA of one identity exist side by side during a move.
        "unique": "never",
        # Our probes notice a dead peer sooner; and an absent endpoint shall not be deleted.
        "dpd_delay": "0s",
        "rekey_time": f"{keys.ike:.0f}s",
        "fragmentation": "yes",
    }


def _child(keys: Keys) -> dict[str, ViciValue]:
    return {
        "mode": "tunnel",
        "policies": "no",
        "esp_proposals": list(ESP_PROPOSALS),
        "rekey_time": f"{keys.child:.0f}s",
        "replay_window": str(REPLAY_WINDOW),
        "start_action": "none",
        "close_action": "none",
        "dpd_action": "clear",
    }
