"""The words between a relay and the pump that works for it: what happened, what to do."""

from enum import IntEnum, StrEnum
from typing import Final, NamedTuple


class Leg(IntEnum):
    INNER = 0
    """towards the endpoint"""
    OUTER = 1
    """towards the peer"""


LEGS: Final = tuple(Leg)
"""An enumeration takes long to go through, and this is done for every connection."""


class Event(IntEnum):
    CONNECTED = 0
    """the dialled leg is established"""
    DIAL_FAILED = 1
    """the dialled leg was refused, or took too long"""
    READABLE = 2
    """there may be something to read from the leg"""
    HANGUP = 3
    """behind what can be read from the leg waits its FIN, an error or urgent data: from now on
    a short read does not say that the leg is dry"""
    WRITABLE = 4
    """the leg may take bytes"""
    READ = 5
    """`count` bytes were read from the leg into its queue. Fewer than `limit` says that it was
    dry then; a pump that stopped for another reason sends READABLE afterwards."""
    DRY = 6
    """reading would have blocked"""
    END = 7
    """reading met the FIN"""
    READ_FAILED = 8
    """reading met an error, after all that had arrived before it"""
    WROTE = 9
    """`count` bytes of the queue went to the leg; fewer than queued says that it is full"""
    FAULT = 10
    """the leg is dead: reset by its far end, or given up by the kernel"""
    DRAINED = 11
    """the far end of the leg acknowledged all that was written, FIN included"""
    ABORT = 12
    """the operator or a limit ends the flow"""
    NO_ROOM = 13
    """nothing was read from the leg, or taken from its spool: a limit of memory is reached"""
    ROOM = 14
    """there is room in memory for bytes from the leg, after NO_ROOM"""
    AWAY = 15
    """the far end of the leg does not answer; there is a spool for what is sent to it"""
    BACK = 16
    """it answers again"""
    SPOOLED = 17
    """`count` bytes were read from the leg and are in its spool, as after READ"""
    SPOOL_FULL = 18
    """nothing was read from the leg: its spool takes no more"""
    SPOOL_ROOM = 19
    """the leg's spool may take more, after SPOOL_FULL"""
    BEHIND = 20
    """nothing was read from the leg: its FIN, or an error, is what comes next. It is met again
    by a READ when all before it has gone; an error is a FAULT besides."""
    UNSPOOLED = 21
    """`count` bytes went from the leg's spool into its empty queue"""
    SPOOL_LOST = 22
    """the disk does not give back what is in the leg's spool"""
    PASSED = 23
    """`count` bytes were read from the leg and written to the other one: the queue is as empty
    as before, and the READ that was asked for is still to be answered"""


class Act(IntEnum):
    READ = 0
    """read at most `limit` bytes from the leg into its empty queue; a pump may pass some on
    before, at most `limit` at a time, and say that they PASSED"""
    WRITE = 1
    """write the queue of the other leg to this one"""
    SHUTDOWN = 2
    """send a FIN on the leg"""
    WATCH = 3
    """tell when the far end of the leg has acknowledged everything"""
    RESET = 4
    """close the leg with an RST"""
    CLOSE = 5
    """close the leg; nothing is left to be sent"""
    SPOOL = 6
    """read at most `limit` bytes from the leg and append them to its spool"""
    UNSPOOL = 7
    """take at most `limit` bytes from the leg's spool into its empty queue"""


class Step(NamedTuple):
    act: Act
    leg: Leg


Steps = tuple[Step, ...]
NOTHING: Final[Steps] = ()
STEPS: Final = tuple(tuple((Step(act, leg),) for leg in Leg) for act in Act)
"""Every answer of one step, made once: a busy relay gives some 100,000 answers a second."""


class Phase(StrEnum):
    """What people see."""

    DIALING = "dialing"
    OPEN = "open"
    HALF_CLOSED = "half-closed"
    CLOSING = "closing"
    """both FINs are passed on, not all is acknowledged"""
    RESETTING = "resetting"
    """one leg is lost; the reset waits behind the bytes owed to the other"""
    OVER = "over"


class Outcome(StrEnum):
    FINISHED = "finished"
    RESET_BY_ENDPOINT = "reset-by-endpoint"
    RESET_BY_PEER = "reset-by-peer"
    DIAL_FAILED = "dial-failed"
    ABORTED = "aborted"
    SPOOL_LOST = "spool-lost"
    """what was acknowledged could not be read from the disk: both sides are told by a reset"""
