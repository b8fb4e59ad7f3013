"""NETLINK_XFRM messages: requests out, answers and notifications in (pyroute2 has none).

Layouts from include/uapi/linux/xfrm.h, behaviour from net/xfrm/xfrm_user.c. Bodies only: the
framing is `wire.netlink`, an SA is `wire.xfrm_state`. Pure; malformed input raises PeerError.

A policy is ours when its priority says so and nothing in it goes beyond what `core.kernel`
can say; everything else is foreign, and never touched.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final

from orchestrator.core.errors import PeerError
from orchestrator.core.kernel import (
    POLICY_PRIORITY,
    POLICY_PRIORITY_FLOWS,
    POLICY_PRIORITY_LOCAL,
    POLICY_PRIORITY_POOL,
    POLICY_PRIORITY_PROBE,
    POLICY_PRIORITY_SERVICE,
    Direction,
    Policy,
    Selector,
    Template,
    Verdict,
)
from orchestrator.core.quantities import IPAddress, IPNetwork, Reqid, Spi
from orchestrator.wire.netlink import Attribute, Frame, attribute, attributes
from orchestrator.wire.security_association import SecurityAssociation
from orchestrator.wire.xfrm_state import (
    IDENTITY_SIZE,
    INFO_SIZE,
    decode_identity,
    decode_state,
)
from orchestrator.wire.xfrm_structs import (
    IPPROTO_ESP,
    LIMITS,
    MARK,
    MODE_TUNNEL,
    SELECTOR,
    UNLIMITED,
    USAGE,
    Attr,
    Message,
    family_of,
    network,
    pack_address,
    pack_selector,
    unpack,
    unpack_address,
    unpack_selector,
)

_POLICY_TAIL: Final = Struct("=IIBBBB4x")
"""priority, index, dir, action, flags, share of struct xfrm_userpolicy_info"""
_POLICY_ID_TAIL: Final = Struct("=IB3x")
"""index, dir of struct xfrm_userpolicy_id"""
_TEMPLATE: Final = Struct("=16s4sB3xH2x16sIBBBxIII")
"""struct xfrm_user_tmpl: 64 octets"""
_HARD: Final = Struct("=B7x")
_MAPPING: Final = Struct("=I16s16s2s2s")
"""struct xfrm_user_mapping behind its identity: reqid, addresses, ports in network order"""

_AT_POLICY_TAIL: Final = SELECTOR.size + LIMITS.size + USAGE.size
POLICY_SIZE: Final = _AT_POLICY_TAIL + _POLICY_TAIL.size
"""struct xfrm_userpolicy_info: 168 octets"""
POLICY_ID_SIZE: Final = SELECTOR.size + _POLICY_ID_TAIL.size

_ALLOW: Final = 0
_BLOCK: Final = 1
_ANY_ALGORITHM: Final = 0xFFFF_FFFF
_NO_LIMITS: Final = LIMITS.pack(*(UNLIMITED,) * 4, *(0,) * 4)
_ANY_SPI: Final = 0
_WHOLE_MARK: Final = 0xFFFF_FFFF
_DIRECTIONS: Final = frozenset(int(direction) for direction in Direction)
_OUR_PRIORITIES: Final = frozenset(
    {
        POLICY_PRIORITY_LOCAL,
        POLICY_PRIORITY_FLOWS,
        POLICY_PRIORITY_PROBE,
        POLICY_PRIORITY_SERVICE,
        POLICY_PRIORITY,
        POLICY_PRIORITY_POOL,
    }
)


@dataclass(frozen=True, slots=True)
class ForeignPolicy:
    """A policy of somebody else."""

    direction: int
    """Above 2: of a socket."""
    source: IPNetwork
    destination: IPNetwork
    priority: int
    index: int


@dataclass(frozen=True, slots=True)
class PolicyPut:
    policy: Policy | ForeignPolicy


@dataclass(frozen=True, slots=True)
class PolicyGone:
    """Deleted, or expired for good."""

    policy: Policy | ForeignPolicy


@dataclass(frozen=True, slots=True)
class PoliciesFlushed:
    """All policies are gone, of whomever."""


@dataclass(frozen=True, slots=True)
class StatePut:
    state: SecurityAssociation


@dataclass(frozen=True, slots=True)
class StateGone:
    """Deleted; the counters are final: the kernel sends nothing through a deleted SA."""

    state: SecurityAssociation


@dataclass(frozen=True, slots=True)
class StateExpired:
    """A limit is reached; after a hard one the SA is deleted. `state` has no keys."""

    state: SecurityAssociation
    hard: bool


@dataclass(frozen=True, slots=True)
class StatesFlushed:
    """All SAs are gone, of whomever."""


@dataclass(frozen=True, slots=True)
class MappingChanged:
    """An authentic packet came from another address or port than the inbound SA has: the
    peer moved, or its NAT did."""

    destination: IPAddress
    spi: Spi
    reqid: Reqid
    old_source: IPAddress
    old_port: int
    new_source: IPAddress
    new_port: int


@dataclass(frozen=True, slots=True)
class StateCounts:
    """Packets went through the SA (xfrm_replay_notify, net/xfrm/xfrm_replay.c): two or more
    since it was told of last, or the first after a second without any."""

    spi: Spi


Notification = (
    PolicyPut
    | PolicyGone
    | PoliciesFlushed
    | StatePut
    | StateGone
    | StateExpired
    | StatesFlushed
    | StateCounts
    | MappingChanged
)


def encode_policy(policy: Policy) -> bytes:
    """struct xfrm_userpolicy_info and the template: the body of NEWPOLICY and UPDPOLICY.

    Raises ValueError where the selector or the template joins two families, and where an out
    policy leaves the outer addresses open.
    """
    selector = policy.selector
    body = (
        pack_selector(selector.source, selector.destination)
        + _NO_LIMITS
        + bytes(USAGE.size)
        + _POLICY_TAIL.pack(
            policy.priority,
            0,
            policy.direction,
            _BLOCK if policy.verdict is Verdict.BLOCK else _ALLOW,
            0,
            0,
        )
    )
    body += _encode_mark(selector)
    if policy.template is None:
        return body
    family = _template_family(policy.template, policy.direction, family_of(selector.source))
    return body + attribute(Attr.TMPL, _encode_template(policy.template, family))


def _template_family(template: Template, direction: Direction, inner: int) -> int:
    """The family of the outer addresses; of the inner ones where both are open."""
    ends = template.source, template.destination
    families = {family_of(end) for end in ends if end is not None}
    if len(families) > 1:
        raise ValueError(f"a template of two families: {template}")
    if direction is Direction.OUT and None in ends:
        raise ValueError(f"an out policy needs both outer addresses: {template}")
    return families.pop() if families else inner


def _encode_template(template: Template, family: int) -> bytes:
    # `optional` is 0: with 1 an in policy would accept packets that were not protected.
    return _TEMPLATE.pack(
        pack_address(template.destination),
        (template.spi or _ANY_SPI).to_bytes(4, "big"),
        IPPROTO_ESP,
        family,
        pack_address(template.source),
        template.reqid,
        MODE_TUNNEL,
        0,
        0,
        _ANY_ALGORITHM,
        _ANY_ALGORITHM,
        _ANY_ALGORITHM,
    )


def encode_policy_id(direction: Direction, selector: Selector) -> bytes:
    """struct xfrm_userpolicy_id and the mark, what GETPOLICY and DELPOLICY go by."""
    packed = pack_selector(selector.source, selector.destination)
    return packed + _POLICY_ID_TAIL.pack(0, direction) + _encode_mark(selector)


def _encode_mark(selector: Selector) -> bytes:
    if not selector.mark:
        return b""
    return attribute(Attr.MARK, MARK.pack(selector.mark, _WHOLE_MARK))


def decode_policy(info: bytes, found: tuple[Attribute, ...]) -> Policy | ForeignPolicy:
    """A policy from its struct xfrm_userpolicy_info and the attributes beside it.

    Raises PeerError.
    """
    raw = unpack_selector(info)
    source = network(raw.source, raw.source_length, raw.family)
    destination = network(raw.destination, raw.destination_length, raw.family)
    priority, index, direction, action, flags, _ = unpack(_POLICY_TAIL, info, _AT_POLICY_TAIL)
    foreign = ForeignPolicy(direction, source, destination, priority, index)
    plain = (
        priority in _OUR_PRIORITIES
        and direction in _DIRECTIONS
        and flags == 0
        and raw == unpack_selector(pack_selector(source, destination))
        and all(_is_plain(item) for item in found)
    )
    mark, mask = next(
        (unpack(MARK, item.value) for item in found if item.kind == Attr.MARK), (0, _WHOLE_MARK)
    )
    if not plain or mask != _WHOLE_MARK:
        return foreign
    templates = b"".join(item.value for item in found if item.kind == Attr.TMPL)
    selector = Selector(source, destination, mark)
    if action == _ALLOW and templates:
        template = _decode_template(templates)
        if template is None:
            return foreign
        return Policy(Direction(direction), selector, Verdict.PROTECT, template, priority)
    if templates:
        return foreign
    verdict = Verdict.BLOCK if action == _BLOCK else Verdict.ALLOW
    return Policy(Direction(direction), selector, verdict, priority=priority)


def _is_plain(item: Attribute) -> bool:
    """Whether our own policies have such an attribute; the policy's type must be main, 0."""
    if item.kind == Attr.POLICY_TYPE:
        return not any(item.value)
    return item.kind in (Attr.TMPL, Attr.POLICY, Attr.MARK)


def _decode_template(packed: bytes) -> Template | None:
    """None when it is not such a template as we make, or more than one."""
    destination, spi, protocol, family, source, reqid, mode, _, optional, *algorithms = unpack(
        _TEMPLATE, packed
    )
    if len(packed) != _TEMPLATE.size:
        return None
    shape = protocol, mode, optional, *algorithms
    ours = IPPROTO_ESP, MODE_TUNNEL, 0, *(_ANY_ALGORITHM,) * 3
    if shape != ours:
        return None
    number = int.from_bytes(spi, "big")
    return Template(
        _open_end(source, family),
        _open_end(destination, family),
        Reqid(reqid),
        None if number == _ANY_SPI else Spi(number),
    )


def _open_end(packed: bytes, family: int) -> IPAddress | None:
    address = unpack_address(packed, family)
    return None if address.is_unspecified else address


def policy_in(answer: Frame) -> Policy | ForeignPolicy:
    """The policy of a NEWPOLICY or UPDPOLICY. Raises PeerError."""
    return decode_policy(answer.body, tuple(attributes(answer.body, POLICY_SIZE)))


def state_in(answer: Frame) -> SecurityAssociation:
    """The SA of a NEWSA or UPDSA. Raises PeerError."""
    return decode_state(answer.body, attributes(answer.body, INFO_SIZE))


def notification(news: Frame) -> Notification | None:
    """What happened; None for messages that are no concern of ours. Raises PeerError."""
    match news.kind:
        case Message.NEWPOLICY | Message.UPDPOLICY:
            return PolicyPut(policy_in(news))
        case Message.DELPOLICY:
            found = tuple(attributes(news.body, POLICY_ID_SIZE))
            return PolicyGone(decode_policy(_inner(found, Attr.POLICY), found))
        case Message.POLEXPIRE:
            (hard,) = unpack(_HARD, news.body, POLICY_SIZE)
            found = tuple(attributes(news.body, POLICY_SIZE + _HARD.size))
            return PolicyGone(decode_policy(news.body, found)) if hard else None
        case Message.FLUSHPOLICY:
            return PoliciesFlushed()
        case Message.NEWSA | Message.UPDSA:
            return StatePut(state_in(news))
        case Message.DELSA:
            found = tuple(attributes(news.body, IDENTITY_SIZE))
            return StateGone(decode_state(_inner(found, Attr.SA), found))
        case Message.EXPIRE:
            (hard,) = unpack(_HARD, news.body, INFO_SIZE)
            found = tuple(attributes(news.body, INFO_SIZE + _HARD.size))
            return StateExpired(decode_state(news.body, found), bool(hard))
        case Message.FLUSHSA:
            return StatesFlushed()
        case Message.NEWAE:
            return StateCounts(decode_identity(news.body)[1])
        case Message.MAPPING:
            return _decode_mapping(news.body)
    return None


def _inner(found: tuple[Attribute, ...], kind: Attr) -> bytes:
    for item in found:
        if item.kind == kind:
            return item.value
    raise PeerError(f"xfrm: a deletion without its {kind.name}")


def _decode_mapping(body: bytes) -> MappingChanged:
    destination, spi, _ = decode_identity(body)
    family = family_of(destination)
    reqid, old, new, old_port, new_port = unpack(_MAPPING, body, IDENTITY_SIZE)
    return MappingChanged(
        destination,
        spi,
        Reqid(reqid),
        unpack_address(old, family),
        int.from_bytes(old_port, "big"),
        unpack_address(new, family),
        int.from_bytes(new_port, "big"),
    )
