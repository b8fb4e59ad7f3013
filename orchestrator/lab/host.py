"""A host of the lab: runs commands, starts daemons, and ends them all."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from orchestrator.lab import internet, rtnl
from orchestrator.lab.namespaces import NamespaceThread, write_sysctls
from orchestrator.lab.rtnl import Rtnetlink

LOOPBACK_INDEX: Final = 1
RUN_SECONDS: Final = 60.0
"""What a command may take; those that the lab runs take a second or two on its one slow CPU."""
SYSCTLS: Final = {
    # Nobody else can have the same address: no second of tentative addresses.
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
FORWARDING: Final = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
}

File = int | IO[bytes] | IO[str] | None


class Host:
    """One machine of the lab."""

    def __init__(self, description: internet.Host, folder: Path, hosts_file: Path) -> None:
        """`folder` is the host's own, for logs; `hosts_file` is what it sees as /etc/hosts."""
        folder.mkdir(parents=True, exist_ok=True)
        self.name: Final = description.name
        self.routes: Final = description.routes
        self.folder: Final = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs = 0
        self.thread: Final = NamespaceThread(description.name, hosts_file)
        self.inside: Final = self.thread.inside
        self.rtnetlink: Final = self.inside(Rtnetlink)
        self.inside(write_sysctls, SYSCTLS | (FORWARDING if description.forwards else {}))
        self.rtnetlink.say(rtnl.link_up(LOOPBACK_INDEX))

    def run(
        self,
        command: Sequence[str | Path],
        *,
        check: bool = True,
        timeout: float | None = RUN_SECONDS,
        input: str | None = None,  # noqa: A002  subprocess.run calls it so
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end. Raises CalledProcessError with its stderr as a note."""
        process = self.inside(
            subprocess.Popen,
            command,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(env),
            cwd=cwd,
        )
        with process:
            try:
                output, errors = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            failure = subprocess.CalledProcessError(process.returncode, command, output, errors)
            failure.add_note(f"on {self.name}: {errors.strip()}")
            raise failure
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def popen(
        self,
        command: Sequence[str | Path],
        *,
        stdin: File = subprocess.DEVNULL,
        stdout: File = None,
        stderr: File = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Starts a command in a session of its own; its output goes to a log in `folder`."""
        self._logs += 1
        name = f"{self._logs}-{Path(command[0]).name}.log"
        with (self.folder / name).open("wb") as log:
            process = self.inside(
                subprocess.Popen,
                command,
                stdin=stdin,
                stdout=log if stdout is None else stdout,
                stderr=log if stderr is None else stderr,
                env=_environment(env),
                cwd=cwd,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def spawn_python(
        self, module: str, *arguments: str, stdout: File = None
    ) -> subprocess.Popen[bytes]:
        """Starts `python -m module` with this interpreter, unbuffered."""
        return self.popen([sys.executable, "-u", "-m", module, *arguments], stdout=stdout)

    def kill_all(self) -> None:
        """Ends every process that runs on this host, whoever started it; they are gone then."""
        for process in _processes_in(self.thread.network):
            with suppress(ProcessLookupError):
                _end(process)
        for started in self._processes:
            started.wait()
            for pipe in (started.stdin, started.stdout, started.stderr):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # what it did not read is lost with it
                        pipe.close()

    def close(self) -> None:
        self.kill_all()
        self.rtnetlink.close()
        self.thread.close()


def _environment(extra: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if extra is None else {**os.environ, **extra}


def _end(process: int) -> None:
    """Kills a process, ours or not, and waits until it is dead."""
    descriptor = os.pidfd_open(process)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        dead = select.poll()
        dead.register(descriptor, select.POLLIN)
        dead.poll()
    finally:
        os.close(descriptor)


def _processes_in(network: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "ns/net").stat().st_ino == network:
                    found.append(int(entry.name))
    return [each for each in found if each != os.getpid()]
