"""Whether `tests/run` tells when one of the parts that run beside each other has failed."""

import os
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "run"


@pytest.mark.parametrize(("of_xargs", "expected"), [(0, 0), (123, 1)])
def test_a_failed_part_is_a_failure(tmp_path: Path, of_xargs: int, expected: int) -> None:
    xargs = tmp_path / "xargs"
    xargs.write_text(f"#!/bin/sh\ncat >{tmp_path}/parts\nexit {of_xargs}\n")
    xargs.chmod(0o755)
    paths = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(RUN), "long"],
        env={**os.environ, "PATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expected, done.stderr
    assert ("failed" in done.stdout) is bool(expected)
    parts = (tmp_path / "parts").read_text().splitlines()
    assert "module long tests/scenarios/test_rekey.py" in parts
