"""Whether the traffic itself says that its path is silent, or that it works.

1. While packets come or go, what the SAs have counted is looked at every `LOOK`. When nothing
   did since the last look, and nothing waits for an answer, it is quiet: then there is no look
   until the kernel tells that an SA counts again (`stirred`).
2. Packets that go out and bring nothing back, or a stream that stops, for `SILENCE`, are a
   reason to ask at once (`silent`). It may be the application's way: the probe's answer is
   believed, and the same silence is no reason again for a while (`asked`).
3. Fewer packets that bring nothing back, and much traffic, are a reason not to be slow with the
   next probe (`wants_probes`).
4. Our own probes, and their answers, are no traffic (`probed`).
5. Packets that came a moment ago say that the path brings some (`heard_until`). That it takes
   ours to the server, they do not.
"""

from dataclasses import dataclass
from typing import Final

from orchestrator.core.quantities import Instant, Seconds

LOOK: Final = Seconds(0.1)
"""While there is traffic. A look costs two short messages to the kernel."""
LOOK_DEAF: Final = Seconds(2.0)
"""While others' SAs count all the time: the kernel would wake us for each of their packets."""
SILENCE: Final = Seconds(0.15)
"""Above the time between two packets of a call, and most delayed acknowledgments."""
UNANSWERED: Final = 3
"""Packets that went out before their silence says anything."""
IDLE: Final = 2
"""Packets each way from one look to the next that are no stream."""
BELIEVED: Final = Seconds(1.0)
"""After an answer, before the same silence is a reason to ask again."""


@dataclass(slots=True)
class Traffic:
    """What is known of one tunnel's traffic. `next_look` says when to tell `seen` again."""

    next_look: Instant | None
    """None: not before the kernel tells of something."""
    quiet: bool = False
    """The kernel is to tell when an SA counts."""
    wants_probes: bool = False
    _received: int | None = None
    _sent: int = 0
    _heard: Instant = Instant(0.0)
    """When the received ones were seen to grow the last time."""
    _came_at: Instant | None = None
    """The same, answers to our probes left out."""
    _sent_when_heard: int = 0
    _streaming: bool = False
    """More came between two looks than single packets."""
    _believed_until: Instant = Instant(0.0)
    _waits_since: Instant | None = None
    """When packets were first seen that have brought nothing back since."""
    _probes: int = 0
    """Of ours, that no look has found counted yet."""
    _answers: int = 0
    """To the latest: the same."""

    def probed(self) -> None:
        """A probe goes through this tunnel."""
        self._probes += 1
        self._answers = 1  # what comes while many are unanswered are not their answers

    def answered(self) -> None:
        """One was answered: what went out before it may have arrived, too."""
        self._sent_when_heard = self._sent
        self._probes = min(self._probes, 1)

    def stirred(self, now: Instant, *, ours: bool) -> None:
        """An SA counts; `ours`: one of this tunnel."""
        if self.quiet:
            self.quiet = ours
            self.next_look = now if ours else Instant(now + LOOK_DEAF)

    def seen(self, received: int, sent: int, now: Instant) -> None:
        """The SAs have counted so many packets."""
        former, self._received = self._received, received
        gone, self._sent = sent - self._sent, sent
        if former is None:
            self._heard, self._sent_when_heard = now, sent
            self.next_look = Instant(now + LOOK)
            return
        came = received - former
        probes = min(max(gone, 0), self._probes)
        answers = min(max(came, 0), self._answers)
        self._probes -= probes
        self._answers -= answers
        if came:
            self._heard, self._sent_when_heard = now, sent
            # Until somebody asks: it may end with a packet or two.
            self._streaming |= came > IDLE
        else:
            self._sent_when_heard += probes
        if came > answers:
            self._came_at = now
        much = gone > IDLE or self._streaming or self._unanswered
        self.wants_probes = much or self._waits_long(now)
        self.quiet = (came, gone, self._outstanding) == (answers, probes, 0) and not much
        self.next_look = None if self.quiet else Instant(now + LOOK)

    def _waits_long(self, now: Instant) -> bool:
        """Whether single packets had their time to bring something back. From then on it is the
        next probe's to say."""
        if not self._outstanding or self._unanswered:
            self._waits_since = None
            return False
        if self._waits_since is None:
            self._waits_since = now
        if now - self._waits_since < SILENCE:
            return False
        self._sent_when_heard, self._waits_since = self._sent, None
        return True

    def asked(self, now: Instant) -> None:
        """Somebody asks: until it is answered, or for a while, silence is no news."""
        self._believed_until = Instant(now + BELIEVED)
        self._streaming = False
        self._sent_when_heard = self._sent

    def silent(self, now: Instant) -> bool:
        """Rule 2."""
        if self._received is None or now < self._believed_until or now - self._heard < SILENCE:
            return False
        return self._unanswered or self._streaming

    @property
    def heard_until(self) -> Instant:
        """Rule 5: how long that counts which came last; in the past if there was none."""
        if self._came_at is None:
            return Instant(0.0)
        return Instant(self._came_at + LOOK + SILENCE)

    @property
    def _outstanding(self) -> int:
        return self._sent - self._sent_when_heard

    @property
    def _unanswered(self) -> bool:
        return self._outstanding >= UNANSWERED
