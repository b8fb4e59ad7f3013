"""Answers for names on the router of an access network: what the lab has for DNS.

    python -m orchestrator.lab.dns ZONE PREFIX ADDRESS...

ZONE is a file of JSON, from a name to its addresses, read anew for each question; "null" is
silence. With PREFIX (otherwise "-") it is a DNS64: a name without IPv6 addresses gets its IPv4
addresses as the network's NAT64 writes them (RFC 6147). It says "ready" when it listens, then
what is asked.
"""

import json
import select
import socket
import sys
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Network, ip_address
from pathlib import Path
from typing import Final

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from orchestrator.core.nat64 import ASKED_ADDRESSES, ASKED_NAME, synthesize

PORT: Final = 53
READY: Final = b"ready\n"
LIVES: Final = 2
"""Seconds that an answer is good: short, so that stories need not wait."""
_OCTETS: Final = 4096
_FREEBIND: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),
}
"""IP_FREEBIND, IPV6_FREEBIND (include/uapi/linux/in.h, in6.h)."""

Zone = Mapping[str, Sequence[str]]


def answer(packet: bytes, zone: Zone, prefix: IPv6Network | None) -> bytes:
    """The response to a query; a name that is not in the zone does not exist."""
    query = dns.message.from_wire(packet)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    question = query.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    known = {ASKED_NAME: tuple(map(str, ASKED_ADDRESSES)), **zone}
    if name not in known:
        response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()
    addresses = [ip_address(text) for text in known[name]]
    found = [str(a) for a in addresses if a.version == 4]
    if question.rdtype == dns.rdatatype.AAAA:
        found = [str(a) for a in addresses if a.version == 6]
        if not found and prefix is not None:
            four = (a for a in addresses if isinstance(a, IPv4Address))
            found = [str(whole) for a in four if (whole := synthesize(prefix, a))]
    elif question.rdtype != dns.rdatatype.A:
        found = []
    if found:
        response.answer.append(
            dns.rrset.from_text(question.name, LIVES, question.rdclass, question.rdtype, *found)
        )
    return response.to_wire()


def serve(zone: Path, prefix: IPv6Network | None, addresses: Sequence[str]) -> None:
    """For ever."""
    sockets = [_open(address) for address in addresses]
    _say(READY.decode().strip())
    while True:
        readable, _, _ = select.select(sockets, [], [])
        for opened in readable:
            packet, source = opened.recvfrom(_OCTETS)
            asked = dns.message.from_wire(packet).question[0]
            _say(f"{asked.name} {dns.rdatatype.to_text(asked.rdtype)} {source[0]}")
            known: Zone | None = json.loads(zone.read_text())
            if known is not None:
                opened.sendto(answer(packet, known, prefix), source)


def _open(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    # The router has its address only while its link is up.
    level, option = _FREEBIND[family]
    opened.setsockopt(level, option, 1)
    opened.bind((address, PORT))
    return opened


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - what the lab waits for, and tests count


if __name__ == "__main__":
    zone_file, written_prefix, *own = sys.argv[1:]
    serve(
        Path(zone_file),
        None if written_prefix == "-" else IPv6Network(written_prefix),
        own,
    )
