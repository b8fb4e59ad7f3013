"""Reads the clocks. Decisions use CLOCK_BOOTTIME, which counts while the device sleeps."""

import time
from datetime import UTC, datetime

from orchestrator.core.quantities import Instant, Seconds


def now() -> Instant:
    """Seconds since boot, suspend included."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))


def slept() -> Seconds:
    """How long the device has been suspended since boot, in all."""
    return Seconds(
        time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    )


def wall() -> str:
    """The wall time for people: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
