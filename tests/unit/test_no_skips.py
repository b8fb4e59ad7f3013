"""Whether the tests' own `--no-skips` can fail, and `--skipped-to` misses nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED_IN_A_FIXTURE = """
import pytest
@pytest.fixture
def lacking():
    pytest.skip("no such thing here")
def test_something(lacking): pass
"""
SKIPPED_BY_A_MARK = """
import pytest
@pytest.mark.skipif(True, reason="no such thing here")
def test_something(): pass
"""
SKIPPED_AS_A_WHOLE = """
import pytest
pytest.skip("no such thing here", allow_module_level=True)
"""
SUCCEEDS = "def test_something(): pass"
FAILS_AS_EXPECTED = """
import pytest
@pytest.mark.xfail
def test_something(): assert False
"""


def run(folder: Path, text: str, *options: str) -> "subprocess.CompletedProcess[str]":
    module = folder / "test_it.py"
    module.write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "--rootdir", str(folder), *options, str(module)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "text",
    [SKIPPED_IN_A_FIXTURE, SKIPPED_BY_A_MARK, SKIPPED_AS_A_WHOLE],
    ids=["fixture", "mark", "module"],
)
def test_a_skip_is_a_failure_where_none_is_allowed(tmp_path: Path, text: str) -> None:
    failed = run(tmp_path, text, "--no-skips")
    assert failed.returncode in (1, 2), failed.stdout
    assert "no such thing here" in failed.stdout
    # The negative control: elsewhere a skip is none.
    assert run(tmp_path, text).returncode in (0, 5)


@pytest.mark.parametrize("text", [SUCCEEDS, FAILS_AS_EXPECTED])
def test_what_was_not_skipped_stays_what_it_is(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, text, "--no-skips")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (SKIPPED_IN_A_FIXTURE, "::test_something"),
        (SKIPPED_BY_A_MARK, "::test_something"),
        (SKIPPED_AS_A_WHOLE, ""),
        (SUCCEEDS, None),
        (FAILS_AS_EXPECTED, None),
    ],
    ids=["fixture", "mark", "module", "succeeds", "fails as expected"],
)
def test_what_is_skipped_is_named_for_a_run_elsewhere(
    tmp_path: Path, text: str, name: str | None
) -> None:
    names = tmp_path / "names"
    assert run(tmp_path, text, "--skipped-to", str(names)).returncode in (0, 5)
    said = names.read_text() if names.exists() else None
    assert said == (None if name is None else f"test_it.py{name}\n")
