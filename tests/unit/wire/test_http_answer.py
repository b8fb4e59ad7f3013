"""What is asked through a network, octet by octet, and what is made of the answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.wire.http_answer import HttpAnswer, decode_answer, encode_request


def test_the_request_is_the_same_to_the_octet() -> None:
    assert encode_request("203.0.113.80", "/generate_204?who=me") == (
        b"GET /generate_204?who=me HTTP/1.0\r\n"
        b"Host: 203.0.113.80\r\n"
        b"Cache-Control: no-cache\r\n"
        b"Connection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", HttpAnswer(204, b"")),
        (b"HTTP/1.1 204\r\nServer: x\r\n\r\n", HttpAnswer(204, b"")),
        (b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nsuccess\n", HttpAnswer(200, b"success\n")),
        (b"HTTP/1.0 200 OK\nA: b\n\nsuccess", HttpAnswer(200, b"success")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://a/\r\n", HttpAnswer(302, b"")),
        (
            b"HTTP/1.1 511 Network Authentication Required\r\n\r\n\r\n\r\n",
            HttpAnswer(511, b"\r\n\r\n"),
        ),
    ],
)
def test_status_and_body(octets: bytes, expected: HttpAnswer) -> None:
    assert decode_answer(octets) == expected


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK",
        b"SSH-2.0-x\r\n",
        b"HTTP/2 200\r\n",
        b" HTTP/1.1 200\r\n",
    ],
)
def test_what_is_not_http_is_refused(octets: bytes) -> None:
    with pytest.raises(PeerError):
        decode_answer(octets)


@given(
    st.binary(max_size=200) | st.binary(max_size=80).map(lambda rest: b"HTTP/1.1 200" + rest)
)
def test_any_octets_are_an_answer_or_a_peer_error(octets: bytes) -> None:
    try:
        answer = decode_answer(octets)
    except PeerError:
        return
    assert 100 <= answer.status <= 599
    assert octets.endswith(answer.body)
