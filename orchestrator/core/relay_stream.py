"""One half-stream of a relay: its state, what its two legs are ready for, what is asked of it.

Which half-stream an event concerns, and what it means for the flow, `core.relay` decides.
"""

from orchestrator.core.errors import IllegalEvent
from orchestrator.core.relay_events import NOTHING, STEPS, Act, Event, Leg, Steps
from orchestrator.core.relay_state import Half, StreamState
from orchestrator.core.relay_table import ANSWERED, NEXT, Verdict


class Stream:
    """Named by the leg that it comes from."""

    __slots__ = (
        "asked",
        "away",
        "full",
        "hangup",
        "moved",
        "queued",
        "readable",
        "source",
        "spooled",
        "state",
        "stinted",
        "whole",
        "writable",
    )

    def __init__(self, source: Leg) -> None:
        self.source = source
        self.state = Half.WAITING
        self.readable = False
        self.hangup = False
        self.writable = False
        self.asked: Act | None = None
        """what was asked and not answered yet"""
        self.queued = 0
        self.moved = 0
        """bytes written to the destination, ever"""
        self.stinted = False
        """there was no room in memory"""
        self.away = False
        """the destination's far end is, and there is a spool"""
        self.spooled = 0
        self.full = False
        """the spool"""
        self.whole = False
        """nothing but an end is left at the source for the spool"""

    @classmethod
    def restored(cls, source: Leg, was: StreamState) -> "Stream":
        stream = cls(source)
        stream.state = was.half
        stream.readable, stream.hangup = was.readable, was.hangup
        stream.writable = was.writable
        stream.queued, stream.moved, stream.spooled = was.queued, was.moved, was.spooled
        return stream

    def export(self) -> StreamState:
        """Without what is asked, and where there is no room (`core.relay`, rule 9)."""
        return StreamState(
            self.state,
            self.readable,
            self.hangup,
            self.writable,
            self.queued,
            self.moved,
            self.spooled,
        )

    @property
    def stuck(self) -> bool:
        """Whether bytes wait for the leg that they go to, or for room."""
        if self.state is Half.WRITING or self.state is Half.LOADING:
            return True
        return self.state is Half.READING and self.stinted

    def demand(self) -> Steps:
        """What is to be done now, if nothing is asked already."""
        if self.asked is not None:
            return NOTHING
        state = self.state
        act: Act
        if state is Half.READING and self.readable and not self.stinted:
            act = Act.READ
        elif state is Half.WRITING and self.writable:
            self.asked = Act.WRITE
            return STEPS[Act.WRITE][1 - self.source]
        elif state is Half.LOADING and self.writable and not self.stinted:
            act = Act.UNSPOOL
        elif self.away and self._may_spool():
            act = Act.SPOOL
        else:
            return NOTHING
        self.asked = act
        return STEPS[act][self.source]

    def _may_spool(self) -> bool:
        return (
            self.readable
            and not self.full
            and not self.whole
            and self.state in (Half.READING, Half.WRITING, Half.LOADING)
        )

    def go(self, event: Event, *, goes: bool = True) -> None:
        """Does to the state what the table says; unless it `goes`, only asks the table. Raises
        IllegalEvent, with nothing changed."""
        target = NEXT[self.state][event]
        if target is Verdict.REFUSE:
            raise IllegalEvent(f"{event.name} while {self.source.name} is {self.state.name}")
        if goes and isinstance(target, Half):
            self.state = target

    def answer(self, event: Event, *, goes: bool = True) -> None:
        """The same for an event that answers what was asked."""
        if self.asked not in ANSWERED[event]:
            raise IllegalEvent(f"{event.name} at {self.source.name} was not asked for")
        self.go(event, goes=goes)
        self.asked = None
