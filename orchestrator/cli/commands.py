"""The `orchestrator` command.

Few verbs; `--json` everywhere, stable; results to stdout, talk to stderr; exit codes as in
`cli.outcome`. The shapes of the results are in docs/man/orchestrator.1.md.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from orchestrator import __version__
from orchestrator.cli import client, entry, render
from orchestrator.cli.outcome import (
    JSON_WANTED,
    Exit,
    config_failure,
    say,
    show,
    show_line,
    wants_json,
)
from orchestrator.config.common import CharonSocket, Control, State
from orchestrator.wire.control import Request, Verb

PROGRAM: Final = "orchestrator"
Command = TypeVar("Command", bound=Callable[..., object])


def _remember_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.meta[JSON_WANTED] = True


def _json_option(told: str) -> Callable[[Command], Command]:
    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember_json,
        help=told,
    )


_with_json = _json_option("Print JSON.")


def _with_socket(command: Command) -> Command:
    return click.option(
        "--socket",
        type=click.Path(path_type=Path, readable=False),
        default=Control().socket,
        show_default=True,
        help="Where the daemon listens.",
    )(command)


_config_argument = click.argument("config", type=click.Path(path_type=Path, readable=False))


@click.group(
    cls=entry.Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 the daemon is not running.",
)
@click.version_option(__version__, "--version", prog_name=PROGRAM)
def cli() -> None:
    """Keeps a Linux device connected, securely, while it moves."""


@cli.command()
@_json_option("Print a failure as JSON.")
@_config_argument
def run(config: Path) -> None:
    """Run the daemon that CONFIG is for, until it is stopped."""
    from orchestrator.cli import daemon

    daemon.run(config)


@cli.command()
@_with_json
@_config_argument
def check(config: Path) -> None:
    """Say everything that is wrong with CONFIG.

    Does nothing else.
    """
    from orchestrator.cli import daemon
    from orchestrator.config import certificates
    from orchestrator.core.errors import ConfigError

    found = daemon.configuration(config)
    if faults := certificates.faults(config, found):
        raise config_failure(ConfigError(faults))
    show(
        {"role": found.role, "identity": found.identity, "faults": []},
        f"{config} is valid: {found.role} {found.identity}",
    )


@cli.command()
@_with_json
@_with_socket
def status(socket: Path) -> None:
    """Say how the daemon is, and why."""
    _ask(socket, Request(Verb.STATUS), render.status)


@cli.command()
@_with_json
@_with_socket
def paths(socket: Path) -> None:
    """List the ways to the server, best first (endpoint)."""
    _ask(socket, Request(Verb.PATHS), render.paths)


@cli.command()
@_with_json
@_with_socket
def sessions(socket: Path) -> None:
    """List the endpoints, present and away (server)."""
    _ask(socket, Request(Verb.SESSIONS), render.sessions)


@cli.command()
@_with_json
@_with_socket
def flows(socket: Path) -> None:
    """List the TCP connections that pass the proxy (server)."""
    _ask(socket, Request(Verb.FLOWS), render.flows)


@cli.command()
@_with_json
@_with_socket
def metrics(socket: Path) -> None:
    """Print what is counted and measured, for a Prometheus.

    OpenMetrics text; with --json, one object for each metric.
    """
    answer = client.ask(socket, Request(Verb.METRICS))
    found = answer if isinstance(answer, Mapping) else {}
    lines = str(found.get("text", "")).rstrip("\n").split("\n")
    show(found.get("metrics", []), "\n".join(map(render.clean, lines)))


@cli.command()
@_with_json
@_with_socket
def watch(socket: Path) -> None:
    """Tell what happens, as it happens, with its reasons.

    Until Ctrl-C. With --json, one object a line.
    """
    for event in client.watch(socket):
        show_line(event, render.event(render.clean(event)))


@cli.command()
@_with_json
@_with_socket
@click.argument("link", required=False)
def roam(socket: Path, link: str | None) -> None:
    """Move the traffic to LINK, and prefer that (endpoint).

    LINK is preferred to all others until the next `roam`. Without LINK none is any more, and
    a tunnel is negotiated anew where it is best.
    """
    _ask(socket, Request(Verb.ROAM, link), _roaming)


@cli.command(cls=entry.CommandWithProgram)
@_with_json
@_with_socket
@click.argument("link", required=False)
@click.pass_context
def portal(context: click.Context, socket: Path, link: str | None) -> None:
    """Let one program sign in to the network of LINK (endpoint).

    \b
    orchestrator portal wlan0 -- firefox --no-remote http://203.0.113.80/

    The program, by default a shell, reaches web pages and the name server of that network, and
    nothing else does: other traffic waits for the tunnel. It is over when a tunnel comes up,
    after [portal] way, and with the program or the daemon. Without LINK: where a sign-in is
    wanted.
    """
    from orchestrator.cli.portal import sign_in

    ended = sign_in(socket, link, entry.program_of(context))
    show(ended, "")
    if ended["exit_status"]:
        raise click.exceptions.Exit(Exit.FAILED)


@cli.command()
@_with_json
@_with_socket
def reload(socket: Path) -> None:
    """Have the daemon read its configuration again (server).

    Taken are [hold], [sessions], [timers] and [limits]; what is held stays, as far as it may.
    What else has changed is named: a restart takes it, and connections go on. An endpoint
    refuses: restart it instead, connections go on there, too.
    """
    _ask(socket, Request(Verb.RELOAD), render.reloaded)


@cli.command("replace-proxy")
@_with_json
@_with_socket
def replace_proxy(socket: Path) -> None:
    """Replace the proxy's process by a new one (server).

    Of the program as it is installed now. Connections go over, none is closed. The daemon does
    so itself when it starts and finds a process of another release.
    """
    _ask(socket, Request(Verb.REPLACE_PROXY), render.replacement)


@cli.command()
@_with_json
@_with_socket
@click.argument("config", type=click.Path(path_type=Path, readable=False), required=False)
def doctor(socket: Path, config: Path | None) -> None:
    """Look for what keeps this machine from working well.

    Looks at the kernel, its settings, charon, networks; with CONFIG, at what that file needs.
    Changes nothing. Fails if it finds an error.
    """
    from orchestrator.cli.doctor import diagnose

    findings = diagnose(socket, config)
    errors = sum(finding.severity == "error" for finding in findings)
    show(
        {"errors": errors, "findings": [asdict(finding) for finding in findings]},
        render.findings([render.clean(asdict(finding)) for finding in findings]),
    )
    if errors:
        raise click.exceptions.Exit(Exit.FAILED)


@cli.command()
@_with_json
@_with_socket
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--stop", is_flag=True, help="Stop a daemon that runs first.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, readable=False),
    default=State().directory,
    show_default=True,
    help="Where the daemon kept its state.",
)
@click.option(
    "--charon",
    type=click.Path(path_type=Path, readable=False),
    default=CharonSocket().socket,
    show_default=True,
    help="charon's VICI socket.",
)
def cleanup(socket: Path, state: Path, charon: Path, *, dry_run: bool, stop: bool) -> None:
    """Remove every trace of a daemon; twice is fine.

    Policies, rules, routes, the virtual device, the firewall table, security associations,
    connections and pre-shared keys in charon, runtime files; system settings become what they
    were. Leases and the remembered virtual address stay; private keys and certificates stay in
    charon's memory until it ends.
    """
    from orchestrator.cli.cleanup import Places, clean_up

    cleaned = clean_up(Places(socket, state, charon), dry_run=dry_run, stop=stop)
    done = cleaned.operations
    if cleaned.refusal and not wants_json():
        say(cleaned.refusal)
    show(
        {"operations": done, "dry_run": dry_run, "refusal": cleaned.refusal},
        "\n".join(done) or "nothing of ours is here",
    )


def _ask(socket: Path, request: Request, words: Callable[[Any], str]) -> None:
    answer = client.ask(socket, request)
    show(answer, words(render.clean(answer)))


def _roaming(answer: Mapping[str, Any]) -> str:
    what = answer.get("asked") or "a fresh tunnel, where it is best"
    return f"asked for {what}; `orchestrator watch` tells what comes of it"


def main() -> int:
    return execute(sys.argv[1:])


def execute(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    ours = arguments[: arguments.index(entry.END)] if entry.END in arguments else arguments
    return entry.execute(
        cli,
        PROGRAM,
        arguments,
        as_json="--json" in ours,
        until_interrupt="watch" in arguments[:1],
    )
