"""Sockets that speak to the network we are attached to, beside the tunnel.

Each is bound to the link and to our address there, and has the mark of the underlay: the policy
rules give it the routing table of its path, and no virtual address is its source, ever. Raises
OSError: what cannot be reached is an expected outcome.
"""

import asyncio
import socket
from typing import Final

from orchestrator.core.kernel import MARK_UNDERLAY
from orchestrator.core.paths import Path
from orchestrator.core.quantities import IPAddress

FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def opened(kind: socket.SocketKind, link: str, pop: IPAddress) -> socket.socket:
    """One that does not block, at this address of ours on the link."""
    sock = socket.socket(FAMILIES[pop.version], kind | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_UNDERLAY)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        sock.bind((str(pop), 0))
    except OSError:
        sock.close()
        raise
    return sock


async def connected(
    path: Path, kind: socket.SocketKind, address: IPAddress, port: int
) -> socket.socket:
    """One that is connected from the path's point of presence."""
    sock = opened(kind, path.link_name, path.pop)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


async def exchange(
    path: Path, address: IPAddress, port: int, request: bytes, most: int
) -> bytes:
    """What comes back over TCP until the other side closes, or `most` octets of it."""
    loop = asyncio.get_running_loop()
    with await connected(path, socket.SOCK_STREAM, address, port) as sock:
        await loop.sock_sendall(sock, request)
        answer = bytearray()
        while len(answer) < most:
            chunk = await loop.sock_recv(sock, most - len(answer))
            if not chunk:
                break
            answer += chunk
    return bytes(answer)
