"""The control protocol: golden lines both ways, and nothing but PeerError for the rest."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import ConfigFault, PeerError
from orchestrator.wire.control import (
    REQUEST_LIMIT,
    Done,
    Json,
    Refusal,
    Reply,
    Request,
    Verb,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    plain,
)

REQUESTS = [
    (Request(Verb.STATUS), b'{"v":1,"verb":"status"}\n'),
    (Request(Verb.PATHS), b'{"v":1,"verb":"paths"}\n'),
    (Request(Verb.SESSIONS), b'{"v":1,"verb":"sessions"}\n'),
    (Request(Verb.FLOWS), b'{"v":1,"verb":"flows"}\n'),
    (Request(Verb.WATCH), b'{"v":1,"verb":"watch"}\n'),
    (Request(Verb.ROAM), b'{"v":1,"verb":"roam","link":null}\n'),
    (Request(Verb.PORTAL, "wlan0"), b'{"v":1,"verb":"portal","link":"wlan0"}\n'),
    (Request(Verb.ROAM, "wlan0"), b'{"v":1,"verb":"roam","link":"wlan0"}\n'),
    (Request(Verb.METRICS), b'{"v":1,"verb":"metrics"}\n'),
    (Request(Verb.RELOAD), b'{"v":1,"verb":"reload"}\n'),
    (Request(Verb.REPLACE_PROXY), b'{"v":1,"verb":"replace-proxy"}\n'),
    (Request(Verb.STOP), b'{"v":1,"verb":"stop"}\n'),
]
REPLIES: list[tuple[Reply, bytes]] = [
    (Done({"state": "attached"}), b'{"ok":true,"result":{"state":"attached"}}\n'),
    (Done([]), b'{"ok":true,"result":[]}\n'),
    (Done(None), b'{"ok":true,"result":null}\n'),
    (
        Refusal("no usable path over wlan9", "choose one of: wlan0"),
        b'{"ok":false,"error":"no usable path over wlan9","remedy":"choose one of: wlan0"}\n',
    ),
    (
        Refusal("e", faults=(ConfigFault(Path("f"), 7, "p", ""),)),
        b'{"ok":false,"error":"e","remedy":"","faults":[{"file":"f","line":7,"problem":"p","remedy":""}]}\n',
    ),
]
JSON: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(("request_", "line"), REQUESTS)
def test_requests_have_these_octets(request_: Request, line: bytes) -> None:
    assert encode_request(request_) == line
    assert decode_request(line) == request_


@pytest.mark.parametrize(("reply", "line"), REPLIES)
def test_replies_have_these_octets(reply: Reply, line: bytes) -> None:
    assert encode_reply(reply) == line
    assert decode_reply(line) == reply


def test_every_verb_is_in_the_examples() -> None:
    assert {request.verb for request, _ in REQUESTS} == set(Verb)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"status\n",
        b"[]\n",
        b"{}\n",
        b'{"verb":"status"}\n',
        b'{"v":2,"verb":"status"}\n',
        b'{"v":true,"verb":"status"}\n',
        b'{"v":1}\n',
        b'{"v":1,"verb":"reboot"}\n',
        b'{"v":1,"verb":["status"]}\n',
        b'{"v":1,"verb":"status","link":"wlan0"}\n',
        b'{"v":1,"verb":"roam","link":7}\n',
        b'{"v":1,"verb":"roam","link":""}\n',
        b'{"v":1,"verb":"status"}',
        b'{"v":1,"verb":"roam","link":"' + b"x" * 65 + b'"}\n',
        b'{"v":1,"verb":"status"}' + b" " * REQUEST_LIMIT + b"\n",
        b"[" * (REQUEST_LIMIT - 1) + b"\n",
        b"9" * (REQUEST_LIMIT - 1) + b"\n",
        b'\xff{"v":1}\n',
    ],
)
def test_anything_else_is_no_request(line: bytes) -> None:
    with pytest.raises(PeerError):
        decode_request(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b'{"ok":true}\n',
        b'{"ok":1,"result":1}'[:-1] + b"\n",
        b'{"ok":false,"error":7,"remedy":""}\n',
        b'{"ok":false,"error":"x"}\n',
        b'{"ok":true,"result":1}',
    ],
)
def test_anything_else_is_no_reply(line: bytes) -> None:
    with pytest.raises(PeerError):
        decode_reply(line)


@settings(deadline=None, max_examples=300)
@given(
    st.binary()
    | st.binary().map(lambda octets: octets + b"\n")
    | JSON.map(lambda value: json.dumps(value).encode() + b"\n")
)
def test_random_octets_are_read_or_refused(line: bytes) -> None:
    decoders: tuple[Callable[[bytes], object], ...] = (decode_request, decode_reply)
    for decode in decoders:
        try:
            decode(line)
        except PeerError:
            continue


@settings(deadline=None)
@given(JSON)
def test_what_is_sent_arrives(value: Json) -> None:
    line = encode_reply(Done(value))
    assert line.count(b"\n") == 1
    decoded = decode_reply(line)
    assert isinstance(decoded, Done)
    assert encode_reply(decoded) == line


def test_a_text_that_is_not_unicode_still_arrives() -> None:
    line = encode_reply(Refusal("\udcff"))
    assert line.isascii()
    assert decode_reply(line) == Refusal("\udcff")


class Colour(IntEnum):
    DARK_RED = 1


@dataclass
class Held:
    packets: int
    path: object


def test_values_of_ours_become_plain_ones() -> None:
    given_ = {
        "vip": ip_address("10.99.0.2"),
        "held": Held(3, Path("/run/x")),
        "reasons": frozenset({"b", "a"}),
        Verb.ROAM: (Verb.STOP, b"\x01\x02", float("inf"), True, None),
        7: Colour.DARK_RED,
    }
    assert plain(given_) == {
        "vip": "10.99.0.2",
        "held": {"packets": 3, "path": "/run/x"},
        "reasons": ["a", "b"],
        "roam": ["stop", "0102", None, True, None],
        "7": "dark-red",
    }
