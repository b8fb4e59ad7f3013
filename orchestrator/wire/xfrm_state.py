"""The codec of security associations: struct xfrm_usersa_info and its attributes, both ways.

Layouts from include/uapi/linux/xfrm.h. Pure; malformed input raises PeerError.
"""

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Final

from orchestrator.core.errors import PeerError
from orchestrator.core.quantities import IPAddress, Reqid, Spi
from orchestrator.wire.netlink import Attribute, attribute
from orchestrator.wire.security_association import (
    Encap,
    Limits,
    Mark,
    Replay,
    ReplayEsn,
    SecurityAssociation,
    StateFlag,
    Statistics,
    Usage,
)
from orchestrator.wire.xfrm_structs import (
    ALGORITHM,
    LIMITS,
    MARK,
    NUMBER,
    SELECTOR,
    USAGE,
    Attr,
    family_of,
    pack_address,
    unpack,
    unpack_address,
)

_ID: Final = Struct("!16sIB3x")
"""struct xfrm_id"""
_IDENTITY: Final = Struct("=16s4sHBx")
"""struct xfrm_usersa_id"""
_SOURCE: Final = Struct("=16s")
_STATISTICS: Final = Struct("=3I")
_TAIL: Final = Struct("=IIHBBB7x")
"""seq, reqid, family, mode, replay_window, flags of struct xfrm_usersa_info"""
_ENCAP: Final = Struct("=H2s2s2x16s")
_REPLAY: Final = Struct("=3I")
_REPLAY_ESN: Final = Struct("=6I")

_AT_SOURCE: Final = SELECTOR.size + _ID.size
_AT_LIMITS: Final = _AT_SOURCE + _SOURCE.size
_AT_USAGE: Final = _AT_LIMITS + LIMITS.size
_AT_STATISTICS: Final = _AT_USAGE + USAGE.size
_AT_TAIL: Final = _AT_STATISTICS + _STATISTICS.size
INFO_SIZE: Final = _AT_TAIL + _TAIL.size
"""struct xfrm_usersa_info: 224 octets"""
IDENTITY_SIZE: Final = _IDENTITY.size

_UNDERSTOOD: Final = frozenset(
    {
        Attr.ALG_AEAD,
        Attr.ALG_AUTH,
        Attr.ALG_AUTH_TRUNC,
        Attr.ALG_CRYPT,
        Attr.ALG_COMP,
        Attr.ENCAP,
        Attr.REPLAY_VAL,
        Attr.REPLAY_ESN_VAL,
        Attr.MARK,
        Attr.SET_MARK,
        Attr.SET_MARK_MASK,
        Attr.IF_ID,
        Attr.SA_EXTRA_FLAGS,
    }
)
_REPEATED: Final = frozenset({Attr.SA, Attr.LTIME_VAL, Attr.PAD})
"""Say again what the struct says, or nothing."""
_MAX_BITMAP_WORDS: Final = 128
"""XFRMA_REPLAY_ESN_MAX in words of 32 bits."""


def encode_identity(destination: IPAddress, spi: Spi, protocol: int) -> bytes:
    """struct xfrm_usersa_id, what GETSA and DELSA go by."""
    return _IDENTITY.pack(
        pack_address(destination), spi.to_bytes(4, "big"), family_of(destination), protocol
    )


def decode_identity(body: bytes) -> tuple[IPAddress, Spi, int]:
    """Destination, SPI and protocol. Raises PeerError."""
    destination, spi, family, protocol = unpack(_IDENTITY, body)
    return unpack_address(destination, family), Spi(int.from_bytes(spi, "big")), protocol


def encode_mark(mark: Mark | None) -> bytes:
    return b"" if mark is None else attribute(Attr.MARK, MARK.pack(mark.value, mark.mask))


def encode_state(sa: SecurityAssociation) -> bytes:
    """struct xfrm_usersa_info and attributes: the body of NEWSA.

    The usage goes out twice: the kernel shows it in the struct and takes it from the
    attribute XFRMA_LTIME_VAL (xfrm_update_ae_params).
    """
    limits, usage = sa.limits, sa.usage
    packed_usage = USAGE.pack(usage.octets, usage.packets, usage.added, usage.used)
    info = b"".join(
        (
            sa.selector,
            _ID.pack(pack_address(sa.destination), sa.spi, sa.protocol),
            _SOURCE.pack(pack_address(sa.source)),
            LIMITS.pack(
                limits.soft_octets,
                limits.hard_octets,
                limits.soft_packets,
                limits.hard_packets,
                limits.soft_age,
                limits.hard_age,
                limits.soft_use,
                limits.hard_use,
            ),
            packed_usage,
            _STATISTICS.pack(sa.statistics.late, sa.statistics.replayed, sa.statistics.forged),
            _TAIL.pack(
                sa.acquire,
                sa.reqid,
                family_of(sa.destination),
                sa.mode,
                sa.replay_window,
                sa.flags,
            ),
        )
    )
    return info + attribute(Attr.LTIME_VAL, packed_usage) + _encode_attributes(sa)


def _encode_attributes(sa: SecurityAssociation) -> bytes:
    parts = [
        attribute(kind, value)
        for kind, value in (
            (Attr.ALG_AEAD, sa.aead),
            (Attr.ALG_AUTH, sa.auth),
            (Attr.ALG_AUTH_TRUNC, sa.auth_truncated),
            (Attr.ALG_CRYPT, sa.crypt),
            (Attr.ALG_COMP, sa.compression),
        )
        if value is not None
    ]
    if sa.encap is not None:
        encap = sa.encap
        ports = encap.source_port.to_bytes(2, "big"), encap.destination_port.to_bytes(2, "big")
        parts.append(attribute(Attr.ENCAP, _ENCAP.pack(encap.kind, *ports, encap.original)))
    match sa.replay:
        case Replay(oseq, seq, bitmap):
            parts.append(attribute(Attr.REPLAY_VAL, _REPLAY.pack(oseq, seq, bitmap)))
        case ReplayEsn():
            parts.append(attribute(Attr.REPLAY_ESN_VAL, _encode_esn(sa.replay)))
        case None:
            pass
    parts.append(encode_mark(sa.mark))
    if sa.set_mark is not None:
        parts.append(attribute(Attr.SET_MARK, NUMBER.pack(sa.set_mark.value)))
        parts.append(attribute(Attr.SET_MARK_MASK, NUMBER.pack(sa.set_mark.mask)))
    if sa.if_id:
        parts.append(attribute(Attr.IF_ID, NUMBER.pack(sa.if_id)))
    if sa.extra_flags:
        parts.append(attribute(Attr.SA_EXTRA_FLAGS, NUMBER.pack(sa.extra_flags)))
    parts += [attribute(other.kind, other.value) for other in sa.others]
    return b"".join(parts)


def _encode_esn(replay: ReplayEsn) -> bytes:
    head = _REPLAY_ESN.pack(
        len(replay.bitmap),
        replay.oseq,
        replay.seq,
        replay.oseq_hi,
        replay.seq_hi,
        replay.window,
    )
    return head + b"".join(map(NUMBER.pack, replay.bitmap))


def decode_state(info: bytes, found: Iterable[Attribute]) -> SecurityAssociation:
    """An SA from its struct xfrm_usersa_info and the attributes beside it. Raises PeerError."""
    known: dict[int, bytes] = {}
    others: list[Attribute] = []
    for item in found:
        if item.kind in _UNDERSTOOD:
            known[item.kind] = item.value
        elif item.kind not in _REPEATED:
            others.append(item)
    destination, spi, protocol = unpack(_ID, info, SELECTOR.size)
    (source,) = unpack(_SOURCE, info, _AT_SOURCE)
    acquire, reqid, family, mode, window, flags = unpack(_TAIL, info, _AT_TAIL)
    return SecurityAssociation(
        source=unpack_address(source, family),
        destination=unpack_address(destination, family),
        spi=Spi(spi),
        protocol=protocol,
        reqid=Reqid(reqid),
        mode=mode,
        flags=StateFlag(flags),
        selector=info[: SELECTOR.size],
        limits=Limits(*unpack(LIMITS, info, _AT_LIMITS)),
        usage=Usage(*unpack(USAGE, info, _AT_USAGE)),
        statistics=Statistics(*unpack(_STATISTICS, info, _AT_STATISTICS)),
        acquire=acquire,
        replay_window=window,
        replay=_decode_replay(known),
        aead=_algorithm(known.get(Attr.ALG_AEAD)),
        auth=_algorithm(known.get(Attr.ALG_AUTH)),
        auth_truncated=_algorithm(known.get(Attr.ALG_AUTH_TRUNC)),
        crypt=_algorithm(known.get(Attr.ALG_CRYPT)),
        compression=_algorithm(known.get(Attr.ALG_COMP)),
        encap=_decode_encap(known.get(Attr.ENCAP)),
        mark=Mark(*unpack(MARK, known[Attr.MARK])) if Attr.MARK in known else None,
        set_mark=_decode_set_mark(known),
        if_id=_number(known, Attr.IF_ID, 0),
        extra_flags=_number(known, Attr.SA_EXTRA_FLAGS, 0),
        others=tuple(others),
    )


def _decode_replay(known: Mapping[int, bytes]) -> Replay | ReplayEsn | None:
    if Attr.REPLAY_ESN_VAL not in known:
        plain = known.get(Attr.REPLAY_VAL)
        return None if plain is None else Replay(*unpack(_REPLAY, plain))
    value = known[Attr.REPLAY_ESN_VAL]
    words, oseq, seq, oseq_hi, seq_hi, window = unpack(_REPLAY_ESN, value)
    if words > _MAX_BITMAP_WORDS:
        raise PeerError(f"xfrm: a replay bitmap of {words} words")
    bitmap = unpack(Struct(f"={words}I"), value, _REPLAY_ESN.size)
    return ReplayEsn(oseq, seq, oseq_hi, seq_hi, window, bitmap)


def _decode_encap(value: bytes | None) -> Encap | None:
    if value is None:
        return None
    kind, source, destination, original = unpack(_ENCAP, value)
    return Encap(
        kind, int.from_bytes(source, "big"), int.from_bytes(destination, "big"), original
    )


def _decode_set_mark(known: Mapping[int, bytes]) -> Mark | None:
    if Attr.SET_MARK not in known:
        return None
    # Without a mask the kernel takes all bits (xfrm_smark_init).
    return Mark(
        _number(known, Attr.SET_MARK, 0), _number(known, Attr.SET_MARK_MASK, 0xFFFF_FFFF)
    )


def _algorithm(value: bytes | None) -> bytes | None:
    if value is not None:
        _, bits = unpack(ALGORITHM, value)
        if ALGORITHM.size + (bits + 7) // 8 > len(value):
            raise PeerError(f"xfrm: a key of {bits} bits is cut off")
    return value


def _number(known: Mapping[int, bytes], kind: int, default: int) -> int:
    if kind not in known:
        return default
    (number,) = unpack(NUMBER, known[kind])
    return int(number)
