"""Asks through a network for what the operator named, and compares.

Bounded in time and octets; follows no redirection, keeps nothing of the answer, and shows
nothing of it but its status.
"""

import asyncio
from typing import Final

from orchestrator.adapters import outside
from orchestrator.config.endpoint import Portal
from orchestrator.core.errors import PeerError
from orchestrator.core.portal_events import AskPortal, Finding, PortalAnswered
from orchestrator.wire.http_answer import ANSWER_LIMIT, decode_answer, encode_request

LIMIT: Final = 5.0
"""Seconds for the whole of it: three SYNs, and time for a slow page."""


async def ask(wanted: Portal, order: AskPortal) -> PortalAnswered:
    """What came of it; always an outcome."""
    if wanted.url is None:
        return PortalAnswered(order.number, Finding.SILENT, "nobody is to be asked")
    host, port, target = wanted.url
    request = encode_request(wanted.url.authority, target)
    try:
        async with asyncio.timeout(LIMIT):
            octets = await outside.exchange(order.path, host, port, request, ANSWER_LIMIT)
        answer = decode_answer(octets)
    except (OSError, TimeoutError, PeerError) as error:
        return PortalAnswered(order.number, Finding.SILENT, f"{type(error).__name__}")
    if answer.status != wanted.status:
        detail = f"{wanted.url} was answered with {answer.status}, not {wanted.status}"
        return PortalAnswered(order.number, Finding.PORTAL, detail)
    if wanted.body is not None and answer.body.strip() != wanted.body.strip().encode():
        return PortalAnswered(order.number, Finding.PORTAL, f"{wanted.url} has another content")
    return PortalAnswered(order.number, Finding.OPEN)
