"""Runs a charon on a host of the lab, and knows when it is ready: its VICI socket answers."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Final

from orchestrator.core.errors import CharonError
from orchestrator.lab.host import Host

_PROGRAM: Final = Path("/usr/lib/ipsec/charon")
VICI_SOCKET: Final = Path("/run/charon.vici")
"""On every host its own, because every host has its own /run."""
_READY_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.01

Tree = dict[str, "str | Tree"]


class Charon:
    """One charon, from its configuration to its end."""

    def __init__(self, host: Host, conf: Path, extra: Mapping[str, str]) -> None:
        self.host: Final = host
        self.log: Final = host.folder / "charon.log"
        self._conf = host.folder / "strongswan.conf"
        settings = {
            f"charon.filelog.lab.{name}": value
            for name, value in {
                "path": str(self.log),
                "append": "yes",
                "flush_line": "yes",
                "time_format": "%H:%M:%S",
                "time_add_ms": "yes",
                "default": "1",
            }.items()
        }
        self._conf.write_text(f"include {conf.resolve()}\n" + render({**settings, **extra}))
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Or another one on this host does."""
        return self.host.inside(_answers)

    def kill(self) -> None:
        """As a crash: no goodbye to anybody."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self.kill()
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        self.host.inside(VICI_SOCKET.unlink, missing_ok=True)
        process = self.host.popen([_PROGRAM], env={"STRONGSWAN_CONF": str(self._conf)})
        for _ in range(round(_READY_SECONDS / _POLL_SECONDS)):
            if self.host.inside(_answers):
                return process
            try:
                process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            raise CharonError(f"charon on {self.host.name} ended at once; see {self.log}")
        process.kill()
        raise CharonError(f"charon on {self.host.name} is not ready; see {self.log}")


def _answers() -> bool:
    with socket(AF_UNIX) as tried:
        try:
            tried.connect(str(VICI_SOCKET))
        except OSError:
            return False
        return True


def render(settings: Mapping[str, str]) -> str:
    """Dotted settings as strongswan.conf(5) wants them: sections within sections."""
    tree: Tree = {}
    for path, value in settings.items():
        *sections, name = path.split(".")
        place = tree
        for section in sections:
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                raise TypeError(f"{path}: {section} is a setting, not a section")
            place = inner
        place[name] = value
    return _render_tree(tree, "")


def _render_tree(tree: Tree, indent: str) -> str:
    text = ""
    for name, value in tree.items():
        if isinstance(value, str):
            text += f"{indent}{name} = {value}\n"
        else:
            text += f"{indent}{name} {{\n{_render_tree(value, indent + '    ')}{indent}}}\n"
    return text
