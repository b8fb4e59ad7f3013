"""The share of the CPU that this process has while others want it too (setpriority(2)).

A move is some 40 ms of work on a small CPU, and traffic stands still meanwhile: what else the
machine does can wait for it, charon and bulk transfers too.
"""

import contextlib
import os
from typing import Final

ORDINARY: Final = 0
HURRIED: Final = -5
"""Three times the share of an ordinary process (kernel/sched/core.c, sched_prio_to_weight).
With -10, nine times, an application that has the only CPU in common with us stood still for
10 ms longer at a planned move, which costs it nothing otherwise."""


def hurry() -> None:
    """Goes before ordinary processes, unless whoever started this one chose otherwise. Without
    CAP_SYS_NICE it stays as it is."""
    if os.getpriority(os.PRIO_PROCESS, 0) == ORDINARY:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, HURRIED)


def hurry_no_more() -> None:
    """For a child of one who hurries."""
    if os.getpriority(os.PRIO_PROCESS, 0) == HURRIED:
        os.setpriority(os.PRIO_PROCESS, 0, ORDINARY)
