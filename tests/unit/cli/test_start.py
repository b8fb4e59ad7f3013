"""Ctrl-C while a command is being imported, and after."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

INTERRUPT = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
MAIN = "def main():\n    print('began', flush=True)\n"
ENDS = "    try:\n        signal.pause()\n    except KeyboardInterrupt:\n        return 5\n"


def start(folder: Path, text: str, *, ignored: bool = False) -> tuple[int, str, str]:
    (folder / "interrupted.py").write_text(text)
    words = [sys.executable, "-m", "orchestrator.cli.start", "interrupted"]
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *words] if ignored else words,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{Path.cwd()}:{folder}"},
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_while_it_is_imported_it_ends_without_a_word(tmp_path: Path) -> None:
    assert start(tmp_path, INTERRUPT + MAIN) == (-signal.SIGINT, "", "")


def test_later_the_command_hears_of_it(tmp_path: Path) -> None:
    text = f"import os, signal\n{MAIN}    signal.setitimer(signal.ITIMER_REAL, 0.01)\n"
    wakes = "signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
    assert start(tmp_path, text + ENDS + wakes) == (5, "began\n", "")


@pytest.mark.parametrize("when", ["import", "main"])
def test_in_the_background_of_a_script_it_is_ignored(tmp_path: Path, when: str) -> None:
    main = MAIN if when == "import" else f"{MAIN}    os.kill(os.getpid(), signal.SIGINT)\n"
    text = INTERRUPT + main if when == "import" else f"import os, signal\n{main}"
    assert start(tmp_path, text, ignored=True) == (0, "began\n", "")
