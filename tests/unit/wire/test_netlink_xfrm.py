from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.core.kernel import (
    ENDPOINT_REQID,
    POLICY_PRIORITY,
    POLICY_PRIORITY_POOL,
    Direction,
    Policy,
    Selector,
    Template,
    Verdict,
)
from orchestrator.core.quantities import IPAddress, IPNetwork, Reqid, Spi
from orchestrator.wire.netlink import Attribute, Frame, attribute, attributes, frames
from orchestrator.wire.netlink_xfrm import (
    POLICY_SIZE,
    ForeignPolicy,
    MappingChanged,
    Notification,
    PoliciesFlushed,
    PolicyGone,
    PolicyPut,
    StateCounts,
    StateExpired,
    StateGone,
    StatesFlushed,
    decode_policy,
    encode_policy,
    encode_policy_id,
    notification,
)
from orchestrator.wire.xfrm_structs import Attr, Message
from tests.unit.wire import captured

OUT = Policy(
    Direction.OUT,
    Selector(ip_network("10.99.0.2/32"), ip_network("0.0.0.0/0")),
    Verdict.PROTECT,
    Template(ip_address("192.168.10.2"), ip_address("203.0.113.10"), ENDPOINT_REQID),
)
IN = Policy(
    Direction.IN,
    Selector(ip_network("0.0.0.0/0"), ip_network("10.99.0.2/32")),
    Verdict.PROTECT,
    Template(None, None, ENDPOINT_REQID),
)

# The following were made by a C program that fills the structs of linux/xfrm.h.
OUT_6_IN_4 = bytes.fromhex(
    "00000000000000000000000000000000fd0000990000000000000000000000020000000000000000"
    "0a000080000000000000000000000000ffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffff0000000000000000000000000000000000000000000000000000000000000000"
    "00000000000000000000000000000000000000000000000000000000000000005c2b000000000000"
    "010000000000000044000500cb00710a000000000000000000000000000000003200000002000000"
    "c0a80a02000000000000000000000000016f000001000000ffffffffffffffffffffffff"
)
FWD_BLOCK = bytes.fromhex(
    "0a630000000000000000000000000000000000000000000000000000000000000000000000000000"
    "02001800000000000000000000000000ffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffff0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000b62b000000000000"
    "0201000000000000"
)
FWD_ID = bytes.fromhex(
    "0a630000000000000000000000000000000000000000000000000000000000000000000000000000"
    "020018000000000000000000000000000000000002000000"
)
MAPPING = bytes.fromhex(
    "cb00710a0000000000000000000000000000abcd0200320077000000c63364020000000000000000"
    "000000006440000200000000000000000000000011949c41"
)

COUNTS = bytes.fromhex(
    "cb00710a0000000000000000000000000000abcd02003200c0a80a02000000000000000000000000"
    "40000000016f0000"
)


def body_of(datagram: bytes) -> bytes:
    (found,) = frames(datagram)
    return found.body


def decoded(body: bytes) -> Policy | ForeignPolicy:
    return decode_policy(body, tuple(attributes(body, POLICY_SIZE)))


def told(datagram: bytes) -> Notification | None:
    (news,) = frames(datagram)
    return notification(news)


def test_encodes_an_out_policy_as_the_header_lays_it_out() -> None:
    selector = Selector(ip_network("fd00:99::2/128"), ip_network("::/0"))
    assert encode_policy(replace(OUT, selector=selector)) == OUT_6_IN_4


def test_encodes_a_block_as_the_header_lays_it_out() -> None:
    selector = Selector(ip_network("0.0.0.0/0"), ip_network("10.99.0.0/24"))
    policy = Policy(Direction.FWD, selector, Verdict.BLOCK, priority=POLICY_PRIORITY_POOL)
    assert encode_policy(policy) == FWD_BLOCK
    assert encode_policy_id(Direction.FWD, selector) == FWD_ID


def test_reads_the_policies_that_the_kernel_shows() -> None:
    assert told(captured.UPDPOLICY) == PolicyPut(OUT)
    assert told(captured.NEWPOLICY) == PolicyPut(IN)


def test_reads_that_a_policy_is_gone() -> None:
    assert told(captured.DELPOLICY) == PolicyGone(OUT)
    assert told(captured.FLUSHPOLICY) == PoliciesFlushed()


def test_reads_that_a_foreign_policy_expired() -> None:
    foreign = ForeignPolicy(0, ip_network("0.0.0.0/0"), ip_network("10.99.0.3/32"), 1, 16)
    assert told(captured.POLEXPIRE) == PolicyGone(foreign)


def test_a_soft_limit_of_a_policy_is_no_news() -> None:
    soft = bytearray(captured.POLEXPIRE)
    soft[16 + POLICY_SIZE] = 0
    assert told(bytes(soft)) is None


def test_reads_that_an_sa_is_gone() -> None:
    news = told(captured.DELSA)
    assert isinstance(news, StateGone)
    assert (news.state.spi, news.state.if_id) == (0x1234, 9)
    assert news.state.destination == IPv6Address("2001:db8::2")


def test_reads_that_an_sa_expired() -> None:
    news = told(captured.EXPIRE)
    assert isinstance(news, StateExpired)
    assert (news.state.spi, news.hard) == (9, True)


def test_reads_that_all_sas_are_gone() -> None:
    assert notification(Frame(Message.FLUSHSA, 0, 0, 0, b"\x32\0\0\0")) == StatesFlushed()


def test_reads_which_sa_counts() -> None:
    assert notification(Frame(Message.NEWAE, 0, 0, 0, COUNTS)) == StateCounts(Spi(0xABCD))


def test_reads_where_a_peer_has_moved_to() -> None:
    assert notification(Frame(Message.MAPPING, 0, 0, 0, MAPPING)) == MappingChanged(
        destination=IPv4Address("203.0.113.10"),
        spi=Spi(0xABCD),
        reqid=Reqid(0x77),
        old_source=IPv4Address("198.51.100.2"),
        old_port=4500,
        new_source=IPv4Address("100.64.0.2"),
        new_port=40001,
    )


def test_passes_over_messages_of_no_concern() -> None:
    assert notification(Frame(0x1F, 0, 0, 0, b"")) is None


PRIORITY_AT = 152
ACTION_AT = 161
FLAGS_AT = 162
DIRECTION_AT = 160
PORT_AT = 32
TEMPLATE_AT = POLICY_SIZE + 4
OPTIONAL_AT = TEMPLATE_AT + 50
MODE_AT = TEMPLATE_AT + 48
PROTOCOL_AT = TEMPLATE_AT + 20
HOST_BIT_AT = 15


@pytest.mark.parametrize(
    ("at", "octet"),
    [
        (PRIORITY_AT, 1),
        (ACTION_AT, 1),
        (FLAGS_AT, 1),
        (DIRECTION_AT, 3),
        (PORT_AT, 80),
        (OPTIONAL_AT, 1),
        (MODE_AT, 0),
        (PROTOCOL_AT, 51),
        (HOST_BIT_AT, 1),
    ],
    ids=["priority", "block", "flags", "socket", "port", "optional", "mode", "AH", "host bits"],
)
def test_a_policy_that_goes_beyond_ours_is_foreign(at: int, octet: int) -> None:
    body = bytearray(OUT_6_IN_4)
    body[at] = octet
    assert isinstance(decoded(bytes(body)), ForeignPolicy)


@pytest.mark.parametrize(
    "more",
    [
        attribute(Attr.MARK, bytes(8)),
        attribute(Attr.IF_ID, bytes(4)),
        attribute(Attr.POLICY_TYPE, b"\x01\0\0\0\0\0"),
        OUT_6_IN_4[POLICY_SIZE:],
    ],
    ids=["mark", "interface", "sub policy", "second template"],
)
def test_a_policy_that_has_more_than_ours_is_foreign(more: bytes) -> None:
    assert isinstance(decoded(OUT_6_IN_4 + more), ForeignPolicy)


def test_a_policy_of_the_main_type_is_ours() -> None:
    assert isinstance(decoded(OUT_6_IN_4 + attribute(Attr.POLICY_TYPE, bytes(6))), Policy)


def test_refuses_to_leave_the_outer_addresses_of_an_out_policy_open() -> None:
    template = Template(None, ip_address("203.0.113.10"), ENDPOINT_REQID)
    with pytest.raises(ValueError, match="both outer addresses"):
        encode_policy(replace(OUT, template=template))


def test_refuses_templates_and_selectors_of_two_families() -> None:
    template = Template(ip_address("2001:db8::1"), ip_address("203.0.113.10"), ENDPOINT_REQID)
    with pytest.raises(ValueError, match="two families"):
        encode_policy(replace(OUT, template=template))
    selector = Selector(ip_network("10.99.0.2/32"), ip_network("::/0"))
    with pytest.raises(ValueError, match="two families"):
        encode_policy(replace(OUT, selector=selector))


@pytest.mark.parametrize("cut", [0, 55, POLICY_SIZE - 1, POLICY_SIZE + 3, POLICY_SIZE + 20])
def test_refuses_policies_that_are_cut_off(cut: int) -> None:
    with pytest.raises(PeerError):
        decoded(OUT_6_IN_4[:cut])


def test_refuses_a_deletion_that_does_not_say_of_what() -> None:
    for kind in (Message.DELPOLICY, Message.DELSA):
        with pytest.raises(PeerError):
            notification(Frame(kind, 0, 0, 0, bytes(64)))


def networks(version: int) -> st.SearchStrategy[IPNetwork]:
    if version == 4:
        return st.builds(
            lambda number, length: IPv4Network((number, length), strict=False),
            st.integers(0, 2**32 - 1),
            st.integers(0, 32),
        )
    return st.builds(
        lambda number, length: IPv6Network((number, length), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    )


def addresses(version: int) -> st.SearchStrategy[IPAddress]:
    # 0 is the any-address, which is None in a template.
    if version == 4:
        return st.builds(IPv4Address, st.integers(1, 2**32 - 1))
    return st.builds(IPv6Address, st.integers(1, 2**128 - 1))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    version = draw(st.sampled_from((4, 6)))
    outer = draw(st.sampled_from((4, 6)))
    direction = draw(st.sampled_from(Direction))
    verdict = draw(st.sampled_from(Verdict))
    marks = st.just(0) | st.integers(1, 2**32 - 1)
    ends = st.none() | addresses(outer)
    if direction is Direction.OUT:
        ends = addresses(outer)
    reqids = st.builds(Reqid, st.integers(0, 2**32 - 1))
    spis = st.none() | st.builds(Spi, st.integers(1, 2**32 - 1))
    template = st.builds(Template, ends, ends, reqids, spis)
    return Policy(
        direction,
        Selector(draw(networks(version)), draw(networks(version)), draw(marks)),
        verdict,
        draw(template) if verdict is Verdict.PROTECT else None,
        draw(st.sampled_from((POLICY_PRIORITY, POLICY_PRIORITY_POOL))),
    )


@given(policies())
def test_policies_survive_the_round_trip(policy: Policy) -> None:
    assert decoded(encode_policy(policy)) == policy


@given(policies())
def test_what_is_dropped_is_named_as_it_was_put(policy: Policy) -> None:
    named = encode_policy_id(policy.direction, policy.selector)
    assert named[:56] == encode_policy(policy)[:56]
    assert named[60] == policy.direction
    assert (named[64:] in encode_policy(policy)) == bool(policy.selector.mark or not named[64:])


def test_attributes_may_come_in_any_order() -> None:
    body = OUT_6_IN_4[:POLICY_SIZE]
    template = Attribute(Attr.TMPL, OUT_6_IN_4[TEMPLATE_AT:])
    kind = Attribute(Attr.POLICY_TYPE, bytes(6))
    assert decode_policy(body, (template, kind)) == decode_policy(body, (kind, template))
