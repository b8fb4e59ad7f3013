"""A lab goes without a trace."""

import os
import threading
from pathlib import Path

from orchestrator.lab.internet import INTERNET
from orchestrator.lab.namespaces import PINS
from orchestrator.lab.netns import Lab


def test_a_lab_leaves_nothing(needs_a_lab: None, tmp_path: Path) -> None:
    del needs_a_lab

    def traces() -> tuple[object, ...]:
        pins = [sorted(path.name for path in folder.iterdir()) for folder in PINS.values()]
        mounts = Path("/proc/self/mounts").read_text()
        return (pins, mounts, threading.active_count(), len(os.listdir("/proc/self/fd")))  # noqa: PTH208

    for folder in PINS.values():
        folder.mkdir(parents=True, exist_ok=True)
    before = traces()
    with Lab(INTERNET, tmp_path) as lab:
        started = lab.host("endpoint").popen(["sleep", "1000"])
        lab.roam("lte")
        lab.capture()
        assert traces() != before
    assert traces() == before
    assert started.poll() is not None
