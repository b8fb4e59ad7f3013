"""VICI events as charon 5.9.8 sends them, and what they become."""

from ipaddress import ip_address, ip_network

import pytest

from orchestrator.adapters.charon import NotNegotiated, Section, parse_event, verdict
from orchestrator.core.ike import (
    IkeDown,
    IkeFailure,
    IkeMoved,
    IkeRekeyed,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)

CHILD: Section = {
    "name": b"inner",
    "uniqueid": b"7",
    "reqid": b"28417",
    "state": b"INSTALLED",
    "mode": b"TUNNEL",
    "spi-in": b"c83843d6",
    "spi-out": b"cc468e4e",
    "local-ts": [b"10.99.0.2/32", b"fd00:99::2/128"],
    "remote-ts": [b"0.0.0.0/0", b"::/0"],
}


def ike(more: Section | None = None) -> Section:
    return {
        "uniqueid": b"3",
        "local-host": b"192.168.10.2",
        "local-port": b"4500",
        "local-id": b"carol",
        "remote-host": b"203.0.113.10",
        "remote-port": b"4500",
        "remote-id": b"gw",
        "local-vips": [b"10.99.0.2"],
        **(more or {}),
    }


def test_a_child_that_is_up_becomes_a_tunnel_with_everything_in_it() -> None:
    event: Section = {"up": b"yes", "a": ike({"child-sas": {"inner-7": CHILD}})}
    (news,) = parse_event("child-updown", event)
    assert isinstance(news, TunnelUp)
    tunnel = news.tunnel
    assert (tunnel.ike, tunnel.child, tunnel.connection) == (3, 7, "a")
    assert (tunnel.local, tunnel.remote) == (
        ip_address("192.168.10.2"),
        ip_address("203.0.113.10"),
    )
    assert (tunnel.spi_in, tunnel.spi_out, tunnel.reqid) == (0xC83843D6, 0xCC468E4E, 28417)
    assert tunnel.local_ts == (ip_network("10.99.0.2/32"), ip_network("fd00:99::2/128"))
    assert tunnel.local_vips == (ip_address("10.99.0.2"),)


@pytest.mark.parametrize(
    ("states", "used"),
    [
        ([b"INSTALLED"], [0]),
        ([b"UPDATING"], [0]),
        ([b"REKEYING"], [0]),
        ([b"REKEYED", b"INSTALLED"], [1]),
        ([b"INSTALLED", b"REKEYED", b"DELETED"], [0]),
        ([b"CREATED", b"DELETING"], []),
    ],
)
def test_of_a_rekeying_the_one_that_stays_is_the_tunnel(
    states: list[bytes], used: list[int]
) -> None:
    """The other one ends without a word: whoever took it for a tunnel would keep it."""
    children: Section = {
        f"inner-{number}": {**CHILD, "state": state, "uniqueid": str(number).encode()}
        for number, state in enumerate(states)
    }
    event: Section = {"up": b"yes", "a": ike({"child-sas": children})}
    found = [news.tunnel.child for news in parse_event("child-updown", event)]  # type: ignore[union-attr]
    assert found == used


def test_a_child_that_is_down_is_named_by_its_numbers() -> None:
    event: Section = {"a": ike({"child-sas": {"inner-7": CHILD}})}
    assert parse_event("child-updown", event) == (TunnelDown(3, 7),)  # type: ignore[arg-type]


def test_a_rekeyed_child_says_which_one_it_replaces() -> None:
    pair: Section = {"old": {**CHILD, "uniqueid": b"6"}, "new": CHILD}
    (news,) = parse_event("child-rekey", {"a": ike({"child-sas": {"inner": pair}})})
    assert isinstance(news, TunnelRekeyed)
    assert (news.old, news.tunnel.child) == (6, 7)


def test_ike_events_carry_numbers_and_addresses() -> None:
    assert parse_event("ike-updown", {"a": ike()}) == (IkeDown(3),)  # type: ignore[arg-type]
    assert parse_event("ike-updown", {"up": b"yes", "a": ike()}) == ()
    rekeyed: Section = {"a": {"old": ike(), "new": ike({"uniqueid": b"4"})}}
    assert parse_event("ike-rekey", rekeyed) == (IkeRekeyed(3, 4),)  # type: ignore[arg-type]
    moved: Section = {
        "local-host": b"2001:db8::1%eth0",
        "local-port": b"4500",
        "remote-host": b"2001:db8::2",
        "remote-port": b"40000",
        "a": ike(),
    }
    (news,) = parse_event("ike-update", moved)
    assert isinstance(news, IkeMoved)
    assert (news.local, news.remote_port) == (ip_address("2001:db8::1"), 40000)


def test_an_event_that_is_no_concern_of_ours_is_nothing() -> None:
    assert parse_event("log", {"msg": b"hello"}) == ()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("received AUTHENTICATION_FAILED notify error", IkeFailure.AUTHENTICATION),
        ("received NO_PROPOSAL_CHOSEN notify error", IkeFailure.NO_PROPOSAL),
        ("received TS_UNACCEPTABLE notify, no CHILD_SA built", IkeFailure.SELECTORS),
        ("received FAILED_CP_REQUIRED notify, no CHILD_SA built", IkeFailure.MUST_ASK),
        (
            "received INTERNAL_ADDRESS_FAILURE notify, no CHILD_SA built",
            IkeFailure.POOL_EXHAUSTED,
        ),
        ("subject certificate invalid (valid from … to …)", IkeFailure.CERTIFICATE),
        ("giving up after 4 retransmits", IkeFailure.SILENT),
        ("error writing to socket: Network is unreachable", IkeFailure.UNREACHABLE),
        ("something new", IkeFailure.OTHER),
    ],
)
def test_charons_words_are_understood(line: str, why: IkeFailure) -> None:
    result = verdict(["sending packet", line], "establishing CHILD_SA 'inner' failed")
    assert result == NotNegotiated(why, line)


def test_the_line_that_says_why_is_told_whatever_follows() -> None:
    log = [
        "subject certificate invalid (valid from … to …)",
        "generating INFORMATIONAL request 2 [ N(AUTH_FAILED) ]",
        "sending packet: from 192.0.2.1[4500] to 192.0.2.2[4500]",
    ]
    assert verdict(log, "failed") == NotNegotiated(IkeFailure.CERTIFICATE, log[0])


def test_a_time_out_without_a_word_is_silence() -> None:
    assert verdict([], "CHILD_SA 'inner' not established after 8000ms").why is IkeFailure.SILENT


def test_any_range_of_addresses_is_read() -> None:
    """RFC 7296, 3.13.1: a peer may propose what is no prefix."""
    child = {**CHILD, "remote-ts": [b"10.0.0.1..10.0.0.5"]}
    event: Section = {"up": b"yes", "a": ike({"child-sas": {"inner-7": child}})}
    (news,) = parse_event("child-updown", event)
    assert isinstance(news, TunnelUp)
    assert news.tunnel.remote_ts == (
        ip_network("10.0.0.1/32"),
        ip_network("10.0.0.2/31"),
        ip_network("10.0.0.4/31"),
    )
