"""Policies, and what is told of them: on any kernel with XFRM."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

from orchestrator.adapters.xfrm import Monitor, NewsLost, Xfrm
from orchestrator.core.kernel import (
    ENDPOINT_REQID,
    POLICY_PRIORITY_POOL,
    Direction,
    Policy,
    Selector,
    Template,
    Verdict,
)
from orchestrator.core.quantities import Spi
from orchestrator.wire.netlink_xfrm import PoliciesFlushed, PolicyGone, PolicyPut
from tests.kernel.adapters.writing import drop, put
from tests.kernel.netns import Namespace

ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")
VIP4, VIP6 = ip_network("10.99.0.2/32"), ip_network("fd00:99::2/128")
PATH = Template(ip_address("192.168.10.2"), ip_address("203.0.113.10"), ENDPOINT_REQID)
PATH6 = Template(ip_address("2001:db8:64::2"), ip_address("2001:db8:113::10"), ENDPOINT_REQID)
ANYWHERE = Template(None, None, ENDPOINT_REQID)
NAMED = replace(PATH, spi=Spi(0xA1))

OUT = Policy(Direction.OUT, Selector(VIP4, ANY4), Verdict.PROTECT, PATH)
POLICIES = (
    OUT,
    Policy(Direction.OUT, Selector(VIP6, ANY6), Verdict.PROTECT, NAMED),
    Policy(Direction.IN, Selector(ANY4, VIP4), Verdict.PROTECT, ANYWHERE),
    Policy(Direction.FWD, Selector(ANY6, VIP6), Verdict.PROTECT, ANYWHERE),
    Policy(Direction.OUT, Selector(ANY4, VIP4), Verdict.PROTECT, PATH6),
    Policy(
        Direction.OUT,
        Selector(ANY4, ip_network("10.99.0.0/24")),
        Verdict.ALLOW,
        priority=POLICY_PRIORITY_POOL,
    ),
    Policy(
        Direction.FWD,
        Selector(ip_network("fd00:99::/64"), ANY6),
        Verdict.BLOCK,
        priority=POLICY_PRIORITY_POOL,
    ),
)


def test_reads_policies_back_as_they_were_put(xfrm: Xfrm) -> None:
    put(xfrm, *POLICIES)
    assert set(xfrm.policies()) == set(POLICIES)


def test_putting_a_policy_replaces_the_one_with_its_key(xfrm: Xfrm) -> None:
    hold = Policy(OUT.direction, OUT.selector, Verdict.ALLOW)
    for policy in (OUT, hold, OUT, hold):
        put(xfrm, policy)
        assert xfrm.policies() == (policy,)


def test_putting_a_policy_twice_is_putting_it_once(xfrm: Xfrm) -> None:
    put(xfrm, OUT, OUT)
    assert xfrm.policies() == (OUT,)


def test_drops_a_policy_and_no_other(xfrm: Xfrm) -> None:
    put(xfrm, *POLICIES)
    drop(xfrm, OUT)
    assert set(xfrm.policies()) == set(POLICIES) - {OUT}


def test_dropping_what_is_not_there_is_fine(xfrm: Xfrm) -> None:
    drop(xfrm, OUT)
    assert xfrm.policies() == ()


def test_lists_more_policies_than_fit_into_one_datagram(xfrm: Xfrm) -> None:
    many = {
        replace(OUT, selector=Selector(ip_network(f"10.99.{n // 256}.{n % 256}/32"), ANY4))
        for n in range(500)
    }
    put(xfrm, *many)
    assert set(xfrm.policies()) == many


def test_foreign_policies_are_not_ours(xfrm: Xfrm, network_namespace: Namespace) -> None:
    selector = "src 10.99.0.2/32 dst 10.0.0.{}/32{} dir out"
    template = "tmpl src 192.0.2.1 dst 192.0.2.2 proto {} reqid 1 mode {} level {}"
    network_namespace.run(
        f"ip xfrm policy add {selector.format(1, '')} priority 5",
        f"ip xfrm policy add {selector.format(2, '')} priority 11100 mark 1 mask 0xff",
        f"ip xfrm policy add {selector.format(3, '')} priority 11100 "
        + template.format("esp", "transport", "required"),
        f"ip xfrm policy add {selector.format(4, '')} priority 11100 "
        + template.format("ah", "tunnel", "required"),
        f"ip xfrm policy add {selector.format(5, ' proto tcp dport 80')} priority 11100",
        "ip xfrm policy add dst 10.99.0.2/32 dir in priority 11100 "
        + template.format("esp", "tunnel", "use"),
    )
    assert xfrm.policies() == ()
    put(xfrm, OUT)
    assert xfrm.policies() == (OUT,)


def test_ip_shows_the_policy_that_was_meant(xfrm: Xfrm, network_namespace: Namespace) -> None:
    put(xfrm, POLICIES[2])
    shown = network_namespace.run("ip xfrm policy list")
    assert "src 0.0.0.0/0 dst 10.99.0.2/32" in shown
    assert "dir in priority 11100" in shown
    assert "tmpl src 0.0.0.0 dst 0.0.0.0" in shown
    assert f"proto esp reqid {ENDPOINT_REQID} mode tunnel" in shown
    assert "level use" not in shown  # that would accept what was not protected


# News


def test_hears_of_policies_put_dropped_and_flushed(
    xfrm: Xfrm, monitor: Monitor, network_namespace: Namespace
) -> None:
    put(xfrm, OUT)
    drop(xfrm, OUT)
    put(xfrm, OUT)
    network_namespace.run("ip xfrm policy flush")
    assert monitor.read() == (
        PolicyPut(OUT),
        PolicyGone(OUT),
        PolicyPut(OUT),
        PoliciesFlushed(),
    )
    assert monitor.read() == ()


def test_does_not_hear_of_what_its_own_daemon_does(
    xfrm: Xfrm, network_namespace: Namespace
) -> None:
    with network_namespace.entered(), Monitor(besides=xfrm) as monitor:
        put(xfrm, OUT)
        network_namespace.run("ip xfrm policy flush")
        assert monitor.read() == (PoliciesFlushed(),)


def test_knows_that_it_missed_news(xfrm: Xfrm, monitor: Monitor) -> None:
    put(xfrm, *[OUT] * 6000)
    heard = [type(news) for _ in range(200) for news in monitor.read()]
    assert NewsLost in heard
