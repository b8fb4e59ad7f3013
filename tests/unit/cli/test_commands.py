"""The command as a person and as a program use it: what it prints where, and how it exits."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.commands import cli, execute
from orchestrator.core.errors import ConfigFault
from orchestrator.faces.lock import CannotLock, DaemonLock
from orchestrator.wire.control import plain
from tests.unit.cli.conftest import EVENT, FLOWS, PATHS, SESSIONS, STATUS, Running

COMMAND = [sys.executable, "-m", "orchestrator"]
Capture = pytest.CaptureFixture[str]


def asked(capsys: Capture, *arguments: str) -> Any:
    """The JSON that a command prints which ends well."""
    assert execute([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


class TestAsking:
    @pytest.mark.parametrize(
        ("verb", "answer"), [("paths", PATHS), ("sessions", SESSIONS), ("flows", plain(FLOWS))]
    )
    def test_json_is_what_the_daemon_said(
        self, verb: str, answer: object, running: Running, capsys: Capture
    ) -> None:
        assert asked(capsys, verb, "--socket", str(running.socket)) == answer

    def test_status_in_json_has_the_sockets_counters_too(
        self, running: Running, capsys: Capture
    ) -> None:
        answer = asked(capsys, "status", "--socket", str(running.socket))
        assert answer.pop("control")["answered"] == 1
        assert answer == STATUS

    @pytest.mark.parametrize(
        ("verb", "words"),
        [
            ("status", "endpoint laptop1@example.org: attached for 2m10s"),
            ("paths", "wlan0  192.168.10.2"),
            ("sessions", "x\\x1b[2J"),
            ("flows", "[fd00:51:1::2]:22"),
        ],
    )
    def test_people_get_words_without_colour_in_a_pipe(
        self, verb: str, words: str, running: Running, capsys: Capture
    ) -> None:
        assert execute([verb, "--socket", str(running.socket)]) == 0
        captured = capsys.readouterr()
        assert words in captured.out
        assert "\x1b" not in captured.out
        assert captured.err == ""

    def test_roams(self, running: Running, capsys: Capture) -> None:
        socket = str(running.socket)
        assert asked(capsys, "roam", "wwan0", "--socket", socket)["asked"] == "wwan0"
        assert asked(capsys, "roam", "--socket", socket)["asked"] is None
        assert execute(["roam", "wwan0", "--socket", socket]) == 0
        assert capsys.readouterr().out == (
            "asked for wwan0; `orchestrator watch` tells what comes of it\n"
        )

    @pytest.mark.parametrize(
        "words", [("portal", "wlan0"), ("portal", "wlan0", "--", "curl", "--json", "x")]
    )
    def test_opens_no_way_where_the_daemon_refuses(
        self, running: Running, capsys: Capture, words: tuple[str, ...]
    ) -> None:
        verb, *rest = words
        assert execute([verb, "--socket", str(running.socket), *rest]) == 1
        assert capsys.readouterr().err == (
            "error: there is a tunnel over wlan0: nobody has to sign in\n"
        )

    def test_replaces_the_proxy(self, running: Running, capsys: Capture) -> None:
        socket = str(running.socket)
        assert asked(capsys, "replace-proxy", "--socket", socket)["connections"] == 12
        assert execute(["replace-proxy", "--socket", socket]) == 0
        assert capsys.readouterr().out == (
            "12 connections went over, and stood still for 78ms: "
            "from process 123 (0.1.0) to 456 (0.2.0)\n"
        )

    def test_a_refusal_comes_with_its_remedy(self, running: Running, capsys: Capture) -> None:
        assert execute(["roam", "wlan9", "--socket", str(running.socket)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == (
            "error: no usable path over wlan9\nremedy: choose one of: wlan0, wwan0\n"
        )

    def test_a_refusal_in_json_is_a_result(self, running: Running, capsys: Capture) -> None:
        assert execute(["reload", "--json", "--socket", str(running.socket)]) == 1
        captured = capsys.readouterr()
        assert json.loads(captured.out) == {"error": "not here", "remedy": ""}
        assert captured.err == ""

    def test_a_wrong_file_that_is_read_again_is_told_as_by_check(
        self, running: Running, capsys: Capture
    ) -> None:
        fault = ConfigFault(Path("/etc/server.toml"), 7, "unknown key a", "delete it")
        running.daemon.faults = (fault, fault)
        assert execute(["reload", "--json", "--socket", str(running.socket)]) == 1
        assert json.loads(capsys.readouterr().out) == {
            "error": "2 faults",
            "remedy": "",
            "faults": [plain(fault)] * 2,
        }
        assert execute(["reload", "--socket", str(running.socket)]) == 1
        assert capsys.readouterr().err == f"error: {fault}\n" * 2

    def test_metrics_are_text_or_objects(self, running: Running, capsys: Capture) -> None:
        assert execute(["metrics", "--socket", str(running.socket)]) == 0
        text = capsys.readouterr().out
        assert "orchestrator_repairs_total 3.0\n" in text
        assert text.endswith("\n# EOF\n")
        assert execute(["metrics", "--json", "--socket", str(running.socket)]) == 0
        assert json.loads(capsys.readouterr().out)[0] == {
            "name": "repairs",
            "kind": "counter",
            "about": "Objects that others changed.",
            "samples": [{"value": 3, "labels": {}}],
        }

    def test_without_a_daemon_says_so(self, tmp_path: Path, capsys: Capture) -> None:
        for verb in (
            "status",
            "paths",
            "sessions",
            "flows",
            "metrics",
            "watch",
            "roam",
            "portal",
            "reload",
            "replace-proxy",
        ):
            assert execute([verb, "--socket", str(tmp_path / "none")]) == 3
            assert "no daemon is running at" in capsys.readouterr().err

    def test_a_socket_that_nobody_serves_is_no_daemon(
        self, running: Running, capsys: Capture
    ) -> None:
        dead = running.socket.with_name("dead")
        dead.hardlink_to(running.socket)
        running.end()
        with DaemonLockFree(running.socket):
            assert execute(["status", "--json", "--socket", str(dead)]) == 3
        assert "start it" in json.loads(capsys.readouterr().out)["remedy"]


class DaemonLockFree:
    """Waits until the daemon has ended, by taking its lock."""

    def __init__(self, socket: Path) -> None:
        self._lock = DaemonLock(socket)

    def __enter__(self) -> None:
        from orchestrator.cli.cleanup import _wait_for

        _wait_for(self._lock)

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__(None, None, None)


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["status", "--jsn"], "No such option"),
            (["statos"], "No such command 'statos'"),
            (["check"], "Missing argument 'CONFIG'"),
            (["roam", "a", "b"], "unexpected extra argument"),
        ],
    )
    def test_what_is_wrong_gets_that_error_and_no_more(
        self, arguments: list[str], words: str, capsys: Capture
    ) -> None:
        assert execute(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert words in captured.err
        assert captured.err.count("\n") == 2
        assert "--help" in captured.err

    @pytest.mark.parametrize("arguments", [["doctor", "--socket"], ["doctor", "--what"]])
    def test_the_remedy_is_the_help_of_the_command_that_was_wrong(
        self, arguments: list[str], capsys: Capture
    ) -> None:
        assert execute(arguments) == 2
        assert capsys.readouterr().err.endswith("remedy: see orchestrator doctor --help\n")

    def test_the_list_of_commands_cuts_no_sentence(self, capsys: Capture) -> None:
        assert execute(["--help"]) == 0
        assert "..." not in capsys.readouterr().out.partition("Commands:")[2]

    def test_who_says_nothing_gets_the_help(self, capsys: Capture) -> None:
        assert execute([]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("Usage: orchestrator ")
        assert "Commands:" in captured.err

    def test_a_daemon_has_no_json_but_its_failure(self, capsys: Capture) -> None:
        assert execute(["run", "--help"]) == 0
        assert "Print a failure as JSON." in capsys.readouterr().out

    def test_help_and_version_are_results(self, capsys: Capture) -> None:
        assert execute(["--help"]) == 0
        assert "Exit codes: 0 done" in capsys.readouterr().out
        assert execute(["--version"]) == 0
        assert capsys.readouterr().out.startswith("orchestrator, version")

    def test_every_command_takes_json(self) -> None:
        for command in cli.commands.values():
            assert any("--json" in option.opts for option in command.params), command.name


ENDPOINT = """
role = "endpoint"
identity = "a"
server = { identity = "b", addresses = ["203.0.113.10"] }
auth = { kind = "psk", secret_file = "secret" }
control = { socket = "control.sock" }
state = { directory = "state" }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("a secret\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "endpoint.toml").write_text(ENDPOINT)
    return tmp_path / "endpoint.toml"


class TestCheck:
    def test_a_right_file(self, config: Path, capsys: Capture) -> None:
        assert execute(["check", str(config)]) == 0
        assert capsys.readouterr().out == f"{config} is valid: endpoint a\n"
        assert asked(capsys, "check", str(config)) == {
            "role": "endpoint",
            "identity": "a",
            "faults": [],
        }

    def test_every_fault_in_a_wrong_one(self, config: Path, capsys: Capture) -> None:
        config.write_text(ENDPOINT + "tunel.mtu = 1400\ntunnel.mtu = 9\n")
        assert execute(["check", str(config)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.splitlines() == [
            f"error: {config}:8: unknown key tunel; did you mean tunnel?",
            f"error: {config}:9: mtu: 9 is too little; write 1280 or more",
        ]

    def test_every_fault_in_json(self, config: Path, capsys: Capture) -> None:
        config.write_text(ENDPOINT + "tunel.mtu = 1400\n")
        assert execute(["check", str(config), "--json"]) == 1
        assert json.loads(capsys.readouterr().out) == {
            "error": "1 fault",
            "remedy": "",
            "faults": [
                {
                    "file": str(config),
                    "line": 8,
                    "problem": "unknown key tunel",
                    "remedy": "did you mean tunnel?",
                }
            ],
        }
        config.write_text(ENDPOINT + "tunel.mtu = 1400\ntunnel.mtu = 9\n")
        assert execute(["check", str(config), "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["error"] == "2 faults"

    def test_a_file_that_is_not_there(self, tmp_path: Path, capsys: Capture) -> None:
        assert execute(["check", str(tmp_path / "none")]) == 1
        assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'}: cannot be read")


class TestRunning:
    def test_a_wrong_file_runs_nothing(self, config: Path, capsys: Capture) -> None:
        config.write_text('role = "endpoint"')
        assert execute(["run", str(config)]) == 1
        assert "identity is missing" in capsys.readouterr().err

    @pytest.mark.skipif(os.geteuid() != 0, reason="a daemon needs CAP_NET_ADMIN")
    def test_a_second_daemon_ends_at_once_and_says_why(
        self, config: Path, tmp_path: Path
    ) -> None:
        with DaemonLock(tmp_path / "control.sock"):
            second = subprocess.run(
                [*COMMAND, "run", str(config)], capture_output=True, text=True, check=False
            )
        assert second.returncode == 1
        assert f"the daemon is running already: process {os.getpid()}" in second.stderr
        assert "remedy: stop it first: systemctl stop orchestrator" in second.stderr
        assert "Traceback" not in second.stderr
        assert not (tmp_path / "state").exists(), "it touched something before"

    @pytest.mark.skipif(os.geteuid() != 0, reason="gives capabilities away")
    def test_without_the_capability_says_so(self, config: Path) -> None:
        dropped = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
        poor = subprocess.run(
            [*dropped, *COMMAND, "run", str(config)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert poor.returncode == 1
        assert "CAP_NET_ADMIN" in poor.stderr
        assert "run it as root" in poor.stderr


class TestWatching:
    def watch(self, running: Running, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*COMMAND, "watch", "--socket", str(running.socket), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_prints_events_as_they_come_and_ends_with_ctrl_c(self, running: Running) -> None:
        with self.watch(running, "--json") as watcher:
            assert watcher.stdout is not None
            assert json.loads(watcher.stdout.readline()) == EVENT
            watcher.send_signal(signal.SIGINT)
            out, err = watcher.communicate(timeout=20)
            assert (out, err.strip(), watcher.returncode) == ("", "", 0)

    def test_ends_when_the_daemon_does(self, running: Running) -> None:
        with self.watch(running) as watcher:
            assert watcher.stdout is not None
            assert watcher.stdout.readline().startswith("12:34:56.789 attached (link-up")
            running.end()
            _, err = watcher.communicate(timeout=20)
            assert watcher.returncode == 3
            assert "the daemon has ended" in err

    def test_the_end_of_the_daemon_is_one_line_of_json(self, running: Running) -> None:
        with self.watch(running, "--json") as watcher:
            assert watcher.stdout is not None
            watcher.stdout.readline()
            running.end()
            out, _ = watcher.communicate(timeout=20)
            (line,) = out.splitlines()
            told = json.loads(line)
            assert told["error"] == "the daemon has ended"
            assert told["remedy"]

    def test_ends_silently_when_nobody_reads_any_more(self, running: Running) -> None:
        running.daemon.talkative = True
        with self.watch(running) as watcher:
            assert watcher.stdout is not None
            assert watcher.stderr is not None
            watcher.stdout.readline()
            watcher.stdout.close()
            assert watcher.wait(20) == 0
            assert watcher.stderr.read() == ""


class TestCleanup:
    def test_is_refused_while_a_daemon_runs(self, running: Running, capsys: Capture) -> None:
        assert execute(["cleanup", "--socket", str(running.socket)]) == 1
        captured = capsys.readouterr()
        assert f"process {os.getpid()}" in captured.err
        assert "--stop" in captured.err
        assert not running.daemon.stopping.is_set()

    @pytest.mark.skipif(os.geteuid() != 0, reason="looks into the kernel's tables")
    def test_a_dry_run_beside_a_daemon_says_what_the_real_one_would(
        self, running: Running, tmp_path: Path
    ) -> None:
        dry = [
            *("unshare", "--net", *COMMAND, "cleanup", "--dry-run", "--json"),
            *("--socket", str(running.socket), "--state", str(tmp_path / "state")),
            *("--charon", str(tmp_path / "no-charon")),
        ]
        told = json.loads(subprocess.check_output(dry))
        assert f"process {os.getpid()}" in told["refusal"]
        assert "--stop" in told["refusal"]
        told = json.loads(subprocess.check_output([*dry, "--stop"]))
        assert told["refusal"] is None
        assert told["operations"][0] == f"stop the daemon, process {os.getpid()}"
        assert not running.daemon.stopping.is_set()

    def test_who_may_not_lock_learns_who_may(self) -> None:
        error = CannotLock(Path("/run/s.lock"), PermissionError(13, "Permission denied"))
        assert str(error) == "cannot lock /run/s.lock: Permission denied"
        assert error.remedy == "run it as root"

    @pytest.mark.skipif(os.geteuid() != 0, reason="looks into the kernel's tables")
    def test_stops_the_daemon_if_told_so_and_waits_for_its_end(
        self, running: Running, tmp_path: Path
    ) -> None:
        """In a network namespace of its own, so that nothing of this machine is touched."""
        command = [
            *("unshare", "--net", *COMMAND, "cleanup", "--stop", "--json"),
            *("--socket", str(running.socket), "--state", str(tmp_path / "state")),
            *("--charon", str(tmp_path / "no-charon")),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.stderr == ""
        assert ended.returncode == 0
        assert running.daemon.stopping.is_set()
        done = json.loads(ended.stdout)
        assert done["dry_run"] is False
        assert done["operations"][0] == f"stop the daemon, process {os.getpid()}"
        assert not list(tmp_path.iterdir())


def test_an_unexpected_daemon_is_no_reason_to_hang(tmp_path: Path, capsys: Capture) -> None:
    """Something else serves the socket, and says nonsense."""
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert execute(["status", "--socket", str(tmp_path / "s")]) == 1
        thread.join()
    assert "not JSON" in capsys.readouterr().err
