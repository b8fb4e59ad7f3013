"""Tests of the lab from outside: they boot it as a user would, on the machine itself."""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.lab import kernel

FRONT_DOOR = [sys.executable, "-m", "orchestrator.cli.start", "orchestrator.cli.lab"]
SECONDS = 120

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache of our own, so that a user's lab is not touched; with the kernel of the user."""
    built = kernel.provide(lambda line: print(line, file=sys.stderr))  # noqa: T201
    cache = tmp_path_factory.mktemp("cache")
    return os.environ | {
        "ORCHESTRATOR_LAB_KERNEL": str(built),
        "XDG_CACHE_HOME": str(cache),
        "TMPDIR": str(tmp_path_factory.mktemp("tmp")),
    }


@pytest.fixture(scope="session")
def lab_command(environment: dict[str, str]) -> Run:
    """Runs `vagrant/lab` with these arguments."""

    def run(*arguments: str, input: str = "") -> "subprocess.CompletedProcess[str]":  # noqa: A002
        return subprocess.run(
            [*FRONT_DOOR, *arguments],
            input=input,
            capture_output=True,
            text=True,
            env=environment,
            timeout=SECONDS,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def standing(lab_command: Run, environment: dict[str, str]) -> Iterator[Path]:
    """A lab that is up; the fixture is its folder."""
    up = lab_command("up", "--bare", "--backend", "uml")
    assert up.returncode == 0, up.stderr
    yield Path(environment["XDG_CACHE_HOME"]) / "orchestrator" / "lab"
    lab_command("down")


@contextmanager
def front_door(
    environment: dict[str, str], *arguments: str, stdout: int | None = subprocess.PIPE
) -> Iterator["subprocess.Popen[str]"]:
    """`vagrant/lab` with these arguments, in the background; killed after SECONDS."""
    with subprocess.Popen(
        [*FRONT_DOOR, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as started:
        too_long = threading.Timer(SECONDS, started.kill)
        too_long.start()
        try:
            yield started
        except BaseException:
            started.kill()
            raise
        finally:
            started.wait(SECONDS)
            too_long.cancel()


def ended(process: int, seconds: float = 10) -> bool:
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def all_gone(mark: str) -> bool:
    """Whether the processes with this mark end soon; who killed them need not wait for all."""
    return all(ended(process) for process in processes_with(mark))


def processes_with(mark: str) -> list[int]:
    """The processes of this machine whose command line contains `mark`, guests' included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in words:
                found.append(int(entry.name))
    return found
