"""A security association as a value: all that the kernel tells of one, and the move of one.

Nothing is lost between reading and writing: what has no field of its own is kept verbatim, so
that an SA that is read, deleted and added again is the SA it was. Keys stay out of every repr.
"""

from dataclasses import dataclass, field, replace
from enum import IntFlag

from orchestrator.core.quantities import IPAddress, Reqid, Spi
from orchestrator.wire.netlink import Attribute
from orchestrator.wire.xfrm_structs import ALGORITHM, MODE_TUNNEL, Attr


class StateFlag(IntFlag):
    """XFRM_STATE_*"""

    NOECN = 1
    DECAP_DSCP = 2
    NOPMTUDISC = 4
    WILDRECV = 8
    ICMP = 16
    AF_UNSPEC = 32
    ALIGN4 = 64
    ESN = 128


@dataclass(frozen=True, slots=True)
class Replay:
    """struct xfrm_replay_state: the last number sent, the highest received, and which of the
    numbers below that one were received."""

    oseq: int
    seq: int
    bitmap: int


@dataclass(frozen=True, slots=True)
class ReplayEsn:
    """struct xfrm_replay_state_esn. Also holds 32-bit numbers with a window above 32, when
    the SA lacks StateFlag.ESN."""

    oseq: int
    seq: int
    oseq_hi: int
    seq_hi: int
    window: int
    bitmap: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """struct xfrm_lifetime_cfg. At a soft limit the SA asks to be replaced, at a hard one it
    ends. Octets and packets: UNLIMITED is none. Seconds since added and since used: 0 is none.
    """

    soft_octets: int
    hard_octets: int
    soft_packets: int
    hard_packets: int
    soft_age: int
    hard_age: int
    soft_use: int
    hard_use: int


@dataclass(frozen=True, slots=True)
class Usage:
    """struct xfrm_lifetime_cur; `added` and `used` (first) are wall clock seconds."""

    octets: int
    packets: int
    added: int
    used: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """struct xfrm_stats; the kernel starts at 0 again for a moved SA."""

    late: int
    """Arrived behind the replay window."""
    replayed: int
    forged: int


@dataclass(frozen=True, slots=True)
class Encap:
    """struct xfrm_encap_tmpl; ports as they are on packets of this SA's direction."""

    kind: int
    """2 is UDP_ENCAP_ESPINUDP."""
    source_port: int
    destination_port: int
    original: bytes
    """encap_oa, 16 octets"""


@dataclass(frozen=True, slots=True)
class Mark:
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    source: IPAddress
    destination: IPAddress
    spi: Spi
    protocol: int
    reqid: Reqid
    mode: int
    flags: StateFlag
    selector: bytes = field(repr=False)
    """struct xfrm_selector, 56 octets; empty of meaning in tunnel mode."""
    limits: Limits
    usage: Usage
    statistics: Statistics
    acquire: int
    """The number of the acquire that asked for it (`seq` in the struct)."""
    replay_window: int
    """Up to 32, with `Replay`; 0 with `ReplayEsn`, which brings its own."""
    replay: Replay | ReplayEsn | None = None
    aead: bytes | None = field(default=None, repr=False)
    """struct xfrm_algo_aead, whole, key included; likewise the four below."""
    auth: bytes | None = field(default=None, repr=False)
    auth_truncated: bytes | None = field(default=None, repr=False)
    crypt: bytes | None = field(default=None, repr=False)
    compression: bytes | None = field(default=None, repr=False)
    encap: Encap | None = None
    mark: Mark | None = None
    """Which packets find this SA (XFRMA_MARK)."""
    set_mark: Mark | None = None
    """What packets of this SA are marked with (XFRMA_SET_MARK, XFRMA_SET_MARK_MASK)."""
    if_id: int = 0
    extra_flags: int = 0
    others: tuple[Attribute, ...] = field(default=(), repr=False)
    """Every other attribute, in order, as it came."""

    @property
    def sent(self) -> int:
        """The last sequence number used for sending; with ESN, of 64 bits."""
        match self.replay:
            case None:
                return 0
            case Replay():
                return self.replay.oseq
            case ReplayEsn():
                return self.replay.oseq_hi << 32 | self.replay.oseq

    @property
    def received(self) -> int:
        """The highest sequence number received; with ESN, of 64 bits."""
        match self.replay:
            case None:
                return 0
            case Replay():
                return self.replay.seq
            case ReplayEsn():
                return self.replay.seq_hi << 32 | self.replay.seq


def moved(
    sa: SecurityAssociation, source: IPAddress, destination: IPAddress
) -> SecurityAssociation:
    """The same SA between other outer addresses: SPI, keys, counters, windows, lifetimes,
    marks and encapsulation ports are kept.

    Raises ValueError for what must not be moved: another address family, another mode than
    tunnel (its selector names the addresses), an SA that lives in a device (its counters do
    too), and one whose keys the kernel hides (it would go on with keys of zeros).
    """
    families = {sa.source.version, source.version, destination.version}
    if len(families) > 1:
        raise ValueError(f"from {sa.source} to {source} and {destination}: another family")
    if sa.mode != MODE_TUNNEL:
        raise ValueError("not in tunnel mode")
    if any(other.kind == Attr.OFFLOAD_DEV for other in sa.others):
        raise ValueError("offloaded to a device")
    if any(map(_redacted, (sa.aead, sa.auth, sa.auth_truncated, sa.crypt))):
        raise ValueError("the kernel is locked down and hides the keys")
    return replace(sa, source=source, destination=destination)


def _redacted(algorithm: bytes | None) -> bool:
    """Whether the key has bits and all are 0: what LOCKDOWN_XFRM_SECRET shows instead."""
    if algorithm is None:
        return False
    _, bits = ALGORITHM.unpack_from(algorithm)
    octets = (bits + 7) // 8
    return octets > 0 and not any(algorithm[-octets:])
