"""Whether the traffic itself says that its path is silent.

1. While packets come or go, what the SAs have counted is looked at every `LOOK`; otherwise once
   in a while (`next_look`).
2. Packets that go out and bring nothing back, or a stream that stops, for `SILENCE`, are a
   reason to ask (`silent`). It may be the application's way: the probe's answer is believed,
   and the same silence is no reason again for a while (`asked`).
"""

from dataclasses import dataclass
from typing import Final

from orchestrator.core.quantities import Instant, Seconds

LOOK: Final = Seconds(0.1)
"""While there is traffic. A look costs two short messages to the kernel."""
LOOK_IDLE: Final = Seconds(2.0)
SILENCE: Final = Seconds(0.15)
"""Above the time between two packets of a call, and most delayed acknowledgments."""
UNANSWERED: Final = 3
"""Packets that went out before their silence says anything."""
IDLE: Final = 2
"""Packets each way from one look to the next that are no traffic: probes, or their answers."""
BELIEVED: Final = Seconds(1.0)
"""After an answer, before the same silence is a reason to ask again."""


@dataclass(slots=True)
class Traffic:
    """What is known of one tunnel's traffic. `next_look` says when to tell `seen` again."""

    next_look: Instant
    _received: int | None = None
    _sent: int = 0
    _heard: Instant = Instant(0.0)
    """When the received ones were seen to grow the last time."""
    _sent_when_heard: int = 0
    _streaming: bool = False
    """More came between two looks than answers to probes."""
    _quiet_until: Instant = Instant(0.0)

    def seen(self, received: int, sent: int, now: Instant) -> None:
        """The SAs have counted so many packets."""
        former, self._received = self._received, received
        gone, self._sent = sent - self._sent, sent
        if former is None:
            self._heard, self._sent_when_heard = now, sent
            self.next_look = Instant(now + LOOK)
            return
        came = received - former
        if came:
            self._heard, self._sent_when_heard = now, sent
            self._streaming = came > IDLE
        busy = max(came, gone) > IDLE or self._unanswered or self._streaming
        self.next_look = Instant(now + (LOOK if busy else LOOK_IDLE))

    def asked(self, now: Instant) -> None:
        """Somebody asks: until it is answered, or for a while, silence is no news."""
        self._quiet_until = Instant(now + BELIEVED)
        self._streaming = False
        self._sent_when_heard = self._sent

    def silent(self, now: Instant) -> bool:
        """Rule 2."""
        if self._received is None or now < self._quiet_until or now - self._heard < SILENCE:
            return False
        return self._unanswered or self._streaming

    @property
    def _unanswered(self) -> bool:
        return self._sent - self._sent_when_heard >= UNANSWERED
