"""What an endpoint knows of the time before its restart: its virtual addresses, its flips, and
where its server was.

At the start a file that cannot be read is an error: without it every connection of before would
be lost. One that cannot be written, such as on a full disk, costs a warning: everything works
all the same, until the next restart.
"""

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.adapters.statefile import StateFile, StateFileError
from orchestrator.core.quantities import IPAddress
from orchestrator.services.journal import Journal


class Memory:
    """One daemon's; its flips begin above those of its predecessors."""

    def __init__(self, statefile: StateFile, journal: Journal) -> None:
        """Raises StateFileError when it cannot be read."""
        self._statefile = statefile
        self._journal = journal
        before = statefile.load()
        self.problem: str | None = None
        """Why something is not written down, and what that costs."""
        self._cost = ""
        self._remembered = replace(before, epoch=before.epoch + 1)
        self._save("after a restart the server follows the first move with a delay", {})

    @property
    def vips(self) -> tuple[IPAddress, ...]:
        return self._remembered.vips

    @property
    def names(self) -> Mapping[str, tuple[IPAddress, ...]]:
        """What the server's names meant."""
        return self._remembered.names

    @property
    def first_flip(self) -> int:
        return self._remembered.first_flip

    def keep(self, vips: tuple[IPAddress, ...]) -> None:
        """Writes the virtual addresses down; where that fails, says so and goes on."""
        self._remembered = replace(self._remembered, vips=vips)
        cost = "connections will end when this daemon is restarted"
        self._save(cost, {"vip": str(vips[0]) if vips else None})

    def keep_names(self, names: Mapping[str, tuple[IPAddress, ...]]) -> None:
        """Writes down what they mean; otherwise as `keep`."""
        if names != self._remembered.names:
            self._remembered = replace(self._remembered, names=dict(names))
            self._save("a restart without a network will not find the server", {})

    def catch_up(self) -> None:
        """Writes down what could not be written; there may be room by now."""
        if self.problem is not None:
            self._save(self._cost, {})

    def _save(self, cost: str, fields: dict[str, object]) -> None:
        self._cost = cost
        try:
            self._statefile.save(self._remembered)
        except StateFileError as error:
            self.problem = f"{error}; {cost}"
            fields = {**fields, "detail": self.problem}
            self._journal.tell("not-remembered", fields=fields, warning=True)
        else:
            self.problem = None
