"""How our kernel objects are called in sentences."""

from ipaddress import ip_address, ip_network

import pytest

from orchestrator.core.kernel import (
    ENDPOINT_REQID,
    MARK_UNDERLAY,
    TABLE_INNER,
    TUN_ENDPOINT,
    Address,
    Direction,
    KernelObject,
    Policy,
    Route,
    RouteKind,
    Rule,
    Ruleset,
    Selector,
    Sysctl,
    Template,
    Tun,
    Verdict,
)
from orchestrator.core.quantities import TableId

VIP, POP, GATEWAY, SERVER = (
    ip_address(each) for each in ("10.99.0.2", "192.168.10.2", "192.168.10.1", "203.0.113.10")
)
ALL4, ALL6 = ip_network("0.0.0.0/0"), ip_network("::/0")
OWN = Selector(ip_network("10.99.0.2/32"), ALL4)
TUNNEL = Template(POP, SERVER, ENDPOINT_REQID)
POP_ALONE = ip_network("192.168.10.2/32")
UNREACHABLE = RouteKind.UNREACHABLE


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        (Tun(TUN_ENDPOINT, 1400), "the device vip0"),
        (Address(TUN_ENDPOINT, VIP), "the address 10.99.0.2 on vip0"),
        (
            Route(TABLE_INNER, ALL4, link=TUN_ENDPOINT, source=VIP),
            "the route default dev vip0 table 11100",
        ),
        (
            Route(TableId(11101), ALL4, link="eth0", gateway=GATEWAY),
            "the route default via 192.168.10.1 dev eth0 table 11101",
        ),
        (Route(TABLE_INNER, ALL6, UNREACHABLE), "the route unreachable ::/0 table 11100"),
        (
            Rule(11101, 4, TableId(11101), source=POP_ALONE, mark=MARK_UNDERLAY),
            "the rule 11101 from 192.168.10.2 fwmark 0x6f000000",
        ),
        (Rule(11101, 4, TABLE_INNER, source=POP_ALONE), "the rule 11101 from 192.168.10.2"),
        (
            Rule(11190, 6, TABLE_INNER, mark=MARK_UNDERLAY, mark_inverted=True),
            "the IPv6 rule 11190 not fwmark 0x6f000000",
        ),
        (
            Policy(Direction.OUT, OWN, Verdict.PROTECT, TUNNEL),
            "the policy out 10.99.0.2/32 -> 0.0.0.0/0",
        ),
        (Ruleset("table inet orchestrator {\n}\n"), "the firewall table inet orchestrator"),
        (Sysctl("net/ipv4/ip_forward", "1"), "the setting net/ipv4/ip_forward"),
    ],
)
def test_each_has_a_name_that_people_read(subject: KernelObject, words: str) -> None:
    assert str(subject) == words
