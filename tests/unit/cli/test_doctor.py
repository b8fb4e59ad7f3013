"""What the doctor asks a running daemon."""

from orchestrator.cli.doctor import _daemon
from tests.unit.cli.conftest import PATHS, STATUS, Running


def test_an_attached_endpoint_tells_its_paths_and_warnings(running: Running) -> None:
    reading, problem = _daemon(running.socket)
    assert problem == ()
    assert reading is not None
    assert reading.paths == PATHS
    assert reading.warnings == STATUS["warnings"]
    assert reading.detached is None


def test_a_detached_one_says_why(running: Running) -> None:
    running.daemon.state = "detached"
    reading, _ = _daemon(running.socket)
    assert reading is not None
    assert reading.detached == STATUS["reasons"]
