"""The language of a terminal, the keeper of a running lab, and the agent inside it.

A conversation begins with one REQUEST, may carry input and output both ways, and ends with one
ANSWER. Many share the line into the lab: the keeper numbers them (`channel`). On a client's own
connection the channel is 0.

The line into a user-mode kernel goes deaf once its terminal buffer was full. So the agent says
how much it took off the line, and the keeper never has more than WINDOW octets on it.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

HEADER: Final = struct.Struct("!BHH")
"""Kind, channel, octets of payload that follow."""
WINDOW: Final = 3072
"""Octets; the kernel throttles a terminal at 3968 (N_TTY_BUF_SIZE less its threshold)."""
TAKEN: Final = struct.Struct("!I")


class Kind(IntEnum):
    READY = 1
    """The agent's first: the lab is built."""
    REQUEST = 2
    """JSON, an object with "do"."""
    INPUT = 3
    """Of a command; empty at its end."""
    OUTPUT = 4
    ERRORS = 5
    RESIZE = 6
    """JSON, rows and columns of the terminal."""
    SIGNAL = 7
    """JSON, a number for the command's process group."""
    ANSWER = 8
    """JSON, an object with "exit", "result" or "error"."""
    GONE = 9
    """The client went away without waiting for its answer."""
    TAKEN = 10
    """The agent took so many octets off the line since it last said so."""


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    channel: int
    payload: bytes = b""

    def encode(self) -> bytes:
        return HEADER.pack(self.kind, self.channel, len(self.payload)) + self.payload

    def json(self) -> Any:
        return json.loads(self.payload)


def json_frame(kind: Kind, channel: int, content: object) -> Frame:
    return Frame(kind, channel, json.dumps(content).encode())


def read_frame(read_exactly: Callable[[int], bytes]) -> Frame:
    """The next frame. Raises EOFError when there is none."""
    header = read_exactly(HEADER.size)
    if len(header) < HEADER.size:
        raise EOFError
    kind, channel, length = HEADER.unpack(header)
    payload = read_exactly(length)
    if len(payload) < length:
        raise EOFError
    return Frame(Kind(kind), channel, payload)
