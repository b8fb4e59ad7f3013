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
    exec 3<&0 </dev/null
    { read -r _ <&3; kill -KILL 0; } >/dev/null 2>&1 &
    exec 3<&-
    exec "$@"
"""


def start(
    command: Sequence[str],
    *,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Starts a command in a session of its own, with nothing to read; `cut` must follow."""
    return subprocess.Popen(
        ["sh", "-c", _SCRIPT, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=env,
        cwd=cwd,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def cut(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process and its group, if they have not ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
