"""The lab's front door without a lab behind it: what it says to whom."""

import json
from pathlib import Path

import pytest

from orchestrator.cli.lab import execute
from orchestrator.lab.internet import INTERNET

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "words", "command"),
    [
        (["rome"], "No such command 'rome'", "vagrant/lab"),
        (["up", "--backend"], "'--backend' requires an argument", "vagrant/lab up"),
        (["roam"], "Missing argument 'LINK'", "vagrant/lab roam"),
        (["roam", "wan"], "'wan' is not one of", "vagrant/lab roam"),
        (["exec", "nobody", "true"], "'nobody' is not one of", "vagrant/lab exec"),
        (["link", "wifi"], "Missing argument 'CHANGE...'", "vagrant/lab link"),
    ],
)
def test_what_is_wrong_gets_that_error_and_its_remedy(
    arguments: list[str], words: str, command: str, capsys: Capture
) -> None:
    assert execute(arguments) == 2
    captured = capsys.readouterr()
    error, remedy = captured.err.splitlines()
    assert captured.out == ""
    assert error.startswith("error: ")
    assert words in error
    assert remedy == f"remedy: see {command} --help"


def test_who_says_nothing_gets_the_help(capsys: Capture) -> None:
    assert execute([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: vagrant/lab ")
    assert "Commands:" in captured.err


def test_roams_to_access_links_only(capsys: Capture) -> None:
    execute(["roam", "nowhere"])
    offered = capsys.readouterr().err
    for link in INTERNET.links:
        assert (f"'{link.name}'" in offered) == (link in INTERNET.access_links)


def test_without_a_lab_says_so(capsys: Capture) -> None:
    assert execute(["status"]) == 3
    assert capsys.readouterr().err == "error: no lab is up; `vagrant/lab up` starts one\n"
    assert execute(["status", "--json"]) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"].startswith("no lab is up")
    assert captured.err == ""


def test_an_option_of_the_command_on_a_host_is_not_ours(capsys: Capture) -> None:
    assert execute(["exec", "lan", "orchestrator", "status", "--json"]) == 3
    assert capsys.readouterr().out == ""


def test_the_list_of_commands_cuts_no_sentence(capsys: Capture) -> None:
    assert execute(["--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]
