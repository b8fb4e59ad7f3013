"""How both commands, `orchestrator` and `vagrant/lab`, take their words, and how they end.

What is wrong gets a sentence and a remedy, not the whole help; that is for who says nothing.
"""

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from orchestrator.cli.outcome import Exit, Failure, report, say

END: Final = "--"
PROGRAM: Final = "orchestrator.program"
"""Where a click context remembers what follows it."""


class Command(click.Command):
    """One whose wrong options are its own: the remedy names its help, not the program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


class CommandWithProgram(Command):
    """One that runs a program: what follows `--` is that, and no word of ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index(END) if END in args else len(args)
        ctx.meta[PROGRAM] = tuple(args[end + 1 :])
        return super().parse_args(ctx, args[:end])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- PROGRAM...]"]


def program_of(context: click.Context) -> tuple[str, ...]:
    """With its arguments; empty: none was given."""
    program: tuple[str, ...] = context.meta[PROGRAM]
    return program


class Group(click.Group):
    command_class = Command


def execute(
    group: Group,
    program: str,
    arguments: Sequence[str],
    *,
    as_json: bool,
    until_interrupt: bool = False,
) -> int:
    """Runs the command; returns its exit code. `until_interrupt`: it prints lines, and Ctrl-C
    is how it ends."""
    try:
        context = group.make_context(program, list(arguments))
        if os.environ.get("NO_COLOR"):
            context.color = False
        with context:
            if not arguments:
                say(context.get_help())
                return Exit.USAGE
            group.invoke(context)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else program
        sentence = " ".join(error.format_message().split())  # click makes lists of choices
        usage = Failure(sentence, f"see {command} --help", Exit.USAGE)
        report(usage, as_json=as_json, in_line=until_interrupt)
        return Exit.USAGE
    except click.ClickException as error:
        told = Failure(error.format_message())
        report(told, as_json=as_json, in_line=until_interrupt)
        return Exit.FAILED
    except Failure as failure:
        report(failure, as_json=as_json, in_line=until_interrupt)
        return failure.code
    except (KeyboardInterrupt, click.Abort):
        say("")
        return Exit.DONE if until_interrupt else Exit.FAILED
    except BrokenPipeError:
        # Whoever read our results has seen enough; say nothing at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.DONE
