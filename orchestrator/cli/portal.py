"""Runs a program that may sign in to a network, and nothing else may.

The program gets a network of its own (`adapters.enclosure`); the daemon carries what it sends
to the network that the device is attached to, for a while (`services.portal_way`).
"""

import os
import select
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.adapters import enclosure
from orchestrator.cli import client
from orchestrator.cli.outcome import Failure, say
from orchestrator.cli.render import clean, duration
from orchestrator.core.errors import KernelError
from orchestrator.faces.client import SignIn

SHELL: Final = "/bin/sh"


def sign_in(socket: Path, link: str | None, program: Sequence[str]) -> Mapping[str, Any]:
    """How it ended: the program's exit status, and why the way closed before, if it did. Raises
    Failure."""
    command = list(program) or [os.environ.get("SHELL", SHELL)]
    with client.sign_in(socket, link) as way:
        terms = _terms(way.terms)
        _enclose(way, terms)
        say(f"{clean(terms['link'])} is open to {clean(command[0])} for {_limit(terms)}")
        return {"link": terms["link"], **_run(way, command)}


def _enclose(way: SignIn, terms: Mapping[str, Any]) -> None:
    try:
        enclosure.enter(terms["versions"])
        listeners = enclosure.listeners(terms["versions"], terms["ports"])
    except KernelError as error:
        remedy = "run it as root, or allow users to make namespaces"
        raise Failure(str(error), remedy) from error
    try:
        way.open(listeners)
    finally:
        for sock in listeners:
            sock.close()


def _run(way: SignIn, command: Sequence[str]) -> Mapping[str, Any]:
    try:
        program = subprocess.Popen(command)
    except OSError as error:
        raise Failure(f"{command[0]} does not start: {error.strerror}") from error
    closed: str | None = None
    with program:
        ended = os.pidfd_open(program.pid)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(way.connection, select.POLLIN)
        ready: Mapping[int, int] = {}
        while ended not in ready:
            ready = dict(poll.poll())
            if closed is None and way.connection.fileno() in ready:
                closed = _why(way.closed())
                poll.unregister(way.connection)
                say(f"closed ({closed}): {clean(command[0])} has no network any more")
        os.close(ended)
    return {"exit_status": program.returncode, "closed": closed}


def _why(event: object) -> str:
    reason = event.get("reason") if isinstance(event, Mapping) else "daemon-ended"
    return str(clean(reason))


def _terms(answer: object) -> Mapping[str, Any]:
    if not isinstance(answer, Mapping):
        raise Failure("the daemon granted a way without terms", "look at its log")
    return answer


def _limit(terms: Mapping[str, Any]) -> str:
    return duration(float(terms["limit_s"]))
