"""Whether traffic may be sent already, or nothing but probes.

1. Nothing known before a sleep is trusted, nor a tunnel that our predecessor did not trust:
   traffic waits for an answer, by whichever way it comes (`doubted`).
2. A tunnel that we moved waits a moment, or for the answer: until the server has followed it
   may be deaf to what comes (`deafness`, `turn`).
3. While the device falls asleep, and while there is a doubt, nothing matters but the next
   answer: no traffic is looked at, no other tunnel asked (`watches`).
"""

from dataclasses import dataclass
from typing import Final

from orchestrator.core.quantities import Instant, Seconds

SLEEP_LIMIT: Final = Seconds(10.0)
"""A device that has announced its sleep and is still awake then does not sleep: logind waits
for 5 s (logind.conf(5), InhibitDelayMaxSec)."""
SERVER_TURNS: Final = Seconds(0.01)
"""So long traffic waits behind the first packet of a tunnel that we moved: charon at the server
deletes the inbound SA and adds it again (kernel_netlink_ipsec.c, update_sa), and what comes
between is lost. Some milliseconds, and one for us to tell who waited."""
ANSWER_LIMIT: Final = Seconds(0.25)
"""Instead of it after an outage: much waits then, and would leave in that moment; a round trip
more is little. The server follows in as much, or not at all (`core.following`)."""
OUTAGE: Final = Seconds(1.0)
"""From here on being nowhere was more than a change of network."""


def deafness(lost_at: Instant | None, now: Instant) -> Seconds:
    """How long the server may be deaf to a tunnel that we moved now."""
    outage = lost_at is not None and now - lost_at >= OUTAGE
    return ANSWER_LIMIT if outage else SERVER_TURNS


@dataclass(slots=True)
class Trust:
    """Of one endpoint, in the tunnel that the traffic takes."""

    doubted: bool = False
    """Everything but probes waits for the next answer."""
    deaf_until: Instant | None = None
    """It waits until then, or for the next answer."""
    asleep_until: Instant | None = None
    """While the device falls asleep: when it must have."""

    @property
    def waits(self) -> bool:
        """Whether nothing but probes is sent."""
        return self.doubted or self.deaf_until is not None

    @property
    def watches(self) -> bool:
        """Whether anything but the next answer matters."""
        return self.asleep_until is None and not self.doubted

    @property
    def falls_asleep(self) -> bool:
        """Whether the device does."""
        return self.asleep_until is not None

    def begin(self, deaf: Seconds | None, now: Instant) -> None:
        """Another tunnel takes the traffic. `deaf`: so long the server may be; None: it is
        not. A doubt remains."""
        self.deaf_until = None if deaf is None else Instant(now + deaf)

    def answered(self) -> None:
        """A probe was: there is nothing to wait for."""
        self.doubted, self.deaf_until = False, None

    def turn(self, now: Instant) -> bool:
        """Whether what waited for the server may be sent by now."""
        if self.deaf_until is None or now < self.deaf_until:
            return False
        self.deaf_until = None
        return not self.doubted

    def deadlines(self) -> list[Instant]:
        """When it becomes otherwise, if no answer comes."""
        return [at for at in (self.asleep_until, self.deaf_until) if at is not None]
