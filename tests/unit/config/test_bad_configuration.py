"""Every fault at once, each with its line and its remedy, word by word.

The expected text of NAME.toml stands beside it in NAME.faults; an intended change is written
with `ORCHESTRATOR_GOLDEN=write pytest tests/unit/config` and read in the diff.
"""

import os
import shutil
from pathlib import Path

import pytest

from orchestrator.config.toml import load
from orchestrator.core.errors import ConfigError

BAD = Path(__file__).parent / "bad"


@pytest.mark.parametrize("name", sorted(path.stem for path in BAD.glob("*.toml")))
def test_says_everything_that_is_wrong(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.toml"
    shutil.copy(BAD / file.name, file)
    file.chmod(0o644)
    (tmp_path / "secret").write_text("a secret\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "open-to-all").write_text("a key\n")
    (tmp_path / "open-to-all").chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        load(file)
    said = f"{caught.value}\n".replace(f"{tmp_path}/", "")
    golden = BAD / f"{name}.faults"
    if os.environ.get("ORCHESTRATOR_GOLDEN") == "write":
        golden.write_text(said)
    assert said == golden.read_text()
    lines = [fault.line for fault in caught.value.faults]
    assert lines == sorted(lines)
