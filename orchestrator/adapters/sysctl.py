"""Writes below /proc/sys, and remembers on disk what was there before.

The record is written before the setting, so that a crash between the two loses nothing:
putting back a value that was never changed is harmless.
"""

import json
from pathlib import Path
from typing import Final

from orchestrator.core.errors import KernelError
from orchestrator.core.kernel import Sysctl

PROC: Final = Path("/proc/sys")


class Sysctls:
    """Settings changed by us, recorded in the file `record`."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def read(self, path: str) -> str:
        """Raises KernelError when this kernel has no such setting."""
        try:
            return (PROC / path).read_text().strip()
        except OSError as error:
            raise KernelError(error.errno or 0, "read", f"sysctl {path}") from error

    def put(self, wanted: Sysctl) -> None:
        before = self.read(wanted.path)
        if before == wanted.value:
            return
        saved = self._load()
        if wanted.path not in saved:
            saved[wanted.path] = before
            self._save(saved)
        self._write(wanted.path, wanted.value)

    def restore(self, path: str) -> None:
        """Puts back what was there before us; nothing if we never changed it."""
        saved = self._load()
        if path in saved:
            self._write(path, saved.pop(path))
            self._save(saved)

    def changed(self) -> tuple[str, ...]:
        """What `restore` would put back."""
        return tuple(self._load())

    def _write(self, path: str, value: str) -> None:
        try:
            (PROC / path).write_text(f"{value}\n")
        except OSError as error:
            raise KernelError(error.errno or 0, "set", f"sysctl {path}={value}") from error

    def _load(self) -> dict[str, str]:
        try:
            found = json.loads(self._record.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        except OSError as error:
            raise KernelError(error.errno or 0, "read", str(self._record)) from error
        return {str(path): str(value) for path, value in found.items()}

    def _save(self, saved: dict[str, str]) -> None:
        if not saved:
            self._record.unlink(missing_ok=True)
            return
        fresh = self._record.with_suffix(".new")
        try:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(saved, indent=1))
            fresh.replace(self._record)
        except OSError as error:
            raise KernelError(error.errno or 0, "write", str(self._record)) from error
