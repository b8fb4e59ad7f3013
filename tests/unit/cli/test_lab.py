"""The lab's front door without a lab behind it: what it says to whom."""

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.cli.lab import execute
from orchestrator.lab.frames import Kind, json_frame, read_frame
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.keeper import lab_folder, socket_of

Capture = pytest.CaptureFixture[str]
LINK = {
    "access": True,
    "changed": False,
    "attached": False,
    "device": "wlan0",
    "addresses": [],
    "carrier": True,
    "cut": False,
    "delay_ms": 5,
    "loss_percent": 0,
    "rate_mbit": None,
}


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


@contextmanager
def a_lab(*answers: Mapping[str, object]) -> Iterator[list[object]]:
    """One that answers so, one request after the other; gives what it was asked to do."""
    asked: list[object] = []
    lab_folder().mkdir(parents=True)

    def serve() -> None:
        # Whoever only looks whether it is up asks nothing.
        while len(asked) < len(answers):
            line, _ = listening.accept()
            with line, line.makefile("rb") as reading:
                try:
                    asked.append(read_frame(reading.read).json()["do"])
                except EOFError:
                    continue
                answer = {"result": answers[len(asked) - 1]}
                line.sendall(json_frame(Kind.ANSWER, 0, answer).encode())

    with socket.create_server(str(socket_of(lab_folder())), family=socket.AF_UNIX) as listening:
        served = threading.Thread(target=serve, daemon=True)
        served.start()
        yield asked
        served.join(10)


def status_lines(capsys: Capture, **links: Mapping[str, object]) -> Sequence[str]:
    with a_lab({"hosts": ["lan"], "links": links, "daemons": {}}):
        assert execute(["status"]) == 0
    *lines, hosts = capsys.readouterr().out.splitlines()
    assert hosts == "hosts: lan"
    return lines


def test_a_link_without_carrier_says_so_beside_its_addresses(capsys: Capture) -> None:
    addresses = ["192.168.10.2/24"]
    [line] = status_lines(capsys, wifi=LINK | {"addresses": addresses, "carrier": False})
    assert "192.168.10.2/24, no carrier" in line


def test_other_links_are_shown_when_they_are_changed(capsys: Capture) -> None:
    quiet = LINK | {"access": False}
    [line] = status_lines(capsys, wan=quiet | {"changed": True, "loss_percent": 5}, peer1=quiet)
    assert line.startswith("wan ")
    assert "5 % lost" in line


def with_daemons(endpoint: str, server: str) -> Mapping[str, object]:
    daemons = {"endpoint": {"state": endpoint}, "server": {"state": server}}
    return {"hosts": [], "links": {}, "daemons": daemons}


def test_status_says_how_daemons_are(capsys: Capture) -> None:
    with a_lab(with_daemons("attached", "not running")):
        assert execute(["status"]) == 0
    said = capsys.readouterr().out
    assert said == "endpoint's daemon: attached\nserver's daemon: not running\nhosts: \n"


def test_up_says_which_daemon_it_has_to_start_again(capsys: Capture) -> None:
    answers = with_daemons("detached", "not running"), with_daemons("attached", "serving")
    with a_lab(*answers) as asked:
        assert execute(["up"]) == 0
    assert asked == ["status", "product"]
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "lab: it is up already",
        "lab: the server's daemon is not running; starting it",
        "lab: the endpoint is attached",
        "lab: try next: vagrant/lab exec endpoint ping -c3 10.51.1.2",
    ]
    assert "server's daemon: serving\n" in said.out


def test_up_bare_starts_none(capsys: Capture) -> None:
    with a_lab(with_daemons("attached", "not running")) as asked:
        assert execute(["up", "--bare"]) == 0
    assert asked == ["status"]
    assert "starting" not in capsys.readouterr().err


def test_what_cannot_be_written_is_no_capture(tmp_path: Path, capsys: Capture) -> None:
    with a_lab({}):
        assert execute(["capture", "wan", "--write", str(tmp_path / "no" / "x.pcap")]) == 1
    assert "x.pcap: No such file or directory\n" in capsys.readouterr().err


def test_up_that_fails_says_why_once(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("ORCHESTRATOR_LAB_KERNEL", "/nonexistent")
    assert execute(["up", "--backend", "uml"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "lab: uml: asked for",
        "lab: ORCHESTRATOR_LAB_KERNEL: /nonexistent is no program",
        "error: the lab did not come up",
    ]


def test_up_without_what_its_backend_needs_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    refuses = tmp_path / "unshare"
    refuses.write_text("#!/bin/sh\necho no namespaces >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert execute(["up", "--backend", "netns"]) == 1
    said, error = capsys.readouterr().err.splitlines()
    assert said.startswith("lab: no lab in this machine's own kernel: ")
    assert error == "error: the lab did not come up"
