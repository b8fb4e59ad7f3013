"""Runs a daemon in the foreground, as systemd wants it: logs to it, ends on SIGTERM."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from orchestrator.adapters import journald
from orchestrator.cli.outcome import Failure, config_failure, say
from orchestrator.config import certificates
from orchestrator.config.toml import AnyConfig, load, load_again
from orchestrator.core.errors import ConfigError, KernelError, OrchestratorError

CAP_NET_ADMIN: Final = 12
"""include/uapi/linux/capability.h"""


def configuration(path: Path) -> AnyConfig:
    """The configuration in the file. Raises Failure with every fault."""
    try:
        return load(path)
    except ConfigError as error:
        raise config_failure(error) from error


def run(path: Path) -> None:
    """The daemon that the file is for, until SIGTERM or Ctrl-C. Raises Failure."""
    config = configuration(path)
    if not _may_administer_networks():
        raise Failure("this needs CAP_NET_ADMIN", "run it as root")
    _log_to_stderr()
    for fault in certificates.faults(path, config):
        logging.getLogger("orchestrator").warning("%s", fault)
    try:
        asyncio.run(_until_terminated(config, partial(load_again, path)))
    except KernelError as error:
        remedy = f"`orchestrator doctor {path}` says what this machine lacks"
        raise Failure(str(error), remedy) from error
    except OrchestratorError as error:
        raise Failure(str(error), error.remedy) from error
    except BaseExceptionGroup as group:
        expected, defects = group.split(OrchestratorError)
        if expected is None or defects is not None:
            raise
        raise Failure("\n".join(_sentences(expected))) from group
    say("stopped; the kernel is as it was while running")


async def _until_terminated(config: AnyConfig, reread: Callable[[], AnyConfig]) -> None:
    # A daemon's neighbours take a while to import; the other commands need none of them.
    from orchestrator.faces import daemon

    service = asyncio.ensure_future(daemon.run(config, reread))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.cancel)
    await asyncio.wait((service,))
    if not service.cancelled():
        service.result()


def _sentences(group: BaseExceptionGroup[OrchestratorError]) -> list[str]:
    found: list[str] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found += _sentences(error)
        else:
            found.append(str(error))
    return found


def _may_administer_networks() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)
    return os.geteuid() == 0


def _log_to_stderr() -> None:
    if journald.is_stderr():
        handler: logging.Handler = journald.JournalHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Nothing that we log shows these, and to find them takes half of a line's time (Python's
    # logging HOWTO, "Optimization").
    logging._srcfile = None  # noqa: SLF001 - as the HOWTO says
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
