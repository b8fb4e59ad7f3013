"""Looks the server's names up, and remembers the answers for starts without a network."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

from orchestrator.adapters.statefile import StateFile
from orchestrator.core.quantities import IPAddress

LOOK_UP_LIMIT: Final = 5.0
"""Seconds for all names together: what a resolver's first two tries take."""


async def look_up(names: Sequence[str], statefile: StateFile) -> tuple[IPAddress, ...]:
    """The addresses of all names, in their order; what was remembered if none answers."""
    if not names:
        return ()
    remembered = statefile.load()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOK_UP_LIMIT):
            answers = await asyncio.gather(
                *(loop.getaddrinfo(name, None, type=socket.SOCK_DGRAM) for name in names),
                return_exceptions=True,
            )
    except TimeoutError:
        return remembered.servers
    found = tuple(
        dict.fromkeys(
            ip_address(entry[4][0])
            for answer in answers
            if not isinstance(answer, BaseException)
            for entry in answer
        )
    )
    if not found:
        return remembered.servers
    statefile.save(replace(remembered, servers=found))
    return found
