"""Ties a process, and all that it starts, to the life of this one.

One more process in its group holds the reading end of a pipe. When we are gone, for whatever
reason, it reads the end of file and takes the group along. That works without any right, and
also for programs that are several processes of which one's death does not end the others.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_SCRIPT: Final = """
    line=$1
    shift
    { read -r _ <"/dev/fd/$line"; kill -KILL 0; } >/dev/null 2>&1 &
    exec "$@"
"""


class Tied:
    """A process in a session of its own, with nothing to read. `cut` must follow."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        reading, self._held = os.pipe()
        self.process: Final = subprocess.Popen(
            ["sh", "-c", _SCRIPT, "sh", str(reading), *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            pass_fds=[*pass_fds, reading],
            start_new_session=True,
        )
        os.close(reading)

    def cut(self) -> None:
        """Ends the process and its group, if they have not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self._held)
