"""HTTP as far as asking through a network takes it: one GET, and what its answer begins with.

The request is HTTP/1.0, so that the answer has no chunks and ends with its connection (RFC
1945, 7.2.2; RFC 9112, 6.1). Of the answer only the status and the body matter; both come from
whoever operates the network, and are compared, never shown.
"""

import re
from dataclasses import dataclass
from typing import Final

from orchestrator.core.errors import PeerError

ANSWER_LIMIT: Final = 16 * 1024
"""Octets of an answer that are looked at; what follows cannot make it the expected one."""

_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")


def encode_request(authority: str, target: str) -> bytes:
    """A GET of `target` (path and query) from `authority` (host, and port if it is not 80).

    Both are visible ASCII without blanks.
    """
    return (
        f"GET {target} HTTP/1.0\r\nHost: {authority}\r\n"
        "Cache-Control: no-cache\r\nConnection: close\r\n\r\n"
    ).encode("ascii")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    body: bytes


def decode_answer(octets: bytes) -> HttpAnswer:
    """What came until the connection ended, or ANSWER_LIMIT of it. Raises PeerError for
    anything that does not begin as HTTP/1."""
    begin = _STATUS.match(octets)
    if begin is None:
        raise PeerError("the answer is not HTTP")
    end = _END_OF_HEAD.search(octets, begin.end() - 2)
    return HttpAnswer(int(begin[1]), b"" if end is None else octets[end.end() :])
