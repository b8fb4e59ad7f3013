"""Stock strongSwan with MOBIKE on the same hosts: what we are compared with.

As its documentation has it: charon installs policies, routes and the virtual address, notices
changes itself and announces them with MOBIKE (RFC 4555). Nothing in it is tuned down; the
plugin list, the algorithms and the lab are the same as ours.
"""

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from orchestrator.adapters.charon import Charon as Vici
from orchestrator.adapters.charon import NotNegotiated, ViciValue
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.quantities import IPAddress
from orchestrator.lab.charon import VICI_SOCKET, Charon
from orchestrator.lab.netns import Lab

CONNECTION: Final = "stock"
VIP: Final = ip_address("10.99.0.2")
POOL: Final = "10.99.0.2-10.99.0.2"
_SECRET: Final = b"the-lab-is-not-a-secret"
_CONF: Final = """\
charon {
    load = aes aesni gcm sha1 sha2 hmac kdf random drbg nonce x509 revocation constraints \
pubkey pkcs1 pkcs8 pem openssl kernel-netlink socket-default vici
}
"""
_INITIATE_LIMIT: Final = 20.0


class StockTunnel:
    """Both charons configured and the tunnel up; it lives as long as the lab."""

    def __init__(self, lab: Lab, dpd_delay_s: int = 0) -> None:
        """`dpd_delay_s` as in swanctl.conf(5): seconds of silence after which the endpoint asks
        whether the server is there; 0, the default there, too: never.

        Raises OrchestratorError with charon's own words if they do not connect.
        """
        self.vip: IPAddress = VIP
        self.charons: Final[dict[str, Charon]] = {}
        """By host."""
        conf = lab.folder / "stock.conf"
        conf.write_text(_CONF)
        lab.host("server").run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        for name, work in (
            ("server", _serve()),
            ("endpoint", _connect(lab.internet.address("server"), dpd_delay_s)),
        ):
            self.charons[name] = lab.start_charon(name, conf)
            # Sockets below /run are the host's own: whoever speaks to them does so inside.
            lab.host(name).inside(asyncio.run, work)


async def _serve() -> None:
    vici = Vici(VICI_SOCKET)
    await vici.load_shared("psk", _SECRET, ["carol", "gw"])
    await vici.load_pool("pool", POOL)
    await vici.load_connection(CONNECTION, _connection("gw", "carol", server=True))


async def _connect(server: IPAddress, dpd_delay_s: int) -> None:
    vici = Vici(VICI_SOCKET)
    await vici.load_shared("psk", _SECRET, ["carol", "gw"])
    connection = _connection("carol", "gw", server=False) | {
        "remote_addrs": [str(server)],
        "dpd_delay": f"{dpd_delay_s}s",
    }
    await vici.load_connection(CONNECTION, connection)
    outcome = await vici.initiate(CONNECTION, "net", _INITIATE_LIMIT)
    if isinstance(outcome, NotNegotiated):
        raise OrchestratorError(f"stock strongSwan does not connect: {outcome.detail}")


def _connection(local: str, remote: str, *, server: bool) -> dict[str, ViciValue]:
    child: Mapping[str, ViciValue] = {
        "esp_proposals": ["aes128gcm16-esn", "aes128gcm16"],
        ("local_ts" if server else "remote_ts"): ["10.50.0.0/15"],
    }
    message: dict[str, ViciValue] = {
        "version": "2",
        "mobike": "yes",
        "proposals": ["aes128gcm16-prfsha256-ecp256"],
        "local": {"auth": "psk", "id": local},
        "remote": {"auth": "psk", "id": remote},
        "children": {"net": child},
    }
    return message | ({"pools": ["pool"]} if server else {"vips": ["0.0.0.0"]})
