"""A command in the lab's kernel: what goes in, what comes out, and what must not."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.conftest import SECONDS, Run, all_gone, ended, front_door, processes_with


def kernel(lab_command: Run, *words: str) -> "subprocess.CompletedProcess[str]":
    return lab_command("kernel", "--backend", "uml", *words)


def test_output_errors_and_exit_code_come_through(lab_command: Run) -> None:
    done = kernel(lab_command, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert done.stdout == "out\n"
    assert done.stderr.splitlines()[-1] == "err"
    assert done.returncode == 7


def test_what_is_large_comes_through_whole(lab_command: Run) -> None:
    done = kernel(lab_command, "--", "seq", "300000")
    assert done.stdout == "".join(f"{n}\n" for n in range(1, 300001))


def test_it_is_root_here_and_sees_the_clone(lab_command: Run) -> None:
    done = kernel(lab_command, "--", "sh", "-c", "id -u; pwd; command -v python; uname -n")
    assert done.stdout.splitlines()[:2] == ["0", str(Path.cwd())]
    assert done.stdout.splitlines()[2].endswith("/bin/python")
    assert done.stdout.splitlines()[3] == "lab"


def test_the_environment_comes_along_as_it_is(
    environment: dict[str, str], lab_command: Run
) -> None:
    environment["ODD"] = "two words, 'quotes' \"too\", $HOME and a\nline"
    try:
        done = kernel(lab_command, "--", "printenv", "ODD")
    finally:
        del environment["ODD"]
    assert done.stdout == "two words, 'quotes' \"too\", $HOME and a\nline\n"


def test_arguments_come_along_as_they_are(lab_command: Run) -> None:
    done = kernel(lab_command, "--", "printf", "<%s>", "a b", "$HOME", "'", "")
    assert done.stdout == "<a b><$HOME><'><>"


def test_the_scheduler_counts_in_less_than_a_tick(lab_command: Run) -> None:
    script = """
from time import CLOCK_PROCESS_CPUTIME_ID, clock_gettime_ns as now
steps = []
while len(steps) < 20:
    first = now(CLOCK_PROCESS_CPUTIME_ID)
    while (then := now(CLOCK_PROCESS_CPUTIME_ID)) == first:
        pass
    steps.append(then - first)
print(min(steps))
"""
    done = kernel(lab_command, "--", "python", "-c", script)
    assert 0 < int(done.stdout) < 1_000_000


def test_nothing_of_this_machine_is_changed_but_the_results(
    lab_command: Run, tmp_path: Path
) -> None:
    results, other = tmp_path / "results", tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("as it was")
    script = f"""
        echo mine >{results}/file
        echo changed >{other}/file && cat {other}/file
        touch {other}/new /etc/new; rm {Path(__file__)}
    """
    done = kernel(lab_command, "--results", str(results), "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "changed\n", "the guest believes that it wrote"
    assert (results / "file").read_text() == "mine\n"
    assert (other / "file").read_text() == "as it was"
    assert [path.name for path in other.iterdir()] == ["file"]
    assert not Path("/etc/new").exists()
    assert Path(__file__).exists()


def test_a_guest_leaves_nothing(lab_command: Run, environment: dict[str, str]) -> None:
    scratch = Path(environment["TMPDIR"])
    before = set(scratch.iterdir())  # of a keeper that another test killed
    assert all_gone(str(scratch))
    kernel(lab_command, "--", "true")
    assert set(scratch.iterdir()) <= before
    assert all_gone(str(scratch))


@contextmanager
def sleeping_guest(environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A guest whose command has started and would take long."""
    script = "trap 'echo interrupted; exit 9' INT; echo started; sleep 1000 & wait"
    words = ["kernel", "--backend", "uml", "--", "sh", "-c", script]
    with front_door(environment, *words) as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "started\n"
        yield guest


def test_an_interrupt_reaches_the_command(environment: dict[str, str]) -> None:
    with sleeping_guest(environment) as guest:
        guest.send_signal(signal.SIGINT)
        output, _ = guest.communicate(timeout=SECONDS)
    assert (output, guest.returncode) == ("interrupted\n", 9)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_guest_dies_with_whoever_started_it(
    environment: dict[str, str], number: signal.Signals
) -> None:
    with sleeping_guest(environment) as guest:
        processes = processes_with(environment["TMPDIR"])
        assert len(processes) > 3, "the kernel, its guests' programs, the lifeline"
        guest.send_signal(number)
        guest.communicate(timeout=SECONDS)
    assert all(ended(process) for process in processes)


def test_the_guests_programs_die_with_the_kernel(environment: dict[str, str]) -> None:
    """Else they would go on as programs of this machine; see kernel.py."""
    with sleeping_guest(environment) as guest:
        processes = processes_with(environment["TMPDIR"])
        leaders = {os.getpgid(process) for process in processes}
        assert len(leaders) == 1
        os.kill(leaders.pop(), signal.SIGKILL)
        _, errors = guest.communicate(timeout=SECONDS)
    assert "the lab's kernel was ended by SIGKILL" in errors
    assert guest.returncode == 1
    assert all(ended(process) for process in processes)
