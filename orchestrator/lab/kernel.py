"""Builds the lab's kernel from the distribution's own source, once, and keeps it.

It is a user-mode Linux with `kernel.config`. The cache is known by source version and
configuration; a build interrupted at any point leaves nothing that could be taken for a kernel.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.core.errors import OrchestratorError
from orchestrator.lab import kernel_edits
from orchestrator.lab.cache import cache_folder
from orchestrator.lab.lifeline import Tied

CONFIG: Final = Path(__file__).with_name("kernel.config")
_OWN_KERNEL: Final = "ORCHESTRATOR_LAB_KERNEL"
"""Environment variable: a kernel to use instead of one built here."""
_NOT_NEEDED: Final = (
    "Documentation/*/*",
    "arch/[!ux]*/*.[chS]",
    "arch/[!ux]*/*.dts*",
    "drivers/[!bcnpt]*/*.[ch]",
    "drivers/clk/*.[ch]",
    "drivers/crypto/*.[ch]",
    "drivers/net/[!w]*/*.[ch]",
    "drivers/net/wireless/*.[ch]",
    "fs/[bcfgjux]*/*.[ch]",
    "sound/*.[ch]",
    "tools/perf",
    "tools/testing",
)
"""Of the source: most of it, which no file of ours includes. Kconfig files stay."""
_STEPS: Final = 1000
"""Lines that the build prints, about: for the progress shown."""
_STEP: Final = re.compile(rb"^  (CC|AS|LD|AR|HOSTCC|GEN|LDS|UPD)\b")
_LOG_LINES_SHOWN: Final = 25
_REMOVALS: Final = 5

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A Debian package with a kernel's source."""

    package: str
    archive: Path

    def version(self) -> str:
        """Raises KernelBuildError where the package is not installed."""
        asked = subprocess.run(
            ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", self.package],
            capture_output=True,
            text=True,
            check=False,
        )
        status, _, version = asked.stdout.partition(" ")
        if status != "installed" or not self.archive.exists():
            raise KernelBuildError(f"{self.archive} is missing: vagrant/bootstrap installs it")
        return version


DEBIAN_12: Final = Source("linux-source-6.1", Path("/usr/src/linux-source-6.1.tar.xz"))


class KernelBuildError(OrchestratorError):
    """The kernel could not be built; the sentence says what is missing or what make said."""


class NoKernel(OrchestratorError):
    """The user names a kernel that cannot be run."""


def provide(say: Progress, source: Source = DEBIAN_12) -> Path:
    """The lab's kernel, built now if it never was; `say` is told what happens.

    Raises KernelBuildError or UnexpectedSource; then nothing is left of the attempt. Raises
    NoKernel if the user names one that is none.
    """
    if own := os.environ.get(_OWN_KERNEL):
        if not (Path(own).is_file() and os.access(own, os.X_OK)):
            raise NoKernel(f"{_OWN_KERNEL}: {own} is no program")
        return Path(own)
    recipe = CONFIG.read_bytes() + repr(kernel_edits.EDITS).encode()
    configuration = hashlib.sha256(recipe).hexdigest()[:12]
    kernel = _cache() / f"linux-{source.version()}-{configuration}"
    if kernel.exists():
        return kernel
    with _only_builder(say):
        if not kernel.exists():
            _build(source, kernel, say)
    return kernel


def _cache() -> Path:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _only_builder(say: Progress) -> Iterator[None]:
    with (_cache() / "kernel.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process builds the kernel; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(source: Source, kernel: Path, say: Progress) -> None:
    started = time.monotonic()
    for left_behind in _cache().glob("building-*"):
        shutil.rmtree(left_behind)
    folder = _cache() / f"building-{os.getpid()}"
    folder.mkdir()
    try:
        say(f"building the lab's kernel {kernel.name}, once; it takes some minutes")
        say("unpacking the source")
        unpack = ["tar", "-xf", str(source.archive), "--strip-components=1", "--wildcards"]
        excluded = [f"--exclude=*/{pattern}" for pattern in _NOT_NEEDED]
        _run([*unpack, *excluded], folder)
        kernel_edits.apply(folder)
        _run(["make", "ARCH=um", "tinyconfig"], folder)
        _run(["scripts/kconfig/merge_config.sh", "-m", ".config", str(CONFIG)], folder)
        _run(["make", "ARCH=um", "olddefconfig"], folder)
        _check_configuration(folder / ".config")
        _make(folder, say)
        _run(["strip", "linux"], folder)
        shutil.copy(folder / "linux", kernel.with_suffix(".new"))
        kernel.with_suffix(".new").rename(kernel)
    finally:
        _remove(folder)
    say(f"built {kernel} in {time.monotonic() - started:.0f} s")


def _remove(folder: Path) -> None:
    """A compiler that is being killed may still add a file: then once more."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
    shutil.rmtree(folder)


def _check_configuration(merged: Path) -> None:
    """Raises KernelBuildError for options that Kconfig did not take, which it never says."""
    taken = set(merged.read_text().splitlines())
    asked = [line for line in CONFIG.read_text().splitlines() if line.startswith("CONFIG_")]
    refused = [line for line in asked if line not in taken and not line.endswith("=n")]
    if refused:
        raise KernelBuildError(f"Kconfig dropped {', '.join(refused)}")


def _make(folder: Path, say: Progress) -> None:
    jobs = len(os.sched_getaffinity(0))
    command = ["make", "ARCH=um", f"-j{jobs}", "linux"]
    tied = _start(command, folder)
    log: list[bytes] = []
    steps = shown = 0
    try:
        for line in tied.process.stdout or ():
            log.append(line)
            steps += bool(_STEP.match(line))
            percent = min(100 * steps // _STEPS, 99)
            if percent >= shown + (1 if sys.stderr.isatty() else 10):
                shown = percent
                say(f"compiling, {percent} %")
        _check_ended(command, tied.process.wait(), b"".join(log[-_LOG_LINES_SHOWN:]))
    finally:
        tied.cut()


def _run(command: Sequence[str], folder: Path) -> None:
    tied = _start(command, folder)
    try:
        output = tied.process.stdout.read() if tied.process.stdout else b""
        _check_ended(command, tied.process.wait(), output)
    finally:
        tied.cut()


def _start(command: Sequence[str], folder: Path) -> Tied:
    return Tied(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            # What a killed compiler leaves goes with the folder.
            "TMPDIR": str(folder),
        },
    )


def _check_ended(command: Sequence[str], code: int, output: bytes) -> None:
    if code:
        text = output.decode(errors="replace")
        raise KernelBuildError(f"{' '.join(command)} failed with {code}:\n{text}")
