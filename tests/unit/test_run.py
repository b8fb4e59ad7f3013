"""What `tests/run` makes of the parts that run beside each other."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE = 60.0
"""Seconds."""
RUN = Path(__file__).parents[1] / "run"


def with_xargs(folder: Path, script: str) -> dict[str, str]:
    """An environment in which this is xargs."""
    xargs = folder / "xargs"
    xargs.write_text(f"#!/bin/sh\n{script}\n")
    xargs.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(("of_xargs", "expected"), [(0, 0), (123, 1)])
def test_a_failed_part_is_a_failure(tmp_path: Path, of_xargs: int, expected: int) -> None:
    done = subprocess.run(
        [str(RUN), "long"],
        env=with_xargs(tmp_path, f"cat >{tmp_path}/parts\nexit {of_xargs}"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expected, done.stderr
    assert ("failed" in done.stdout) is bool(expected)
    parts = (tmp_path / "parts").read_text().splitlines()
    assert "module long tests/scenarios/test_rekey.py" in parts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_who_ends_it_ends_the_parts(tmp_path: Path, number: signal.Signals) -> None:
    pid = tmp_path / "pid"
    environment = with_xargs(
        tmp_path, f"sleep 60 &\necho $! >{pid}.new\nmv {pid}.new {pid}\nwait"
    )
    with subprocess.Popen([str(RUN), "long"], env=environment, stdout=subprocess.DEVNULL) as it:
        wait_for(pid.exists)
        part = int(pid.read_text())
        try:
            assert runs(part)
            it.send_signal(number)
            assert it.wait(PATIENCE) == 130
            wait_for(lambda: not runs(part))
        finally:
            if runs(part):
                os.kill(part, signal.SIGKILL)


def runs(process: int) -> bool:
    """One that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.01)
