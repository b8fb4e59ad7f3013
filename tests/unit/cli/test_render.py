"""What people read, word by word."""

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli import render
from orchestrator.wire.control import Done, decode_reply, encode_reply
from tests.unit.cli.conftest import EVENT, FLOWS, PATHS, SESSIONS, STATUS


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0ms"),
        (0.25, "250ms"),
        (1, "1s"),
        (4.25, "4.2s"),
        (45.4, "45s"),
        (60, "1m"),
        (130.2, "2m10s"),
        (3600, "1h"),
        (7384, "2h3m"),
        (3605, "1h"),
        (90000, "1d1h"),
        (1e6, "11d13h"),
        (None, "-"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float | None, shown: str) -> None:
    assert render.duration(seconds) == shown


@pytest.mark.parametrize(
    ("octets", "shown"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (1843, "1.8KiB"),
        (4194304, "4MiB"),
        (None, "-"),
    ],
)
def test_sizes_have_their_unit(octets: float | None, shown: str) -> None:
    assert render.size(octets) == shown


def test_status() -> None:
    assert (
        click.unstyle(render.status(STATUS))
        == """\
endpoint laptop1@example.org: attached for 2m10s (link-up, negotiated)
  virtual addresses  10.99.0.2, fd00:99::2
  path               wlan0 192.168.10.2 -> 203.0.113.10, RTT 21.34 ms
  charon             strongSwan 5.9.8
  held               3 packets of 2 flows for 14s, the oldest 12s old, 1.8KiB of 4MiB, at 0.1% of a limit; lost: 2 full, 1 too-old
  frozen             2 connections
  roams              3
  repairs            0
  running for        1h6m
  version            0.1.0
warning: the disk is full"""  # noqa: E501
    )


def test_status_of_a_server() -> None:
    answer = {
        "role": "server",
        "identity": "vpn.example.org",
        "state": "serving",
        "reasons": [],
        "since_s": 5,
        "pools": ["10.99.0.0/24"],
        "sessions": {"attached": 1, "all": 2},
        "held": {
            "packets": 0,
            "bytes": 0,
            "limit_bytes": 4096,
            "sessions": 0,
            "total_percent": 0.0,
            "dropped": {"total": 7},
        },
        "proxy": "running",
        "queued": {
            "memory": {"bytes": 1024, "limit_bytes": 1 << 30, "waiting": 0},
            "disk": {
                "bytes": 4096,
                "limit_bytes": 1 << 20,
                "waiting": 2,
                "waiting_since_s": 61,
                "problem": "the disk is full",
            },
        },
        "uptime_s": 5,
    }
    assert (
        click.unstyle(render.status(answer))
        == """\
server vpn.example.org: serving for 5s
  pools              10.99.0.0/24
  sessions           1 of 2
  proxy              running
  queued             1KiB of 1GiB
  spooled            4KiB of 1MiB, 2 connections wait for room, for 1m1s; the disk is full
  held               0 packets, 0B of 4KiB; lost: 7 total
  running for        5s"""
    )


def test_paths() -> None:
    assert (
        click.unstyle(render.paths(PATHS))
        == """\
LINK   POP           GATEWAY       SERVER        STATE   CLASS  RTT MS  VAR MS  LOSS %  RATE            MTU  IKE_SA  SPI IN    WHY
wlan0  192.168.10.2  192.168.10.1  203.0.113.10  active      1   21.34     3.5     0.4  24/1.3 Mbit/s  1218       7  c0ffee01  -
wwan0  100.64.0.2    -             203.0.113.10  usable      2       -       -       -  -              1380       -  -         silent, metered"""  # noqa: E501
    )


@pytest.mark.parametrize(
    ("rate_in", "rate_out", "shown"),
    [
        (None, 0, None),
        (140, 144, "0.14/0.14 kbit/s"),
        (640_000, None, "640/0 kbit/s"),
        (999_900, 999_999, "1000/1000 kbit/s"),
        (24_000_000, 1_300_000, "24/1.3 Mbit/s"),
        (240_000_000, 64_000, "240/0.064 Mbit/s"),
    ],
)
def test_rates(rate_in: int | None, rate_out: int | None, shown: str | None) -> None:
    assert render.rate({"rate_in_bps": rate_in, "rate_out_bps": rate_out}) == shown


def test_sessions() -> None:
    assert (
        click.unstyle(render.sessions(render.clean(SESSIONS)))
        == """\
IDENTITY        VIP        STATE       FOR  THEN             POP             FLOWS  QUEUED     HELD               LOST               ROAMS  WHY
laptop1         10.99.0.2  away      8h30m  asleep in 1h30m  -                   3  2MiB+1GiB  1.8KiB 0.1% 8h30m  1 asleep, 2 total     12  unheard
x\\x1b[2J\\u202e  10.99.0.3  attached  250ms  -                192.0.2.7:4500      0  0B         -                  -                      0  followed"""  # noqa: E501
    )


def test_flows_as_a_daemon_sends_them() -> None:
    answer = decode_reply(encode_reply(Done(FLOWS)))
    assert isinstance(answer, Done)
    assert (
        click.unstyle(render.flows(render.clean(answer.result)))
        == """\
VIP              PEER               STATE  TO PEER  TO ENDPOINT  QUEUED  QUEUED BACK  SPOOLED
10.99.0.2:5  ->  [fd00:51:1::2]:22  open      5KiB       100MiB      0B         1MiB       0B"""
    )


def test_reloaded() -> None:
    assert render.reloaded({"taken": ["hold"], "waiting": []}) == "taken: hold"
    assert render.reloaded({"taken": [], "waiting": ["vip", "lan"]}) == (
        "of what a reload takes nothing has changed; a restart takes: vip, lan"
    )


def test_event() -> None:
    assert click.unstyle(render.event(EVENT)) == (
        "12:34:56.789 attached (link-up, negotiated) "
        "path=wwan0 100.64.0.2 -> 203.0.113.10 outage_ms=14"
    )


@pytest.mark.parametrize("words", [render.paths, render.sessions, render.flows])
def test_nothing_is_said_in_words(words: object) -> None:
    assert callable(words)
    assert words([])


def test_states_have_colours() -> None:
    assert "\x1b[32m" in render.status(STATUS)


@pytest.mark.parametrize("words", [render.status, render.event])
def test_an_answer_of_another_version_is_shown_as_far_as_known(words: object) -> None:
    assert callable(words)
    assert words({})
    assert words({"state": "new-state", "event": "new-event", "something": {"else": [1]}})


@given(st.text())
@settings(deadline=None)
def test_nothing_that_a_terminal_would_obey_is_shown(text: str) -> None:
    shown = render.clean({text: [text]})
    ((key, (value,)),) = shown.items()
    assert key.isprintable()
    assert value.isprintable()


@given(st.floats(min_value=0, max_value=1e9))
@settings(deadline=None)
def test_every_duration_can_be_shown(seconds: float) -> None:
    assert render.duration(seconds)[0].isdigit()
