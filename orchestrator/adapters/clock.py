"""Reads the clocks. Decisions use CLOCK_BOOTTIME, which counts while the device sleeps.

That the device woke is heard from the kernel, without looking now and then: a timer on
CLOCK_REALTIME with TFD_TIMER_CANCEL_ON_SET ends early whenever that clock is set, and a resume
sets it (timerfd_create(2); fs/timerfd.c, timerfd_resume). How long it slept is the difference
of the two other clocks.
"""

import asyncio
import ctypes
import errno
import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from orchestrator.core.errors import KernelError
from orchestrator.core.quantities import Instant, Seconds

JUMP: Final = Seconds(1.0)
"""Of sleep, below which nothing is doubted: no NAT forgets us that fast."""
TFD_TIMER_ABSTIME: Final = 1
TFD_TIMER_CANCEL_ON_SET: Final = 2
"""include/linux/timerfd.h"""
NEVER: Final = 2**63 - 1
"""Seconds of CLOCK_REALTIME at which the timer would end by itself."""
EXPIRATIONS_OCTETS: Final = 8
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_longlong), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def now() -> Instant:
    """Seconds since boot, suspend included."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))


def awake() -> Instant:
    """Seconds since boot without suspend, as the kernel's timers of TCP count them."""
    return Instant(time.clock_gettime(time.CLOCK_MONOTONIC))


def slept() -> Seconds:
    """How long the device has been suspended since boot, in all."""
    return Seconds(
        time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    )


async def wakes() -> AsyncGenerator[Seconds, None]:
    """How long the device slept, each time that it woke from more than a nap (`JUMP`).

    Raises KernelError when there can be no such timer.
    """
    descriptor, stepped = _step_timer(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, _drain, descriptor, stepped)
    before = slept()
    try:
        while True:
            await stepped.wait()
            stepped.clear()
            after = slept()
            if after - before > JUMP:
                yield Seconds(after - before)
            before = after
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def wall() -> str:
    """The wall time for people: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Clock:
    """What a daemon knows of time."""

    now: Callable[[], Instant] = now
    wakes: Callable[[], AsyncGenerator[Seconds, None]] = wakes


SYSTEM_CLOCK: Final = Clock()


def _step_timer() -> int:
    """Readable whenever CLOCK_REALTIME was set."""
    flags = os.O_NONBLOCK | os.O_CLOEXEC  # as TFD_NONBLOCK, TFD_CLOEXEC
    descriptor = int(_libc.timerfd_create(time.CLOCK_REALTIME, flags))
    if descriptor < 0:
        raise KernelError(ctypes.get_errno(), "create", "a timer that hears of sleep")
    at = _Itimerspec(value=_Timespec(seconds=NEVER))
    how = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET
    if _libc.timerfd_settime(descriptor, how, ctypes.byref(at), None) != 0:
        code = ctypes.get_errno()
        os.close(descriptor)
        raise KernelError(code, "set", "a timer that hears of sleep")
    return descriptor


def _drain(descriptor: int, stepped: asyncio.Event) -> None:
    try:
        os.read(descriptor, EXPIRATIONS_OCTETS)
    except OSError as error:
        if error.errno != errno.ECANCELED:  # its way to say that the clock was set
            return
    stepped.set()
