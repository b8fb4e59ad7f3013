"""How a command ends: its exit code, and what it says when it fails.

    0  done
    1  failed, or found something wrong
    2  asked for in a way that cannot be understood
    3  the daemon that was asked is not running

Results go to stdout, talk to stderr. With `--json` a failure is a result too: an object with
`error` and `remedy`.
"""

import json
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

import click

from orchestrator.core.errors import ConfigError

JSON_WANTED: Final = "orchestrator.json"
"""Where a click context remembers `--json`."""


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3


class Failure(Exception):
    """Ends the command; a sentence for people, and what they can do."""

    def __init__(
        self,
        error: str,
        remedy: str = "",
        code: Exit = Exit.FAILED,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(error)
        self.error = error
        self.remedy = remedy
        self.code = code
        self.more = more or {}
        """Further keys of the JSON object, or its `error` where people get more words."""


def config_failure(error: ConfigError) -> Failure:
    """With every fault, for programs one by one."""
    faults = [
        {
            "file": str(fault.file),
            "line": fault.line,
            "problem": fault.problem,
            "remedy": fault.remedy,
        }
        for fault in error.faults
    ]
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return Failure(str(error), more={"error": count, "faults": faults})


def wants_json() -> bool:
    return bool(click.get_current_context().meta.get(JSON_WANTED))


def say(text: str) -> None:
    """Talk: to stderr."""
    click.echo(text, err=True)


def show(value: object, human: str) -> None:
    """The result: to stdout, as JSON or for people."""
    if wants_json():
        click.echo(json.dumps(value, indent=2))
    elif human:
        click.echo(human)


def show_line(value: object, human: str) -> None:
    """One of many results, as soon as it is there: one line, JSON or for people."""
    click.echo(json.dumps(value) if wants_json() else human)


def report(failure: Failure, *, as_json: bool, in_line: bool = False) -> None:
    """`in_line`: of a command whose results are lines."""
    if as_json:
        content = {"error": failure.error, "remedy": failure.remedy, **failure.more}
        click.echo(json.dumps(content, indent=None if in_line else 2))
        return
    for line in failure.error.splitlines():
        say(f"{click.style('error', fg='red')}: {line}")
    if failure.remedy:
        say(f"remedy: {failure.remedy}")
