"""Who boots a kernel, as a program, that does not come to run its command."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.lab import execute
from orchestrator.lab import uml

SECONDS = 20.0
CONSOLE = "for word; do case $word in con0=*) console=/dev/fd/${word##*:};; esac; done"
BOOTS = f"{CONSOLE}; echo booting >$console; exec sleep 1000"

Capture = pytest.CaptureFixture[str]


def kernel(folder: Path, script: str) -> Path:
    made = folder / "kernel"
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)
    return made


def run_with(own: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("ORCHESTRATOR_LAB_KERNEL", str(own))
    return execute(["kernel", "--backend", "uml", "--", "true"])


def test_a_kernel_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert run_with(tmp_path / "none", monkeypatch) == 1
    assert f"{tmp_path}/none is no program" in capsys.readouterr().err


def test_a_program_that_runs_nothing_is_no_success(tmp_path: Path) -> None:
    made = kernel(tmp_path, f"{CONSOLE}; echo 'no root' >$console; exit 0")
    with pytest.raises(uml.GuestDied, match="ended with 0 before the command began\n  no root"):
        uml.run(made, ["true"])


def test_how_the_command_ended_is_the_kernels_exit_code(tmp_path: Path) -> None:
    """The command's script begins with saying that it begins."""
    script = (
        "for word; do case $word in lab_script=*) line=${word#*=};; esac; done; head -1 $line"
    )
    begin = f'{CONSOLE}; eval "$({script} | sed "s,/dev/tty0,$console,")"; exit 7'
    assert uml.run(kernel(tmp_path, begin), ["true"]) == 7


def test_an_interrupt_before_the_command_ends_the_guest(tmp_path: Path) -> None:
    with (
        uml.Guest(kernel(tmp_path, "exec sleep 1000"), ["true"]) as guest,
        pytest.raises(KeyboardInterrupt),
    ):
        guest.interrupt()


def test_so_does_one_that_is_typed(tmp_path: Path) -> None:
    words = ["-m", "orchestrator.cli.lab", "kernel", "--backend", "uml", "--", "true"]
    terminal, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"ORCHESTRATOR_LAB_KERNEL": str(kernel(tmp_path, BOOTS))},
    ) as lab:
        os.close(theirs)
        try:
            assert b"booting" in read_until(terminal, b"booting")
            os.write(terminal, b"\x03")
            assert b"lab: interrupted" in read_until(terminal, b"interrupted")
            assert lab.wait(SECONDS) == 130
        finally:
            lab.kill()
            os.close(terminal)


def read_until(terminal: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen and select.select([terminal], [], [], SECONDS)[0]:
        seen += os.read(terminal, 4096)
    return seen
