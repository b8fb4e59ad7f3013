"""Asks a running daemon, and has this machine examined."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from orchestrator.adapters.charon import Charon
from orchestrator.cli.client import ask
from orchestrator.cli.daemon import configuration
from orchestrator.cli.outcome import Exit, Failure
from orchestrator.config.common import CharonSocket
from orchestrator.core.diagnosis import Finding, Severity
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.mobility_events import State
from orchestrator.services.doctor import DaemonReading, examine
from orchestrator.wire.control import Request, Verb


def diagnose(socket: Path, file: Path | None) -> tuple[Finding, ...]:
    """Every finding, the worst first. Raises Failure."""
    config = configuration(file) if file else None
    if config is not None:
        socket = config.control.socket
    vici = config.charon.socket if config else CharonSocket().socket
    daemon, problem = _daemon(socket)
    try:
        findings = asyncio.run(examine(config, Charon(vici), vici, daemon))
    except OrchestratorError as error:
        raise Failure(str(error)) from error
    return (*problem, *findings)


def _daemon(socket: Path) -> tuple[DaemonReading | None, tuple[Finding, ...]]:
    """What the daemon says; None if none runs. One that does not answer is a finding."""
    try:
        status = cast(Mapping[str, Any], ask(socket, Request(Verb.STATUS)))
        endpoint = status.get("role") == "endpoint"
        paths = cast(list[Any], ask(socket, Request(Verb.PATHS))) if endpoint else []
    except Failure as failure:
        if failure.code is Exit.NOT_RUNNING:
            return None, ()
        return DaemonReading((), ()), (
            Finding(Severity.ERROR, "daemon", failure.error, failure.remedy),
        )
    detached = status.get("reasons", ()) if status.get("state") == State.DETACHED else None
    return DaemonReading(paths, status.get("warnings", ()), detached), ()
