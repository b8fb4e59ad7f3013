"""Where a control socket is put: other users can reach it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    made = Path(tempfile.mkdtemp(prefix="control-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)
