"""The probe inside the tunnel: is the path alive, how long is it, and which one is the newest.

A UDP payload of 24 octets, network order, written out below, and any number of zeros behind
them: one with these asks whether a packet of its size is carried, and its answer is as long.
The SA that carried a probe has authenticated it, so there is no second authentication here. The
server follows the highest flip number that it receives (the roaming rule of mosh) and sends on
the CHILD_SA that the SPI names. ASLEEP is a request of an endpoint that takes nothing more
until it sends another one; it is answered like one. WARM asks for an answer over the tunnel
that it names, whichever one is in use, and changes nothing; its flip is the endpoint's present
one. FLOWS is a WARM that says more: flows of the endpoint take that tunnel, and are to be sent
back over it, until a higher flip. The limit is the largest packet that the endpoint's path
carries, in octets of the whole packet inside the tunnel; 0: none is known.

A request says within how many milliseconds the next one comes, if it is answered; its reply,
what the server has taken that for. 0 says nothing: so has it whoever knows no such number. What
is reserved is sent as 0 and not looked at, so that a later release may use it.

Pure; whatever is not exactly a probe raises PeerError.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +---------------+---------------+-------------------------------+
    |  version = 1  |     kind      |            limit              |
    +---------------+---------------+-------------------------------+
    |                             flip                              |
    +---------------------------------------------------------------+
    |                           sequence                            |
    +---------------------------------------------------------------+
    |                              spi                              |
    +---------------------------------------------------------------+
    |                           within_ms                           |
    +---------------------------------------------------------------+
    |                           reserved                            |
    +---------------------------------------------------------------+
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from orchestrator.core.errors import PeerError
from orchestrator.core.quantities import Spi

VERSION: Final = 1
_LAYOUT: Final = Struct("!BBHIIII4x")
PROBE_SIZE: Final = _LAYOUT.size


class Kind(IntEnum):
    REQUEST = 1
    REPLY = 2
    ASLEEP = 3
    WARM = 4
    FLOWS = 5


_KINDS: Final = frozenset(int(kind) for kind in Kind)


@dataclass(frozen=True, slots=True)
class Probe:
    kind: Kind
    flip: int
    """32 bits; grows with every flip of the endpoint."""
    sequence: int
    """32 bits; the endpoint's number for this probe. A reply has that of its request."""
    spi: Spi
    """The endpoint's inbound SPI on the probed path, which is the server's outbound one."""
    within_ms: int = 0
    """32 bits; 0: it does not say."""
    limit: int = 0
    """16 bits; octets."""
    padding: int = 0
    """Octets."""


def encode(probe: Probe) -> bytes:
    head = _LAYOUT.pack(
        VERSION,
        probe.kind,
        probe.limit,
        probe.flip,
        probe.sequence,
        probe.spi,
        probe.within_ms,
    )
    return head + bytes(probe.padding)


def decode(octets: bytes) -> Probe:
    """Raises PeerError."""
    padding = len(octets) - PROBE_SIZE
    if padding < 0:
        raise PeerError(f"probe: {len(octets)} octets, not {PROBE_SIZE} or more")
    version, kind, limit, flip, sequence, spi, within_ms = _LAYOUT.unpack_from(octets)
    if any(octets[PROBE_SIZE:]):
        raise PeerError("probe: padded with something else than zeros")
    if version != VERSION:
        raise PeerError(f"probe: version {version}, not {VERSION}")
    if kind not in _KINDS:
        raise PeerError(f"probe: unknown kind {kind}")
    return Probe(Kind(kind), flip, sequence, Spi(spi), within_ms, limit, padding)
