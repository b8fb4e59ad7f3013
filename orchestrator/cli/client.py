"""Asks a daemon as `faces.client` does; what goes wrong ends the command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cli.outcome import Exit, Failure, config_failure
from orchestrator.core.errors import ConfigError
from orchestrator.faces import client
from orchestrator.faces.client import NoAnswer, NotRunning
from orchestrator.wire.control import Refused, Request


def ask(path: Path, request: Request) -> object:
    """The daemon's answer. Raises Failure."""
    with _failing():
        return client.ask(path, request)


def watch(path: Path) -> Iterator[object]:
    """What happens, as it happens. Raises Failure, also when the daemon ends or drops us."""
    with _failing():
        yield from client.watch(path)


@contextmanager
def sign_in(path: Path, link: str | None) -> Iterator[client.SignIn]:
    """A way to sign in that the daemon grants. Raises Failure."""
    with _failing(), client.sign_in(path, link) as way:
        yield way


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except NotRunning as error:
        raise Failure(error.error, error.remedy, Exit.NOT_RUNNING) from error
    except ConfigError as error:
        raise config_failure(error) from error
    except (NoAnswer, Refused) as error:
        raise Failure(error.error, error.remedy) from error
