"""Decides. No I/O, no clock, no log, no randomness, no asyncio.

Every machine here has the same face: `handle(event, now)` takes news and returns effects,
`deadline()` says when it wants to be woken if nothing happens. `now` is CLOCK_BOOTTIME in
seconds. A refused event raises `IllegalEvent` and changes nothing.
"""
