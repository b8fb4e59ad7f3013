"""One tree of errors, by whose fault it is.

Adapters translate what their neighbour raises into one of these, `from` the cause. Outcomes
that are expected (a path died, a move was refused) are events, not errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class OrchestratorError(Exception):
    """The root: everything we raise on purpose, with a sentence for a person."""

    remedy: str = ""
    """What they can do about it; empty: that is in the sentence, or nothing is known."""


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One thing wrong in a configuration file, and what to do about it."""

    file: Path
    line: int
    """1-based; 0 when the fault is not on any line (a missing table)."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{where}: {self.problem}; {self.remedy}"


class ConfigError(OrchestratorError):
    """The operator's configuration is wrong; carries every fault found, in file order."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


class PeerError(OrchestratorError):
    """Bytes from the network that no honest peer sends. Costs a counter, nothing else."""


class KernelError(OrchestratorError):
    """The kernel refused an operation on one of our objects."""

    def __init__(self, errno: int, operation: str, subject: str, detail: str = "") -> None:
        tail = f": {detail}" if detail else ""
        super().__init__(f"the kernel refused to {operation} {subject} (errno {errno}){tail}")
        self.errno = errno
        self.operation = operation
        self.subject = subject


class CharonError(OrchestratorError):
    """charon is absent, went away, or refused a VICI command."""


class IllegalEvent(OrchestratorError):
    """A machine was given an event its state has no row for: a defect of ours."""
