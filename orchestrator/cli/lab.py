"""The lab's front door: `vagrant/lab`.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 no lab is up;
`kernel` and `exec` exit with what their command exits with.
"""

import sys
from pathlib import Path
from typing import Final

import click

from orchestrator.core.errors import OrchestratorError
from orchestrator.lab import backends

_PASS_ON: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False}


class _Group(click.Group):
    """Turns our errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except OrchestratorError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A small internet to try the orchestrator in."""


@main.command(context_settings=_PASS_ON)
@click.option(
    "--backend",
    type=click.Choice(list(backends.NAMES)),
    help="Instead of the one that suits this machine.",
)
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="The one folder of this machine that the command can write to.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def kernel(backend: str | None, results: Path | None, command: tuple[str, ...]) -> None:
    """Run COMMAND as root in a kernel that has all the lab needs.

    It sees this machine's files, and changes none of them.
    """
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
    chosen = backends.choose(backend)
    _say(f"{chosen.name}: {chosen.reason}")
    sys.exit(chosen.run(command, results, _say))


def _say(line: str) -> None:
    click.echo(f"lab: {line}", err=True)


if __name__ == "__main__":
    main()
