import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.core.errors import OrchestratorError
from orchestrator.faces.lock import AlreadyRunning, DaemonLock

HOLDER = """
import sys
from pathlib import Path
from orchestrator.faces.lock import DaemonLock
with DaemonLock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_names_the_process_that_has_it(tmp_path: Path) -> None:
    with DaemonLock(tmp_path / "s") as lock:
        assert lock.path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(AlreadyRunning) as caught, DaemonLock(tmp_path / "s"):
            pass
        assert caught.value.pid == os.getpid()
    with DaemonLock(tmp_path / "s"):
        pass


def test_tells_who_has_it_without_a_trace(tmp_path: Path) -> None:
    assert DaemonLock(tmp_path / "s").holder() is None
    assert not list(tmp_path.iterdir())
    with DaemonLock(tmp_path / "s"):
        running = DaemonLock(tmp_path / "s").holder()
        assert running is not None
        assert running.pid == os.getpid()
    assert DaemonLock(tmp_path / "s").holder() is None


def test_is_free_after_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "s")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(AlreadyRunning) as caught, DaemonLock(tmp_path / "s"):
            pass
        assert caught.value.pid == holder.pid
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with DaemonLock(tmp_path / "s"):
        pass


def test_a_deleted_file_does_not_let_two_in(tmp_path: Path) -> None:
    """Who opened the file before it was deleted must not believe to have the lock."""
    with DaemonLock(tmp_path / "s") as lock:
        lock.delete()
        with DaemonLock(tmp_path / "s") as newer:
            assert newer.path.read_text() == f"{os.getpid()}\n"
            with pytest.raises(AlreadyRunning), DaemonLock(tmp_path / "s"):
                pass


def test_a_link_laid_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "s.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OrchestratorError), DaemonLock(tmp_path / "s"):
        pass
    assert not (tmp_path / "precious").exists()
