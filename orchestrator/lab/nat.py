"""Has a router of the lab forget its NAT mappings, as real ones do that are short of them.

The next packet of each connection gets a port that it did not have before: whoever is beyond
sees it come from elsewhere. Layouts: include/uapi/linux/netfilter/nfnetlink{,_conntrack}.h.
"""

import socket
import struct
from typing import Final

from orchestrator.core.errors import KernelError
from orchestrator.lab.host import Host

_NETLINK_NETFILTER: Final = 12
_CONNTRACK_DELETE: Final = 1 << 8 | 2
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE; without attributes it is for all entries."""
_REQUEST_AND_ACK: Final = 0x1 | 0x4
_MESSAGE: Final = struct.Struct("=IHHIIBBH")
"""nlmsghdr, and nfgenmsg: family, version, resource."""
_OUTCOME: Final = struct.Struct("=IHHIIi")
_FIRST_PORT: Final = 20_000
_PORTS: Final = 1000
"""For each time: no port is met again before forty others."""
_TIMES: Final = 40


class Nat:
    """The masquerading router on a host."""

    def __init__(self, host: Host, device: str) -> None:
        """`device` is where its addresses are translated on the way out."""
        self._host = host
        self._device = device
        self._times = 0

    def rebind(self) -> None:
        """Raises KernelError."""
        first = _FIRST_PORT + _PORTS * (self._times % _TIMES)
        self._times += 1
        self._host.run(["nft", "-f", "-"], input=self._rules(first, first + _PORTS - 1))
        self._host.inside(_forget_all)

    def _rules(self, first: int, last: int) -> str:
        return f"""
            flush chain ip lab postrouting
            table ip lab {{
                chain postrouting {{
                    oifname "{self._device}" meta l4proto udp masquerade to :{first}-{last}
                    oifname "{self._device}" masquerade
                }}
            }}
        """


def _forget_all() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as line:
        line.bind((0, 0))
        line.send(
            _MESSAGE.pack(
                _MESSAGE.size, _CONNTRACK_DELETE, _REQUEST_AND_ACK, 1, 0, socket.AF_INET, 0, 0
            )
        )
        outcome = _OUTCOME.unpack_from(line.recv(4096))[-1]
    if outcome:
        raise KernelError(-outcome, "flush", "connection tracking")
