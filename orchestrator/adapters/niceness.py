"""The share of the CPU that this process has while others want it too (setpriority(2)).

A move is some 30 ms of work on a small CPU, and traffic stands still meanwhile: what else the
machine does can wait for it, bulk transfers and an endpoint's charon too. Not a server's: there
it is charon that a move waits for.
"""

import contextlib
import os
from typing import Final

ORDINARY: Final = 0
HURRIED: Final = -11
"""Nearly twelve times the share of an ordinary process (kernel/sched/core.c,
sched_prio_to_weight). On one slow CPU, which lab, peers and server have in common with the
endpoint, uplink and downlink stood still in a roam for 24 and 48 ms, with -1 for 34 and 50, and
the gap of a planned move was 30-38 ms, with -1 29-31 (medians of 11 and 6)."""


def hurry() -> None:
    """Goes before ordinary processes, unless whoever started this one chose otherwise. Without
    CAP_SYS_NICE it stays as it is."""
    if os.getpriority(os.PRIO_PROCESS, 0) == ORDINARY:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, HURRIED)
