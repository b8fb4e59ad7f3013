"""Which connections stand at the proxy worker, so that it is known what went down with it.

Begin with a list that was taken after one began to listen to events; what happened in between
is in both, and counts once.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Self

from orchestrator.core.flows import FlowEnded, FlowEvent, FlowOpened, FlowRecord
from orchestrator.core.quantities import IPAddress

_Key = tuple[object, ...]


class Standing:
    """As many as the worker lets stand."""

    def __init__(self, records: Iterable[FlowRecord] = ()) -> None:
        self.records = {_key(record): record for record in records}

    def __len__(self) -> int:
        return len(self.records)

    def note(self, event: FlowEvent) -> None:
        match event:
            case FlowOpened(record):
                self.records[_key(record)] = record
            case FlowEnded(record):
                self.records.pop(_key(record), None)

    def by_vip(self) -> Mapping[IPAddress, int]:
        """How many there are of each."""
        return Counter(record.vip.host for record in self.records.values())

    def without(self, other: Self) -> "Standing":
        """Those that stand here and not there."""
        rest = self.records.keys() - other.records.keys()
        return Standing(self.records[key] for key in rest)


def _key(record: FlowRecord) -> _Key:
    """The same addresses may be used again later."""
    return record.vip, record.peer, record.direction, record.since
