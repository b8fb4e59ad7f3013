"""The lab's front door: `vagrant/lab`.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 no lab is up;
130 interrupted; `kernel` and `exec` exit with what their command exits with.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from orchestrator.cli import entry, start
from orchestrator.cli.outcome import Exit, Failure
from orchestrator.core.errors import OrchestratorError
from orchestrator.lab import backends, client
from orchestrator.lab import demo as walks
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.keeper import lab_folder
from orchestrator.lab.product import NOT_RUNNING

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as of shells."""
PROGRAM: Final = "vagrant/lab"
_LINKS: Final = [link.name for link in INTERNET.links]
_ACCESS_LINKS: Final = [link.name for link in INTERNET.access_links]
_HOSTS: Final = [host.name for host in INTERNET.hosts]
_NEXT: Final = "exec endpoint ping -c3 10.51.1.2"
"""A peer, through the tunnel."""
_NEXT_BARE: Final = "exec endpoint ping -c3 203.0.113.10"
_PASS_ON: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False}


_backend_option = click.option(
    "--backend",
    type=click.Choice(list(backends.NAMES)),
    help="Instead of the one that suits this machine.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_host_argument = click.argument("host", type=click.Choice(_HOSTS), metavar="HOST")
_link_argument = click.argument("link", type=click.Choice(_LINKS), metavar="LINK")


class _Group(entry.Group):
    """Turns our errors into failures of the command."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("interrupted")
            ctx.exit(INTERRUPTED)
        except client.NotUp as error:
            raise Failure(str(error), code=Exit.NOT_RUNNING) from error
        except OrchestratorError as error:
            raise Failure(str(error)) from error


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
    epilog=f"HOST is one of {', '.join(_HOSTS)}; LINK one of {', '.join(_LINKS)}.",
)
def cli() -> None:
    """A small internet to try the orchestrator in."""


@cli.command()
@_backend_option
@click.option("--json", "as_json", is_flag=True, help="One object instead of the table.")
def demo(backend: str | None, as_json: bool) -> None:
    """Show a download and an ssh session that roam.

    Over Wi-Fi, LTE, out of range and back; with our daemons, then with stock strongSwan. A walk
    takes about a minute, both some two. Exits with 0 only if no byte, no connection and no
    secret was lost.
    """
    chosen = backends.choose(backend)
    _say(f"{chosen.name}: {chosen.reason}")
    words = [sys.executable, "-m", start.__name__, walks.__name__]
    sys.exit(chosen.run([*words, "--json"] if as_json else words, None, _say))


@cli.command(context_settings=_PASS_ON)
@_backend_option
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder that the command can write to; with `uml` the only one of this machine.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def kernel(backend: str | None, results: Path | None, command: tuple[str, ...]) -> None:
    """Run COMMAND as root in a kernel that has all the lab needs.

    As `uml`, it sees this machine's files and can change none of them. As `netns`, it is root
    on this machine: networks, processes and mounts are its own, /run, /etc, /var/lib and /root
    too, and what it writes elsewhere stays.
    """
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
    chosen = backends.choose(backend)
    _say(f"{chosen.name}: {chosen.reason}")
    sys.exit(chosen.run(command, results, _say))


@cli.command()
@_backend_option
@click.option("--bare", is_flag=True, help="Hosts, links and the peers' servers only.")
@_json_option
def up(backend: str | None, bare: bool, as_json: bool) -> None:
    """Start the lab, in the background.

    Both daemons run, and the endpoint is attached over Wi-Fi. In a lab that is up, starts
    daemons that do not run any more.
    """
    new = client.bring_up(lab_folder(), backend or "", _say)
    _say("hosts, links and servers are there" if new else "it is up already")
    found = client.ask(lab_folder(), {"do": "status"})
    _show_status(found if bare else _start_daemons(found["daemons"]), as_json)
    _say(f"try next: {PROGRAM} {_NEXT_BARE if bare else _NEXT}")


def _start_daemons(known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The status afterwards."""
    for role, daemon in known.items():
        if daemon["state"] == NOT_RUNNING:
            _say(f"the {role}'s daemon is not running; starting it")
    if not known:
        _say("the daemons start")
    try:
        found: dict[str, Any] = client.ask(lab_folder(), {"do": "product"})
    except KeyboardInterrupt:
        _say("the lab is up, and the daemons start; `vagrant/lab down` ends it")
        raise
    _say(f"the endpoint is {found['daemons']['endpoint']['state']}")
    return found


@cli.command()
def down() -> None:
    """End the lab and everything in it."""
    client.take_down(lab_folder())
    _say("down")


@cli.command()
@_json_option
def status(as_json: bool) -> None:
    """Show where the endpoint is, its links, and both daemons.

    Other links are shown when they are not as they were.
    """
    _show_status(client.ask(lab_folder(), {"do": "status"}), as_json)


@cli.command()
@_host_argument
def shell(host: str) -> None:
    """Open a shell on HOST."""
    shell = os.environ.get("SHELL", "/bin/sh")
    sys.exit(client.execute(lab_folder(), host, [shell]))


@cli.command(name="exec", context_settings=_PASS_ON)
@_host_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_on(host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on HOST, here in this terminal."""
    sys.exit(client.execute(lab_folder(), host, command[command[0] == "--" :]))


@cli.command()
@click.argument("link", type=click.Choice(_ACCESS_LINKS), metavar="LINK")
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@_json_option
def roam(link: str, addresses: tuple[str, ...], as_json: bool) -> None:
    """Take the endpoint into the range of LINK.

    And out of that of all other access links. ADDRESS is what it gets there, instead of what it
    usually gets.
    """
    request = {"do": "roam", "link": link, "addresses": addresses}
    _show_status(client.ask(lab_folder(), request), as_json)


@cli.command()
@_link_argument
@click.argument("changes", nargs=-1, required=True, metavar="CHANGE...")
@_json_option
def link(link: str, changes: tuple[str, ...], as_json: bool) -> None:
    """Change the quality of LINK, or who is on it.

    CHANGE is attach, detach, up, down, cut, mend, delay=MS, loss=PERCENT or rate=MBIT. `down`
    takes the carrier only, `detach` the addresses as well; `cut` drops everything silently
    until `mend`. Delay and loss are those of one direction, rate=0 is no limit.
    """
    request = {"do": "link", "link": link, "changes": changes}
    _show_status(client.ask(lab_folder(), request), as_json)


@cli.command()
@_link_argument
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the packets to this file (pcap) instead of showing them.",
)
def capture(link: str, write: Path | None) -> None:
    """Show the packets on LINK, until Ctrl-C."""
    end = INTERNET.link(link).near
    listen = ["tcpdump", "--interface", end.device, "-n", "-U", "--immediate-mode"]
    if write is None:
        sys.exit(client.execute(lab_folder(), end.host, [*listen, "-l"]))
    client.ask(lab_folder(), {"do": "status"})  # without a lab there is no file either
    try:
        opened = write.open("wb")
    except OSError as error:
        raise Failure(f"cannot write {write}: {error.strerror}") from error
    with opened as file:
        code = client.execute(
            lab_folder(), end.host, [*listen, "-w", "-"], output=file.fileno()
        )
    sys.exit(code)


def _show_status(status: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status))
        return
    for name, link in status["links"].items():
        if link["access"] or link["changed"]:
            click.echo(_link_line(name, link))
    for role, daemon in status["daemons"].items():
        click.echo(f"{role}'s daemon: {daemon['state']}")
    click.echo(f"hosts: {' '.join(status['hosts'])}")


def _link_line(name: str, link: Mapping[str, Any]) -> str:
    state = list(link["addresses"])
    if not link["carrier"]:
        state.append("no carrier")
    elif not state:
        state.append("carrier")
    rate = f"{link['rate_mbit']:g} Mbit/s" if link["rate_mbit"] else "no limit"
    return (
        f"{name:6} {link['device']:6} {', '.join(state):40} "
        f"{link['delay_ms']:g} ms, {link['loss_percent']:g} % lost, {rate}"
        f"{', cut' if link['cut'] else ''}"
    )


def _say(line: str) -> None:
    click.echo(f"lab: {line}", err=True)


def execute(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    ours = arguments[:1] not in (["kernel"], ["exec"])  # others' words follow these
    return entry.execute(cli, PROGRAM, arguments, as_json=ours and "--json" in arguments)


def main() -> int:
    return execute(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
