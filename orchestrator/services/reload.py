"""What a running server takes of a configuration that was read again, and what a start takes.

Taken is how endpoints are waited for and what is held for them. Everything else stays as it was
when the daemon started; what the file has otherwise is named, until a restart.
"""

from dataclasses import dataclass, fields, replace
from typing import Final

from orchestrator.config.server import ServerConfig
from orchestrator.config.toml import AnyConfig
from orchestrator.wire.control import Refused

TAKEN: Final = ("hold", "limits", "sessions", "timers")
"""Tables of the file."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    config: ServerConfig
    """What holds from now on."""
    taken: tuple[str, ...]
    """Tables that have changed."""
    waiting: tuple[str, ...]
    """Keys and tables that have changed, too, and wait for the next start."""


def reloaded(now: ServerConfig, read: AnyConfig) -> Reloaded:
    """Raises Refused when the file is for the other daemon."""
    if not isinstance(read, ServerConfig):
        raise Refused("the file is for an endpoint now", 'write role = "server"')
    changed = [
        spec.name for spec in fields(now) if getattr(now, spec.name) != getattr(read, spec.name)
    ]
    config = replace(
        now, hold=read.hold, limits=read.limits, sessions=read.sessions, timers=read.timers
    )
    return Reloaded(
        config,
        tuple(name for name in changed if name in TAKEN),
        tuple(name for name in changed if name not in TAKEN),
    )
