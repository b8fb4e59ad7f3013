"""Waits for what must become true."""

import threading
import time
from collections.abc import Callable

LIMIT = 20.0
"""Seconds; the lab's kernel has one slow CPU."""
_POLL = 0.05


def becomes(true: Callable[[], bool]) -> bool:
    """Whether it is true within LIMIT."""
    end = time.monotonic() + LIMIT
    while not true():
        if time.monotonic() >= end:
            return False
        threading.Event().wait(_POLL)
    return True
