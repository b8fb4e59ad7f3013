"""Several that would bring up a lab at once, and one that changes its mind."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.lab import keeper

BOOTS = (
    "for word; do case $word in con0=*) console=/dev/fd/${word##*:};; esac; done\n"
    "echo booting >$console; exec sleep 1000"
)
SECONDS = 20.0
Keeping = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def sleeping_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never comes to run anything."""
    kernel = tmp_path / "kernel"
    kernel.write_text(f"#!/bin/sh\n{BOOTS}\n")
    kernel.chmod(0o755)
    monkeypatch.setenv("ORCHESTRATOR_LAB_KERNEL", str(kernel))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@contextmanager
def keeping(folder: Path) -> Iterator[Keeping]:
    with subprocess.Popen(
        [sys.executable, "-m", keeper.__name__, str(folder), "uml"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: Keeping) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def wait_until_it_boots(folder: Path) -> None:
    pause = threading.Event()
    end = time.monotonic() + SECONDS
    while "booting" not in keeper.log_of(folder).read_text():
        assert time.monotonic() < end
        pause.wait(0.02)


def test_the_second_waits_and_has_the_lab_of_the_first(tmp_path: Path) -> None:
    with keeping(tmp_path) as first:
        assert line(first) == "uml: asked for"
        wait_until_it_boots(tmp_path)
        with keeping(tmp_path) as second:
            assert "waiting for it" in line(second)
            path = str(keeper.socket_of(tmp_path))
            with socket.create_server(path, family=socket.AF_UNIX):
                assert line(second) == keeper.THERE
        assert "booting" in keeper.log_of(tmp_path).read_text(), "the first one's log stays"


def test_the_second_tries_itself_when_the_first_fails(tmp_path: Path) -> None:
    with keeping(tmp_path) as first:
        assert line(first) == "uml: asked for"
        with keeping(tmp_path) as second:
            assert "waiting for it" in line(second)
            first.send_signal(signal.SIGTERM)
            assert line(second) == "uml: asked for"


def test_one_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    with keeping(tmp_path) as one:
        assert line(one) == "uml: asked for"
        wait_until_it_boots(tmp_path)
        one.send_signal(signal.SIGTERM)
        assert one.wait(SECONDS) != 0
    assert not list(tmp_path.glob("orchestrator-lab-*"))
    assert not keeper.is_up(tmp_path)


def test_an_interrupt_ends_what_up_has_started(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "orchestrator.cli.lab", "up", "--bare", "--backend", "uml"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as up:
        assert up.stderr is not None
        assert up.stderr.readline() == "lab: uml: asked for\n"
        up.send_signal(signal.SIGINT)
        _, said = up.communicate(timeout=SECONDS)
    assert (up.returncode, said.splitlines()[-1]) == (130, "lab: interrupted")
    with (tmp_path / "orchestrator" / "lab" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
