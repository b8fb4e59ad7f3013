"""The share of the CPU that this process has while others want it too (setpriority(2)).

A move is some 30 ms of work on a small CPU, and traffic stands still meanwhile: what else the
machine does can wait for it, bulk transfers and charon too. A server serves more endpoints than
that one, and there it is charon that a move waits for.
"""

import contextlib
import os
from typing import Final

ORDINARY: Final = 0
HURRIED: Final = -11
"""Eleven times the share of an ordinary process (kernel/sched/core.c, sched_prio_to_weight).
Sound servers have the same, and less to do with it than a game or a compiler has."""


def hurry() -> None:
    """Goes before ordinary processes, unless whoever started this one chose otherwise. Without
    CAP_SYS_NICE it stays as it is."""
    if os.getpriority(os.PRIO_PROCESS, 0) == ORDINARY:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, HURRIED)
