"""Puts and drops kernel objects where a refusal is no part of the story."""

from collections.abc import Iterable
from typing import Protocol

from orchestrator.core.errors import KernelError
from orchestrator.core.kernel import KernelObject
from orchestrator.core.plan import Drop, Operation, Put


class Writer(Protocol):
    def write(self, operations: Iterable[Operation]) -> list[KernelError | None]: ...


def put(writer: Writer, *subjects: KernelObject) -> None:
    _write(writer, [Put(subject) for subject in subjects])


def drop(writer: Writer, *subjects: KernelObject) -> None:
    _write(writer, [Drop(subject) for subject in subjects])


def _write(writer: Writer, operations: list[Operation]) -> None:
    for refused in writer.write(operations):
        if refused is not None:
            raise refused
