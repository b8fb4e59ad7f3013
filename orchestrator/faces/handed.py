"""Takes the sockets that a client of the control socket hands to the daemon.

They come in one message of `adapters.fdpass`, over the connection that otherwise carries lines.
Until they are here the connection is not read in the usual way, which would lose them.
"""

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Final

from orchestrator.adapters import enclosure
from orchestrator.adapters.fdpass import Channel, close_all
from orchestrator.core.errors import KernelError, PeerError
from orchestrator.core.quantities import Seconds

MOST_OCTETS: Final = 16
"""Of the message that brings them; it has nothing to say."""
KINDS: Final = (socket.AF_INET, socket.AF_INET6)


async def listeners(
    writer: asyncio.StreamWriter, terms: bytes, limit: Seconds
) -> Sequence[socket.socket]:
    """Tells the client the terms, and waits for its sockets, which are the caller's to close.

    Raises PeerError if they are not what a program that is kept apart listens at: sockets of
    IP, in another network than this host's. TimeoutError if they do not come.
    """
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket's transport
    connection = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    try:
        writer.write(terms)
        channel = Channel(connection, MOST_OCTETS, limit, limit)
        # A thread, as the channel waits; for `limit` at most.
        _, descriptors = await asyncio.to_thread(channel.receive)
    finally:
        connection.close()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
    return _checked(descriptors)


def _checked(descriptors: Sequence[int]) -> Sequence[socket.socket]:
    """A way for one program must not become one for all of this host."""
    taken: list[socket.socket] = []
    try:
        taken += [socket.socket(fileno=os.dup(descriptor)) for descriptor in descriptors]
        apart = all(map(_is_apart, taken))
    except (OSError, KernelError) as error:
        _close(taken)
        raise PeerError("these are not sockets") from error
    finally:
        close_all(descriptors)
    if not apart:
        _close(taken)
        raise PeerError("these are not the sockets of a program that is kept apart")
    return taken


def _is_apart(sock: socket.socket) -> bool:
    return sock.family in KINDS and enclosure.network_of(sock) != enclosure.own_network()


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
