"""strongswan.conf: what it sets, and nothing but PeerError for the rest."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.wire.strongswan_conf import ConfFile, parse

SHIPPED = Path(__file__).parents[3] / "strongswan-conf"


def nothing(_: str, __: str) -> Iterable[ConfFile]:
    return ()


def alone(text: str) -> dict[str, str]:
    return parse(ConfFile("", text), nothing)


def test_settings_have_dotted_names() -> None:
    text = """
# a comment { with = brackets }
charon {
    threads = 16   # another
    empty =
    plugins { vici { socket = "unix:///run/charon.vici" } }
    plugins {
        socket-default {
            fwmark = 0x6f000000
        }
    }
}
charon.retry = "say \\"no\\" # to it"
"""
    assert alone(text) == {
        "charon.threads": "16",
        "charon.empty": "",
        "charon.plugins.vici.socket": "unix:///run/charon.vici",
        "charon.plugins.socket-default.fwmark": "0x6f000000",
        "charon.retry": 'say "no" # to it',
    }


def test_a_later_setting_replaces_an_earlier_one() -> None:
    assert alone("a { b = 1\n b = 2 }\na.b = 3") == {"a.b": "3"}


def test_includes_stand_where_they_are() -> None:
    files = {"one.conf": ["b = 2\ninclude two/*.conf"], "two/*.conf": ["c = 3", "d = 4"]}
    text = 'a { b = 1\n include one.conf\n include "none.conf"\n e = 5 }'
    found = parse(
        ConfFile("", text), lambda _, path: [ConfFile("", each) for each in files.get(path, ())]
    )
    assert found == {"a.b": "2", "a.c": "3", "a.d": "4", "a.e": "5"}


def test_includes_are_told_with_the_folder_of_the_file_they_stand_in() -> None:
    files = {
        ("/etc", "sub/one.conf"): ConfFile("/etc/sub", "include two.conf\nb = 1"),
        ("/etc/sub", "two.conf"): ConfFile("/etc/sub", "c = 2"),
        ("/etc", "three.conf"): ConfFile("/etc", "d = 3"),
    }
    text = "include sub/one.conf\ninclude three.conf"
    found = parse(ConfFile("/etc", text), lambda folder, path: [files[folder, path]])
    assert found == {"b": "1", "c": "2", "d": "3"}


def test_files_that_include_one_another_end() -> None:
    itself = ConfFile("", "include self")
    with pytest.raises(PeerError, match="include one another"):
        parse(itself, lambda _, __: [itself])


@pytest.mark.parametrize(
    "text", ["a {", "}", "a { } }", "words without sense", "= 7", '"a" = 1']
)
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(PeerError):
        alone(text)


@given(st.text(alphabet="ab. ={}#\n\"'\\include:") | st.text())
@settings(deadline=None, max_examples=300)
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        alone(text)
    except PeerError:
        return


@pytest.mark.parametrize("name", ["endpoint.conf", "server.conf"])
def test_what_we_ship_is_read(name: str) -> None:
    found = parse(
        ConfFile("", (SHIPPED / name).read_text()),
        lambda _, path: [ConfFile("", (SHIPPED / path).read_text())],
    )
    assert found["charon.install_routes"] == "no"
    assert found["charon.plugins.kernel-netlink.roam_events"] == "no"
