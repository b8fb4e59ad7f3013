from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.core.quantities import IPAddress, Reqid, Spi
from orchestrator.wire.netlink import Attribute, attribute, attributes, frames
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
    moved,
)
from orchestrator.wire.xfrm_state import (
    INFO_SIZE,
    decode_identity,
    decode_state,
    encode_identity,
    encode_mark,
    encode_state,
)
from orchestrator.wire.xfrm_structs import MODE_TUNNEL, UNLIMITED, Attr
from tests.unit.wire import captured

LTIME = 36
"""Octets of the attribute XFRMA_LTIME_VAL, which we say and the kernel does not."""


def decoded(body: bytes) -> SecurityAssociation:
    return decode_state(body, attributes(body, INFO_SIZE))


def sa_in(datagram: bytes) -> SecurityAssociation:
    (found,) = frames(datagram)
    return decoded(found.body)


GCM_ESN = sa_in(captured.NEWSA_GCM_ESN)
CBC = sa_in(captured.NEWSA_CBC_IF_ID)


def test_reads_an_aead_sa_with_extended_sequence_numbers() -> None:
    sa = GCM_ESN
    assert (sa.source, sa.destination) == (ip_address("192.0.2.1"), ip_address("203.0.113.10"))
    assert (sa.spi, sa.reqid, sa.protocol, sa.mode) == (0xC0FFEE01, 0x6F01, 50, MODE_TUNNEL)
    assert sa.flags == StateFlag.ESN | StateFlag.AF_UNSPEC
    assert sa.limits == Limits(
        *(UNLIMITED,) * 3,
        hard_packets=1_000_000,
        soft_age=3000,
        hard_age=3600,
        soft_use=0,
        hard_use=0,
    )
    assert sa.replay == ReplayEsn(0, 0, 0, 0, window=128, bitmap=(0, 0, 0, 0))
    assert sa.replay_window == 0
    assert sa.encap == Encap(2, 4500, 4500, bytes(16))
    assert sa.mark == sa.set_mark == Mark(0x6F00_0000, 0xFF00_0000)
    assert sa.extra_flags == 1
    assert sa.aead is not None
    assert sa.aead.endswith(bytes(range(20)))
    assert sa.others == ()


def test_reads_an_sa_of_two_algorithms_with_a_plain_window() -> None:
    sa = CBC
    assert sa.source == IPv6Address("2001:db8::1")
    assert (sa.replay, sa.replay_window) == (Replay(0, 0, 0), 32)
    assert sa.if_id == 9
    assert sa.auth is not None
    assert sa.auth_truncated is not None
    assert sa.crypt is not None
    assert sa.auth_truncated.startswith(b"hmac(sha256)\0")


@pytest.mark.parametrize(
    "datagram", [captured.NEWSA_GCM_ESN, captured.NEWSA_CBC_IF_ID], ids=["gcm", "cbc"]
)
def test_writes_the_octets_that_the_kernel_showed(datagram: bytes) -> None:
    (found,) = frames(datagram)
    written = encode_state(decoded(found.body))
    assert written[:INFO_SIZE] == found.body[:INFO_SIZE]
    assert len(written) == len(found.body) + LTIME
    theirs = set(attributes(found.body, INFO_SIZE))
    ours = set(attributes(written, INFO_SIZE))
    (added,) = ours - theirs
    assert theirs <= ours
    assert added.kind == Attr.LTIME_VAL


def test_says_the_usage_where_the_kernel_takes_it_from() -> None:
    sa = replace(GCM_ESN, usage=Usage(1000, 10, 1_700_000_000, 1_700_000_001))
    written = {item.kind: item.value for item in attributes(encode_state(sa), INFO_SIZE)}
    assert written[Attr.LTIME_VAL] == b"".join(
        number.to_bytes(8, "little") for number in (1000, 10, 1_700_000_000, 1_700_000_001)
    )


def test_counts_both_halves_of_an_extended_sequence_number() -> None:
    esn = replace(GCM_ESN, replay=ReplayEsn(5, 6, 1, 2, 128, (0,)))
    assert (esn.sent, esn.received) == (0x1_0000_0005, 0x2_0000_0006)
    plain = replace(CBC, replay=Replay(7, 8, 0))
    assert (plain.sent, plain.received) == (7, 8)
    assert (replace(CBC, replay=None).sent, replace(CBC, replay=None).received) == (0, 0)


def test_keys_stay_out_of_the_repr() -> None:
    key = GCM_ESN.aead or b""
    for shown in (repr(GCM_ESN), str(GCM_ESN)):
        assert repr(key[-20:])[2:-1] not in shown
        assert "rfc4106" not in shown


def test_names_an_sa_as_the_header_lays_it_out() -> None:
    # Made by a C program that fills struct xfrm_usersa_id.
    packed = bytes.fromhex("20010db8000000000000000000000002c0ffee010a003200")
    named = (IPv6Address("2001:db8::2"), Spi(0xC0FFEE01), 50)
    assert encode_identity(*named) == packed
    assert decode_identity(packed) == named


def test_moves_nothing_but_the_addresses() -> None:
    source, destination = ip_address("198.51.100.7"), ip_address("203.0.113.11")
    there = moved(GCM_ESN, source, destination)
    assert (there.source, there.destination) == (source, destination)
    back = replace(there, source=GCM_ESN.source, destination=GCM_ESN.destination)
    assert back == GCM_ESN


def test_refuses_to_move_into_another_family() -> None:
    with pytest.raises(ValueError, match="family"):
        moved(GCM_ESN, ip_address("2001:db8::1"), ip_address("2001:db8::2"))
    with pytest.raises(ValueError, match="family"):
        moved(GCM_ESN, ip_address("2001:db8::1"), GCM_ESN.destination)


def test_refuses_to_move_what_names_its_addresses_in_the_selector() -> None:
    with pytest.raises(ValueError, match="tunnel mode"):
        moved(replace(GCM_ESN, mode=0), GCM_ESN.source, GCM_ESN.destination)


def test_refuses_to_move_what_lives_in_a_device() -> None:
    offloaded = replace(GCM_ESN, others=(Attribute(Attr.OFFLOAD_DEV, bytes(8)),))
    with pytest.raises(ValueError, match="offloaded"):
        moved(offloaded, GCM_ESN.source, GCM_ESN.destination)


def test_refuses_to_go_on_with_keys_of_zeros() -> None:
    shown = GCM_ESN.aead or b""
    hidden = replace(GCM_ESN, aead=shown[:-20] + bytes(20))
    with pytest.raises(ValueError, match="hides the keys"):
        moved(hidden, GCM_ESN.source, GCM_ESN.destination)


def test_a_cipher_without_a_key_hides_nothing() -> None:
    null = replace(CBC, crypt=b"ecb(cipher_null)".ljust(64, b"\0") + bytes(4))
    assert moved(null, CBC.source, CBC.destination) == null


def test_keeps_attributes_that_it_does_not_know() -> None:
    later = attribute(33, b"\x01") + attribute(200, b"whatever")
    (found,) = frames(captured.NEWSA_GCM_ESN)
    sa = decoded(found.body + later)
    assert sa.others == (Attribute(33, b"\x01"), Attribute(200, b"whatever"))
    assert encode_state(sa).endswith(later)


def test_a_mark_without_a_mask_covers_all_bits() -> None:
    body = captured.NEWSA_GCM_ESN[16 : 16 + INFO_SIZE]
    sa = decoded(body + attribute(Attr.SET_MARK, b"\x05\0\0\0"))
    assert sa.set_mark == Mark(5, 0xFFFF_FFFF)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        captured.NEWSA_GCM_ESN[16:239],
        captured.NEWSA_GCM_ESN[16:240] + attribute(Attr.ALG_AEAD, b"short"),
        captured.NEWSA_GCM_ESN[16:240] + attribute(Attr.ALG_AEAD, bytes(64) + b"\xff\0\0\0"),
        captured.NEWSA_GCM_ESN[16:240] + attribute(Attr.REPLAY_ESN_VAL, b"\x81" + bytes(999)),
        captured.NEWSA_GCM_ESN[16:240] + attribute(Attr.REPLAY_ESN_VAL, b"\x01" + bytes(23)),
        captured.NEWSA_GCM_ESN[16:240] + attribute(Attr.IF_ID, b"\x01"),
        captured.NEWSA_GCM_ESN[16:240] + attribute(Attr.ENCAP, bytes(23)),
    ],
    ids=["nothing", "struct", "algorithm", "key", "huge bitmap", "bitmap", "number", "encap"],
)
def test_refuses_what_is_cut_off(broken: bytes) -> None:
    with pytest.raises(PeerError):
        decoded(broken)


u8, u16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)
u32, u64 = st.integers(0, 0xFFFF_FFFF), st.integers(0, 2**64 - 1)


def addresses(version: int) -> st.SearchStrategy[IPAddress]:
    if version == 4:
        return st.builds(IPv4Address, st.integers(0, 2**32 - 1))
    return st.builds(IPv6Address, st.integers(0, 2**128 - 1))


@st.composite
def algorithms(draw: st.DrawFn) -> bytes:
    name = draw(st.text("abcdefghi()0123", max_size=63)).encode()
    key = draw(st.binary(max_size=68))
    return name.ljust(64, b"\0") + (len(key) * 8).to_bytes(4, "little") + key


def kept() -> st.SearchStrategy[tuple[Attribute, ...]]:
    """Attributes without a field of their own: 32 and above."""
    one = st.builds(Attribute, st.integers(32, 0x3FFF), st.binary(max_size=24))
    return st.lists(one, max_size=3).map(tuple)


@st.composite
def sas(draw: st.DrawFn) -> SecurityAssociation:
    version = draw(st.sampled_from((4, 6)))
    marks = st.none() | st.builds(Mark, u32, u32)
    esn = st.builds(ReplayEsn, u32, u32, u32, u32, u32, st.lists(u32, max_size=128).map(tuple))
    return SecurityAssociation(
        source=draw(addresses(version)),
        destination=draw(addresses(version)),
        spi=Spi(draw(u32)),
        protocol=draw(u8),
        reqid=Reqid(draw(u32)),
        mode=draw(u8),
        flags=StateFlag(draw(u8)),
        selector=draw(st.binary(min_size=56, max_size=56)),
        limits=Limits(*draw(st.tuples(*(u64,) * 8))),
        usage=Usage(*draw(st.tuples(*(u64,) * 4))),
        statistics=Statistics(*draw(st.tuples(*(u32,) * 3))),
        acquire=draw(u32),
        replay_window=draw(u8),
        replay=draw(st.none() | st.builds(Replay, u32, u32, u32) | esn),
        aead=draw(st.none() | algorithms()),
        auth=draw(st.none() | algorithms()),
        auth_truncated=draw(st.none() | algorithms()),
        crypt=draw(st.none() | algorithms()),
        compression=draw(st.none() | algorithms()),
        encap=draw(
            st.none() | st.builds(Encap, u16, u16, u16, st.binary(min_size=16, max_size=16))
        ),
        mark=draw(marks),
        set_mark=draw(marks),
        if_id=draw(u32),
        extra_flags=draw(u32),
        others=draw(kept()),
    )


@given(sas())
def test_sas_survive_the_round_trip(sa: SecurityAssociation) -> None:
    assert decoded(encode_state(sa)) == sa


@given(u32, u32)
def test_marks_survive_the_round_trip(value: int, mask: int) -> None:
    (item,) = attributes(encode_mark(Mark(value, mask)))
    assert item == Attribute(
        Attr.MARK, value.to_bytes(4, "little") + mask.to_bytes(4, "little")
    )
    assert encode_mark(None) == b""
