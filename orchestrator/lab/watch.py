"""What a daemon of the lab tells those who watch it, and which link its endpoint was on."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from orchestrator.core.mobility_events import State
from orchestrator.lab.host import Host
from orchestrator.lab.product import PATIENCE

_POLL: Final = 0.05


class Watch:
    """`orchestrator watch` on a host, from `with` to its end."""

    def __init__(self, host: Host, make_news: Callable[[], object]) -> None:
        """`make_news` has the daemon tell something: only that shows that the watch is on."""
        self.records: Final[list[dict[str, Any]]] = []
        self._host = host
        self._make_news = make_news
        self._thread = threading.Thread(target=self._read, name="watch", daemon=True)

    def __enter__(self) -> Self:
        """Raises TimeoutError when nothing is heard."""
        self._process = self._host.popen(
            ["orchestrator", "watch", "--json"], stdout=subprocess.PIPE
        )
        self._thread.start()
        pause = threading.Event()
        end = time.monotonic() + PATIENCE
        while not self.records:
            if time.monotonic() >= end:
                raise TimeoutError(f"the daemon on {self._host.name} tells nothing")
            self._make_news()
            pause.wait(_POLL)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._thread.join()

    def told(self, reason: str) -> list[dict[str, Any]]:
        return [record for record in self.records if reason in record["reasons"]]

    def _read(self) -> None:
        if self._process.stdout is None:
            raise RuntimeError("popen gave no pipe")
        for line in self._process.stdout:
            self.records.append(json.loads(line))


@dataclass(frozen=True, slots=True)
class Flip:
    """The endpoint's traffic went to another link."""

    at: float
    """Seconds of CLOCK_BOOTTIME."""
    link: str
    reasons: tuple[str, ...]


def flips(records: Iterable[Mapping[str, Any]], link: str) -> list[Flip]:
    """Of what an endpoint told after its traffic was on `link`, a device's name."""
    found = []
    for record in records:
        if record["event"] not in (State.MOVING, State.ATTACHED) or "path" not in record:
            continue
        now, *_ = record["path"].split()
        if now != link:
            link = now
            found.append(Flip(record["boottime"], link, tuple(record["reasons"])))
    return found
