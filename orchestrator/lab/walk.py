"""A walk through three networks with a download and an ssh session running, and its measures.

The same walk is done with our daemons and with stock strongSwan: what differs is who keeps the
tunnel. Times of a roam are what the download saw: silence, and what followed the new address.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from orchestrator.lab.apps import Download, Session
from orchestrator.lab.internet import Quality
from orchestrator.lab.netns import Lab
from orchestrator.lab.peers import Peers
from orchestrator.lab.silence import first_arrival, longest_silence

RATES_MBIT: Final = {"wifi": 20.0, "lte": 20.0, "wifi2": 20.0}
"""So that 64 MiB take about as long as the walk."""
SECONDS_BEFORE_ROAM: Final = 6.0
SECONDS_ON_A_LINK: Final = 8.0
SECONDS_OF_NOTHING: Final = 20.0
GIVE_UP: Final = 180.0
"""Seconds after the last roam until a download that does not end counts as failed."""
_LOOK: Final = 0.02
_DOWNLOAD_PEER: Final = ip_address("10.51.1.2")
_SESSION_PEER: Final = ip_address("10.51.2.2")

Say = Callable[[float, str], None]
"""Told what happens: seconds since the walk began, and a sentence."""


@dataclass(frozen=True, slots=True)
class Roam:
    kind: str
    outage_ms: float
    """The longest silence that the download saw from when it began until the next began."""
    resumed_ms: float | None
    """From the new address to the first byte over it, however long it was silent later; None:
    nothing came."""

    def as_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "outage_ms": round(self.outage_ms, 1),
            "resumed_ms": None if self.resumed_ms is None else round(self.resumed_ms, 1),
        }


@dataclass(frozen=True, slots=True)
class Walked:
    roams: tuple[Roam, ...]
    sha256_ok: bool
    tcp_reconnects: int
    session_ok: bool
    cleartext_packets: int
    protected_packets: int
    received_bytes: int

    @property
    def ok(self) -> bool:
        return (
            self.sha256_ok
            and self.session_ok
            and self.tcp_reconnects == 0
            and self.cleartext_packets == 0
            and self.protected_packets > 0
        )

    def as_json(self) -> dict[str, object]:
        return {
            "tcp_reconnects": self.tcp_reconnects,
            "sha256_ok": self.sha256_ok,
            "session_ok": self.session_ok,
            "cleartext_packets": self.cleartext_packets,
            "protected_packets": self.protected_packets,
            "received_bytes": self.received_bytes,
            "roams": [roam.as_json() for roam in self.roams],
        }


def roam_seen(
    kind: str,
    arrivals: Sequence[float],
    begun: float,
    attached: float,
    until: float,
    quality: Quality,
) -> Roam:
    """What a download saw, until an instant, of a roam to a link of this quality."""
    first = first_arrival(arrivals, attached + _round_trip(quality))
    # Where data came, it may have ended since.
    quiet, noisy = longest_silence(arrivals, begun, until if first is None else arrivals[-1])
    resumed = None if first is None else 1000 * (first - attached)
    return Roam(kind, 1000 * (noisy - quiet), resumed)


def _round_trip(quality: Quality) -> float:
    """Seconds. What comes sooner after a new address was on its way over the old one."""
    return 2 * quality.delay_ms / 1000


class Walk:
    """Runs once; the tunnel is up on "wifi" when it begins."""

    def __init__(self, lab: Lab, peers: Peers, say: Say) -> None:
        self._lab = lab
        self._capture = lab.capture()
        self._begun = time.monotonic()
        self._say_at = say
        endpoint = lab.host("endpoint")
        self._download = Download(endpoint, peers, _DOWNLOAD_PEER)
        self._session = Session(endpoint, peers, _SESSION_PEER)
        self._pause = threading.Event()
        self._last_attached = self._begun

    def run(self) -> Walked:
        self._say("a download and an ssh session begin over wifi")
        self._pause.wait(SECONDS_BEFORE_ROAM)
        roams = [self._roam("lte", 0.0), self._roam("wifi2", SECONDS_OF_NOTHING)]
        while not self._download.done and time.monotonic() - self._last_attached < GIVE_UP:
            self._pause.wait(_LOOK)
        whole, connects = self._download.result(1.0)
        session_ok = self._session.result(10.0)
        self._say(f"{self._download.output.received} bytes received, the session is closed")
        return Walked(
            roams=tuple(roams),
            sha256_ok=whole,
            tcp_reconnects=max(connects - 1, 0),
            session_ok=session_ok,
            cleartext_packets=self._capture.in_clear,
            protected_packets=self._capture.protected,
            received_bytes=self._download.output.received,
        )

    def _roam(self, link: str, absence: float) -> Roam:
        """Break before make, with nothing at all in between for `absence` seconds."""
        left = [each for each in self._lab.access_links if each.attached]
        begun = time.monotonic()
        names = ", ".join(each.name for each in left)
        if absence:
            for each in left:
                each.detach()
            self._say(f"{names} is gone; nothing for {absence:g} s")
            self._pause.wait(absence)
        attached = self._lab.roam(link)
        self._last_attached = attached
        self._say(f"{names} -> {link}: a new address")
        quality = self._lab.link(link).quality
        self._watch(attached, attached + _round_trip(quality))
        between = f"nothing for {absence:g} s -> " if absence else ""
        kind = f"{names} -> {between}{link}"
        arrivals = self._download.output.arrivals
        return roam_seen(kind, arrivals, begun, attached, time.monotonic(), quality)

    def _watch(self, attached: float, earliest: float) -> None:
        """Lets the applications run on the new link; longer if nothing comes at all."""
        end = time.monotonic() + SECONDS_ON_A_LINK
        first: float | None = None
        while not self._download.done and time.monotonic() < end + GIVE_UP:
            if first is None:
                first = self._download.output.first_since(earliest)
                if first is not None:
                    self._say(f"data again after {1000 * (first - attached):.0f} ms")
            elif time.monotonic() >= end:
                return
            self._pause.wait(_LOOK)
        if first is None:
            self._say("data again never")

    def _say(self, sentence: str) -> None:
        self._say_at(time.monotonic() - self._begun, sentence)
