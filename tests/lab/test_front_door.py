"""The lab that stays up, through the commands that people type."""

import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab.conftest import FRONT_DOOR, SECONDS, Run, front_door, processes_with

BOOT_SECONDS = 15
EXEC_SECONDS = 1.0


def has_time() -> bool:
    """Whether this machine is ours enough for times to mean something."""
    return os.getloadavg()[0] < len(os.sched_getaffinity(0)) + 0.5


def test_exec_runs_on_the_host_it_names(lab_command: Run, standing: Path) -> None:
    del standing
    done = lab_command("exec", "server", "--", "sh", "-c", "hostname; exit 3")
    assert (done.stdout, done.returncode) == ("server\n", 3)


def test_exec_carries_all_three_streams(lab_command: Run, standing: Path) -> None:
    del standing
    done = lab_command("exec", "peer1", "--", "sh", "-c", "tr a-z A-Z; echo e >&2", input="abc")
    assert (done.stdout, done.stderr) == ("ABC", "e\n")


def test_much_goes_in_and_comes_out_whole(lab_command: Run, standing: Path) -> None:
    del standing
    much = "".join(f"{n}\n" for n in range(100_000))
    assert lab_command("exec", "peer1", "--", "cat", input=much).stdout == much


def test_exec_answers_soon(lab_command: Run, standing: Path) -> None:
    del standing

    def seconds() -> float:
        began = time.monotonic()
        lab_command("exec", "peer1", "true")
        return time.monotonic() - began

    assert not has_time() or min(seconds() for _ in range(5)) < EXEC_SECONDS


def test_exec_of_what_is_not_there_says_so(lab_command: Run, standing: Path) -> None:
    del standing
    done = lab_command("exec", "peer1", "--", "no-such-program")
    assert done.returncode == 127
    assert done.stderr == "lab: peer1 cannot run no-such-program: No such file or directory\n"
    assert lab_command("exec", "peer1", "/etc/hostname").returncode == 126


def test_exec_ends_with_its_command(lab_command: Run, standing: Path) -> None:
    """Not with a child of it that keeps its output open."""
    del standing
    script = "seq 5000; sleep 1000 & exit 4"
    done = lab_command("exec", "peer2", "--", "sh", "-c", script)
    assert (done.stdout, done.returncode) == ("".join(f"{n}\n" for n in range(1, 5001)), 4)


def test_roam_changes_what_status_shows(lab_command: Run, standing: Path) -> None:
    del standing
    roamed = lab_command("roam", "lte", "--json")
    assert roamed.stdout == lab_command("status", "--json").stdout
    links = json.loads(roamed.stdout)["links"]
    assert [name for name, link in links.items() if link["attached"]] == ["lte"]
    assert links["lte"]["addresses"] == ["100.64.0.2/24", "2001:db8:64::2/64"]
    shown = lab_command("exec", "endpoint", "--", "ip", "-4", "-br", "a", "show", "wwan0")
    assert "100.64.0.2/24" in shown.stdout


def test_a_link_is_changed_by_words(lab_command: Run, standing: Path) -> None:
    del standing
    changed = lab_command("link", "wifi2", "delay=50", "loss=1.5", "rate=0", "cut", "--json")
    link = json.loads(changed.stdout)["links"]["wifi2"]
    assert (link["delay_ms"], link["loss_percent"], link["rate_mbit"]) == (50, 1.5, None)
    assert link["cut"]
    assert not json.loads(lab_command("link", "wifi2", "mend", "--json").stdout)["links"][
        "wifi2"
    ]["cut"]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["link", "wifi", "fast"], 1, "'fast' is nothing a link can do; it can up, down"),
        (["link", "wifi", "delay=much"], 1, "delay=much: a number is needed"),
        (["link", "wan", "attach"], 1, "wan is not an access link"),
        (["roam", "wify"], 2, "'wify' is not one of"),
        (["exec", "nobody", "true"], 2, "'nobody' is not one of"),
        (["link", "wifi"], 2, "Missing argument"),
    ],
)
def test_wrong_words_get_a_sentence(
    lab_command: Run, standing: Path, arguments: list[str], code: int, complaint: str
) -> None:
    del standing
    done = lab_command(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in done.stderr


def test_up_twice_is_up_once(lab_command: Run, standing: Path) -> None:
    del standing
    again = lab_command("up", "--bare", "--json")
    assert again.returncode == 0
    assert "already" in again.stderr
    assert "links" in json.loads(again.stdout)


def ends_by_itself(child: int) -> bool:
    """Whether it ends by itself; if not, it is killed."""
    descriptor = os.pidfd_open(child)
    try:
        if select.select([descriptor], [], [], SECONDS)[0]:
            return True
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False
    finally:
        os.close(descriptor)


def test_a_shell_has_a_terminal(environment: dict[str, str], standing: Path) -> None:
    del standing
    child, terminal = pty.fork()
    if child == 0:
        shell = [*FRONT_DOOR, "shell", "lan"]
        os.execve(shell[0], shell, environment | {"SHELL": "/bin/sh"})  # noqa: S606
    os.write(terminal, b"tty; stty size; hostname; exit 5\n")
    seen = b""
    while select.select([terminal], [], [], 20)[0]:
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    os.close(terminal)
    assert ends_by_itself(child), "the shell took `exit`"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    assert b"/dev/pts/" in seen
    assert b"lan" in seen


def test_an_interrupt_reaches_the_command(environment: dict[str, str], standing: Path) -> None:
    del standing
    script = "trap 'echo interrupted; exit 4' INT; echo started; sleep 1000 & wait"
    with front_door(environment, "exec", "peer2", "--", "sh", "-c", script) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "started\n"
        client.send_signal(signal.SIGINT)
        output, _ = client.communicate(timeout=SECONDS)
    assert (output, client.returncode) == ("interrupted\n", 4)


def test_capture_writes_what_crosses_the_link(
    environment: dict[str, str], lab_command: Run, standing: Path, tmp_path: Path
) -> None:
    del standing
    lab_command("roam", "wifi")
    file = tmp_path / "wifi.pcap"
    with front_door(
        environment, "capture", "wifi", "--write", str(file), stdout=None
    ) as capture:
        assert capture.stderr is not None
        assert "listening on" in capture.stderr.readline()
        lab_command("exec", "endpoint", "--", "ping", "-c1", "203.0.113.10")
        capture.send_signal(signal.SIGINT)
        capture.communicate(timeout=SECONDS)
    shown = subprocess.run(
        ["tcpdump", "-n", "-r", str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    assert "192.168.10.2 > 203.0.113.10: ICMP echo request" in shown.stdout


def test_up_starts_both_daemons_and_a_peer_is_reached_through_them(lab_command: Run) -> None:
    lab_command("down")
    assert lab_command("up", "--backend", "uml").returncode == 0
    asked = lab_command("exec", "endpoint", "--", "orchestrator", "status", "--json")
    assert json.loads(asked.stdout)["state"] == "attached"
    url = "http://10.51.1.2/file"
    fetched = lab_command("exec", "endpoint", "--", "curl", "-sfo", "/dev/null", url)
    assert fetched.returncode == 0
    assert lab_command("up").returncode == 0, "once more is fine"
    lab_command("exec", "endpoint", "--", "pkill", "-9", "charon")
    lab_command("exec", "endpoint", "--", "ip", "xfrm", "state", "flush")
    gone = lab_command("exec", "endpoint", "--", "curl", "-sfm2", "-o", "/dev/null", url)
    assert gone.returncode != 0, "it was not reached through the tunnel"


def test_a_lab_ends_with_its_keeper(environment: dict[str, str], lab_command: Run) -> None:
    """kill -9; then a new one comes up, soon."""
    lab_command("down")
    began = time.monotonic()
    assert lab_command("up", "--bare", "--backend", "uml").returncode == 0
    assert not has_time() or time.monotonic() - began < BOOT_SECONDS
    [keeper] = processes_with("orchestrator.lab.keeper\0" + environment["XDG_CACHE_HOME"])
    guests = [os.pidfd_open(each) for each in processes_with(environment["TMPDIR"])]
    assert guests
    os.kill(keeper, signal.SIGKILL)
    for guest in guests:
        assert select.select([guest], [], [], 10)[0], "it ended"
        os.close(guest)
    assert lab_command("status").returncode == 3
    assert lab_command("up", "--bare", "--backend", "uml").returncode == 0
    assert lab_command("down").returncode == 0


def test_down_and_up_at_once(lab_command: Run) -> None:
    for _ in range(3):
        up = lab_command("up", "--bare", "--backend", "uml")
        assert (up.returncode, "already" in up.stderr) == (0, False), up.stderr
        assert lab_command("down").returncode == 0


def test_without_a_lab_nothing_is_captured(lab_command: Run, tmp_path: Path) -> None:
    lab_command("down")
    file = tmp_path / "wifi.pcap"
    assert lab_command("capture", "wifi", "--write", str(file)).returncode == 3
    assert not file.exists()


def test_without_a_lab_every_command_says_what_starts_one(lab_command: Run) -> None:
    lab_command("down")
    for arguments in (["status"], ["roam", "lte"], ["exec", "lan", "true"], ["down"]):
        done = lab_command(*arguments)
        assert done.returncode == 3
        assert "`vagrant/lab up` starts one" in done.stderr
