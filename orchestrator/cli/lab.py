"""The lab's front door: `vagrant/lab`.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 no lab is up;
`kernel` and `exec` exit with what their command exits with.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from orchestrator.core.errors import OrchestratorError
from orchestrator.lab import backends, client
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.keeper import lab_folder

_NOT_UP: Final = 3
_PASS_ON: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False}


_backend_option = click.option(
    "--backend",
    type=click.Choice(list(backends.NAMES)),
    help="Instead of the one that suits this machine.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
_host_argument = click.argument(
    "host", type=click.Choice([host.name for host in INTERNET.hosts])
)
_link_argument = click.argument(
    "link", type=click.Choice([link.name for link in INTERNET.links])
)


class _Group(click.Group):
    """Turns our errors into one line on stderr."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except client.NotUp as error:
            _say(str(error))
            sys.exit(_NOT_UP)
        except OrchestratorError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A small internet to try the orchestrator in."""


@main.command()
@_backend_option
@click.option("--json", "as_json", is_flag=True, help="One object instead of the table.")
def demo(backend: str | None, as_json: bool) -> None:
    """A download and an ssh session over Wi-Fi, LTE, out of range and back.

    With our daemons, then with stock strongSwan; takes some three minutes. Exits with 0 only
    if no byte, no connection and no secret was lost.
    """
    chosen = backends.choose(backend)
    _say(f"{chosen.name}: {chosen.reason}")
    words = [sys.executable, "-m", "orchestrator.lab.demo", *(["--json"] if as_json else [])]
    sys.exit(chosen.run(words, None, _say))


@main.command(context_settings=_PASS_ON)
@_backend_option
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


@main.command()
@_backend_option
@click.option("--bare", is_flag=True, help="Hosts, links and the peers' servers only.")
@_json_option
def up(backend: str | None, bare: bool, as_json: bool) -> None:
    """Start the lab, in the background: both daemons, the endpoint attached over Wi-Fi."""
    if not client.bring_up(lab_folder(), backend or "", _say):
        _say("it is up already")
    _show_status(client.ask(lab_folder(), {"do": "status" if bare else "product"}), as_json)


@main.command()
def down() -> None:
    """End the lab and everything in it."""
    client.ask(lab_folder(), {"do": "down"})
    _say("down")


@main.command()
@_json_option
def status(as_json: bool) -> None:
    """Show where the endpoint is attached and what its links are like."""
    _show_status(client.ask(lab_folder(), {"do": "status"}), as_json)


@main.command()
@_host_argument
def shell(host: str) -> None:
    """A shell on HOST."""
    shell = os.environ.get("SHELL", "/bin/sh")
    sys.exit(client.execute(lab_folder(), host, [shell]))


@main.command(name="exec", context_settings=_PASS_ON)
@_host_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on HOST, here in this terminal."""
    sys.exit(client.execute(lab_folder(), host, command[command[0] == "--" :]))


@main.command()
@_link_argument
@click.argument("addresses", nargs=-1)
@_json_option
def roam(link: str, addresses: tuple[str, ...], as_json: bool) -> None:
    """Take the endpoint out of range of all other access links, and into that of LINK.

    ADDRESSES are what it gets there, instead of what it usually gets.
    """
    request = {"do": "roam", "link": link, "addresses": addresses}
    _show_status(client.ask(lab_folder(), request), as_json)


@main.command()
@_link_argument
@click.argument("changes", nargs=-1, required=True)
@_json_option
def link(link: str, changes: tuple[str, ...], as_json: bool) -> None:
    """Change LINK: attach, detach, up, down, cut, mend, delay=MS, loss=PERCENT, rate=MBIT.

    `down` takes the carrier only, `detach` the addresses as well; `cut` drops everything
    silently until `mend`. Delay and loss are those of one direction, rate=0 is no limit.
    """
    request = {"do": "link", "link": link, "changes": changes}
    _show_status(client.ask(lab_folder(), request), as_json)


@main.command()
@_link_argument
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the packets to this file (pcap) instead of showing them.",
)
def capture(link: str, write: Path | None) -> None:
    """Show the packets on LINK until ^C."""
    end = INTERNET.link(link).near
    listen = ["tcpdump", "--interface", end.device, "-n", "-U"]
    if write is None:
        sys.exit(client.execute(lab_folder(), end.host, [*listen, "-l"]))
    with write.open("wb") as file:
        code = client.execute(
            lab_folder(), end.host, [*listen, "-w", "-"], output=file.fileno()
        )
    sys.exit(code)


def _show_status(status: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status))
        return
    for name, link in status["links"].items():
        state = ", ".join(link["addresses"]) or ("carrier" if link["carrier"] else "no carrier")
        rate = f"{link['rate_mbit']:g} Mbit/s" if link["rate_mbit"] else "no limit"
        click.echo(
            f"{name:6} {link['device']:6} {state:40} "
            f"{link['delay_ms']:g} ms, {link['loss_percent']:g} % lost, {rate}"
            f"{', cut' if link['cut'] else ''}"
        )
    click.echo(f"hosts: {' '.join(status['hosts'])}")


def _say(line: str) -> None:
    click.echo(f"lab: {line}", err=True)


if __name__ == "__main__":
    main(prog_name="vagrant/lab")
