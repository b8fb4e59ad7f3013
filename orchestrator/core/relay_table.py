"""What each event does to a half-stream of a relay: it goes on, stays, or refuses.

Each half-stream is a row:

    WAITING ─CONNECTED─> READING ─READ─> WRITING ─WROTE all─> READING …
                         READING ─END─> ENDED              (FIN passed on)
                         READING ─READ_FAILED─> BROKEN     (reset owed to the far leg)
                         READING ─PASSED─> READING         (straight through)
    READING ─SPOOLED─> LOADING ─UNSPOOLED─> WRITING ─WROTE all─> LOADING (the spool has more)
    any ─the leg it goes to is lost─> DROPPED
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from orchestrator.core.relay_events import Act, Event
from orchestrator.core.relay_state import Half


class Verdict(Enum):
    """What a cell of the table says when it does not name the next state."""

    STAY = "stay"
    REFUSE = "refuse"


_R, _Q, _E, _B, _D = Half.READING, Half.WRITING, Half.ENDED, Half.BROKEN, Half.DROPPED
_L = Half.LOADING
_S, _X = Verdict.STAY, Verdict.REFUSE

COLUMNS: Final = (
    Event.CONNECTED,
    Event.READ,
    Event.DRY,
    Event.END,
    Event.READ_FAILED,
    Event.WROTE,
    Event.FAULT,
    Event.NO_ROOM,
    Event.SPOOLED,
    Event.SPOOL_FULL,
    Event.BEHIND,
    Event.UNSPOOLED,
    Event.PASSED,
)
# The half-stream that comes from the event's leg; for WROTE and FAULT the one that goes to it.
# WROTE goes on only when the queue is empty, and to LOADING if the spool is not. What is not a
# column concerns the flow, not one half-stream; what a leg is ready for, who is away and where
# there is room is noted in every state.
# fmt: off
TABLE: Final[Mapping[Half, tuple[Half | Verdict, ...]]] = {
    #              CONN READ DRY END FAILED WROTE FAULT NO_ROOM SPOOLED FULL BEHIND UNSP. PASSED
    Half.WAITING: (_R,  _X,  _X, _X, _X,    _X,   _D,   _X,     _X,     _X,  _X,    _X,   _X),
    Half.READING: (_X,  _Q,  _S, _E, _B,    _X,   _D,   _S,     _L,     _S,  _S,    _X,   _S),
    Half.WRITING: (_X,  _X,  _S, _X, _X,    _R,   _D,   _X,     _S,     _S,  _S,    _X,   _X),
    Half.LOADING: (_X,  _X,  _S, _X, _X,    _X,   _D,   _S,     _S,     _S,  _S,    _Q,   _X),
    Half.ENDED:   (_X,  _X,  _X, _X, _X,    _X,   _D,   _X,     _X,     _X,  _X,    _X,   _X),
    Half.BROKEN:  (_X,  _X,  _X, _X, _X,    _X,   _D,   _X,     _X,     _X,  _X,    _X,   _X),
    Half.DROPPED: (_X,  _S,  _S, _S, _S,    _S,   _S,   _S,     _S,     _S,  _S,    _S,   _S),
}
# fmt: on
NEXT: Final = tuple(
    tuple(
        TABLE[half][COLUMNS.index(event)] if event in COLUMNS else Verdict.REFUSE
        for event in Event
    )
    for half in Half
)
"""The table by number: hashing an enum is a call into Python, indexing by one is not."""
_ANSWERS: Final[Mapping[Event, tuple[Act | None, ...]]] = {
    Event.READ: (Act.READ,),
    Event.DRY: (Act.READ, Act.SPOOL),
    Event.END: (Act.READ,),
    Event.READ_FAILED: (Act.READ,),
    Event.NO_ROOM: (Act.READ, Act.UNSPOOL),
    Event.WROTE: (Act.WRITE,),
    Event.SPOOLED: (Act.SPOOL,),
    Event.SPOOL_FULL: (Act.SPOOL,),
    Event.BEHIND: (Act.SPOOL,),
    Event.UNSPOOLED: (Act.UNSPOOL,),
    Event.SPOOL_LOST: (Act.UNSPOOL,),
}
ANSWERED: Final = tuple(_ANSWERS.get(event, ()) for event in Event)
"""By number, as the table."""
