"""Keeps the little that an endpoint must know after a restart, in one file.

Written whole, synced and renamed into place: after a crash the old or the new content is
there, never half of one. A file that cannot be read is set aside and counts as empty.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.quantities import IPAddress

FLIPS_PER_EPOCH: Final = 2**16
"""A daemon that flips more often than this between two restarts runs into its successor's
numbers; at one flip a second that is 18 hours of nothing else."""


class StateFileError(OrchestratorError):
    """The file, or its folder, cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Remembered:
    vips: tuple[IPAddress, ...] = ()
    epoch: int = 0
    """How often the daemon has started: its flips begin above those of its predecessors."""
    names: Mapping[str, tuple[IPAddress, ...]] = field(default_factory=dict)
    """What the server's names meant when they were last looked up, last answers first."""

    @property
    def first_flip(self) -> int:
        return self.epoch * FLIPS_PER_EPOCH % 2**32


class StateFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Remembered:
        """What was saved last; nothing if nothing was, or if the file is damaged. A damaged
        file is there as `.unreadable` afterwards.

        Raises StateFileError.
        """
        try:
            found = json.loads(self._path.read_text())
            vips = tuple(ip_address(vip) for vip in found["vips"])
            # A file of an earlier release has no such thing.
            names = {
                str(name): tuple(ip_address(address) for address in addresses)
                for name, addresses in found.get("names", {}).items()
            }
            return Remembered(vips, int(found["epoch"]), names)
        except FileNotFoundError:
            return Remembered()
        except OSError as error:
            raise self._translated(error, "read") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            self._set_aside()
            return Remembered()

    def save(self, state: Remembered) -> None:
        """On disk when it returns.

        Raises StateFileError: the file is what it was, whole.
        """
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("w") as file:
                json.dump(
                    {
                        "vips": [str(vip) for vip in state.vips],
                        "epoch": state.epoch,
                        "names": {
                            name: [str(address) for address in addresses]
                            for name, addresses in state.names.items()
                        },
                    },
                    file,
                )
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise self._translated(error, "written") from error

    def _set_aside(self) -> None:
        try:
            self._path.replace(self._path.with_suffix(".unreadable"))
        except OSError as error:
            raise self._translated(error, "set aside") from error

    def _translated(self, error: OSError, done: str) -> StateFileError:
        return StateFileError(f"{self._path} cannot be {done}: {error.strerror}")
