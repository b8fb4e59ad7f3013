"""Our routes, rules and addresses in a real kernel, and what is noticed of everybody's."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from orchestrator.adapters.netlink import TOGETHER
from orchestrator.adapters.rtnetlink import NetworkNews, RoutedObject, Rtnetlink
from orchestrator.core.kernel import (
    MARK_UNDERLAY,
    TABLE_INNER,
    Address,
    Route,
    RouteKind,
    Rule,
    Tun,
)
from orchestrator.core.plan import Drop, Put
from orchestrator.core.quantities import IPAddress, TableId
from tests.kernel.adapters.writing import drop, put
from tests.kernel.netns import Namespace

PATH_TABLE = TableId(11101)
PATIENCE = 10.0
OURS: tuple[RoutedObject, ...] = (
    Address("vip0", ip_address("10.99.0.2")),
    Address("vip0", ip_address("fd00:99::2")),
    Route(TABLE_INNER, ip_network("0.0.0.0/0"), link="vip0", source=ip_address("10.99.0.2")),
    Route(TABLE_INNER, ip_network("::/0"), link="vip0", source=ip_address("fd00:99::2")),
    Route(
        PATH_TABLE,
        ip_network("0.0.0.0/0"),
        link="wlan0",
        gateway=ip_address("192.168.10.1"),
    ),
    Route(PATH_TABLE, ip_network("::/0"), link="wlan0", gateway=ip_address("2001:db8::1")),
    Route(TableId(11102), ip_network("::/0"), RouteKind.UNREACHABLE),
    Route(TableId(11102), ip_network("0.0.0.0/0"), RouteKind.UNREACHABLE),
    Route(TableId(11103), ip_network("0.0.0.0/0"), RouteKind.LOCAL, link="lo"),
    Route(TableId(11103), ip_network("::/0"), RouteKind.LOCAL, link="lo"),
    Rule(11101, 4, PATH_TABLE, source=ip_network("192.168.10.2/32"), mark=MARK_UNDERLAY),
    Rule(11140, 6, TableId(254), mark=MARK_UNDERLAY),
    Rule(11160, 4, TableId(254), suppress_prefixlength=0),
    Rule(11170, 4, TABLE_INNER, mark=MARK_UNDERLAY, mark_inverted=True),
    Route(TABLE_INNER, ip_network("10.51.0.0/16"), link="vip0", mtu=1218),
    Route(TABLE_INNER, ip_network("fd00:51::/32"), link="vip0", mtu=1218),
)


def build(namespace: Namespace) -> None:
    namespace.ip(
        "link add wlan0 type veth peer name router",
        "link set wlan0 up",
        "link set router up",
        "tuntap add vip0 mode tun",
    )


def in_kernel(work: Callable[[Rtnetlink], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE), Rtnetlink() as rtnetlink:
            await work(rtnetlink)

    asyncio.run(run())


def test_everything_put_is_read_back_the_same_and_can_be_put_and_dropped_twice(
    network_namespace: Namespace, needs_tun: None
) -> None:
    build(network_namespace)

    async def work(rtnetlink: Rtnetlink) -> None:
        await rtnetlink.configure_tun(Tun("vip0", 1380))
        put(rtnetlink, *OURS * 2)
        assert set(await rtnetlink.present(["vip0"])) == set(OURS)
        drop(rtnetlink, *OURS * 2)
        assert await rtnetlink.present(["vip0"]) == ()

    in_kernel(work)


def test_what_others_have_is_neither_read_nor_dropped(
    network_namespace: Namespace, needs_tun: None
) -> None:
    build(network_namespace)
    network_namespace.ip(
        "addr add 192.168.10.2/24 dev wlan0",
        "route add 10.0.0.0/8 via 192.168.10.1",
        "rule add priority 11101 lookup 77",
    )

    async def work(rtnetlink: Rtnetlink) -> None:
        assert await rtnetlink.present(["vip0"]) == ()

    in_kernel(work)


def test_readers_do_not_get_in_each_others_way(
    network_namespace: Namespace, needs_tun: None
) -> None:
    """The kernel lists many links in several messages, and one list at a time."""
    build(network_namespace)
    network_namespace.ip(*(f"link add many{n} type veth peer name more{n}" for n in range(40)))

    async def work(rtnetlink: Rtnetlink) -> None:
        await rtnetlink.configure_tun(Tun("vip0", 1380))
        snapshot, present, again = await asyncio.gather(
            rtnetlink.snapshot(), rtnetlink.present(["vip0"]), rtnetlink.snapshot()
        )
        assert snapshot == again
        assert rtnetlink.tun_mtu("vip0") == 1380
        assert rtnetlink.tun_mtu("nowhere") is None
        assert {f"many{n}" for n in range(40)} < {link.name for link in snapshot.links}
        assert present == ()

    in_kernel(work)


def addresses(news: NetworkNews) -> set[IPAddress]:
    return {entry.address for entry in news.snapshot.addresses}


async def first(
    rtnetlink: Rtnetlink, when: Callable[[NetworkNews], bool], act: Callable[[], object]
) -> NetworkNews:
    """What is told first, after `act`, that `when` accepts."""
    acted = False
    async for news in rtnetlink.watch():
        if not acted:
            acted = True
            act()
        elif when(news):
            return news
    raise AssertionError("watching never ends by itself")


def test_a_new_address_and_its_gateway_are_noticed(network_namespace: Namespace) -> None:
    build(network_namespace)

    async def work(rtnetlink: Rtnetlink) -> None:
        news = await first(
            rtnetlink,
            lambda news: bool(news.snapshot.gateways),
            lambda: network_namespace.ip(
                "addr add 192.168.10.2/24 dev wlan0",
                "route add default via 192.168.10.1 metric 600",
            ),
        )
        (gateway,) = news.snapshot.gateways
        assert (gateway.address, gateway.metric) == (ip_address("192.168.10.1"), 600)
        usable = {entry.address for entry in news.snapshot.addresses if entry.usable}
        assert ip_address("192.168.10.2") in usable

    in_kernel(work)


def test_what_has_come_together_is_told_at_once(network_namespace: Namespace) -> None:
    """A roam is one change, and nothing is done for what was true for a millisecond."""
    build(network_namespace)
    network_namespace.ip(
        "addr add 192.168.10.2/24 dev wlan0", "route add default via 192.168.10.1"
    )

    async def work(rtnetlink: Rtnetlink) -> None:
        news = await first(
            rtnetlink,
            lambda _: True,
            lambda: network_namespace.ip(
                "addr del 192.168.10.2/24 dev wlan0",
                "addr add 10.0.0.2/24 dev wlan0",
                "route add default via 10.0.0.1",
            ),
        )
        assert gateways(news) == {ip_address("10.0.0.1")}
        assert {each for each in addresses(news) if each.version == 4} == {
            ip_address("127.0.0.1"),
            ip_address("10.0.0.2"),
        }

    in_kernel(work)


def test_a_link_without_carrier_is_down_and_takes_its_gateways_when_disabled(
    network_namespace: Namespace,
) -> None:
    build(network_namespace)
    network_namespace.ip(
        "addr add 192.168.10.2/24 dev wlan0", "route add default via 192.168.10.1"
    )

    async def work(rtnetlink: Rtnetlink) -> None:
        news = await first(
            rtnetlink,
            lambda news: (
                not any(link.up for link in news.snapshot.links if link.name == "wlan0")
            ),
            lambda: network_namespace.ip("link set router down"),
        )
        assert news.snapshot.gateways, "carrier alone takes no route away"
        news = await first(
            rtnetlink,
            lambda news: not news.snapshot.gateways,
            lambda: network_namespace.ip("link set wlan0 down"),
        )
        assert not news.snapshot.gateways

    in_kernel(work)


def test_of_many_at_once_each_is_refused_for_itself(network_namespace: Namespace) -> None:
    build(network_namespace)
    network_namespace.ip("addr add 192.168.10.2/24 dev wlan0")
    good = [
        Route(PATH_TABLE, ip_network(f"10.7.0.{number}/32"), link="wlan0")
        for number in range(TOGETHER)
    ]
    nobodys = [replace(route, source=ip_address("192.0.2.9")) for route in good]
    nowhere = replace(good[0], link="wlan7")
    mixed = [route for pair in zip(good, nobodys, strict=True) for route in pair]
    many = (*nobodys, nowhere, *mixed, good[0])

    async def work(rtnetlink: Rtnetlink) -> None:
        refused = [why and why.errno for why in rtnetlink.write(map(Put, many))]
        no_source = [errno.EINVAL] * TOGETHER
        assert refused == [*no_source, errno.ENODEV, *[None, errno.EINVAL] * TOGETHER, None]
        assert set(await rtnetlink.present([])) == set(good)
        assert rtnetlink.write(map(Drop, many)) == [None] * len(many)
        assert await rtnetlink.present([]) == ()

    in_kernel(work)


def test_a_rule_of_ours_that_somebody_else_deletes_is_told_and_our_own_doing_is_not(
    network_namespace: Namespace,
) -> None:
    build(network_namespace)
    rule = Rule(11160, 4, TableId(254), suppress_prefixlength=0)
    told: list[bool] = []

    async def work(rtnetlink: Rtnetlink) -> None:
        async for news in rtnetlink.watch():
            told.append(news.ours_touched)
            if len(told) == 1:
                put(rtnetlink, rule)
                network_namespace.ip("rule del priority 11160")
            elif news.ours_touched:
                return

    in_kernel(work)
    assert told[-1], "the deletion by `ip` is told"
    assert not any(told[1:-1]), "what we put ourselves is not"


@pytest.mark.usefixtures("needs_tun")
@pytest.mark.parametrize(
    "meddling", ["addr flush dev vip0", "link set vip0 down", "link del vip0"]
)
def test_what_is_taken_from_our_device_is_told(
    network_namespace: Namespace, meddling: str
) -> None:
    build(network_namespace)
    network_namespace.ip("addr add 2001:db8::2/64 dev wlan0")

    async def work(rtnetlink: Rtnetlink) -> None:
        await rtnetlink.configure_tun(Tun("vip0", 1380))
        put(rtnetlink, Address("vip0", ip_address("10.99.0.2")))
        await first(
            rtnetlink,
            lambda news: news.ours_touched,
            lambda: network_namespace.ip(meddling),
        )

    async def control(rtnetlink: Rtnetlink) -> None:
        news = await first(
            rtnetlink,
            lambda news: ip_address("2001:db8::2") not in addresses(news),
            lambda: network_namespace.ip("addr del 2001:db8::2/64 dev wlan0"),
        )
        assert not news.ours_touched, "what is taken from others is not ours"

    in_kernel(work)
    in_kernel(control)


def gateways(news: NetworkNews) -> set[IPAddress | None]:
    return {gateway.address for gateway in news.snapshot.gateways}


@pytest.mark.parametrize(
    "renumber",
    [
        ("addr del 192.168.10.2/24 dev wlan0", "addr add 10.0.0.2/24 dev wlan0",
         "route add default via 10.0.0.1"),
        ("addr add 10.0.0.2/24 dev wlan0", "route replace default via 10.0.0.1"),
        ("addr add 10.0.0.2/24 dev wlan0", "addr del 192.168.10.2/24 dev wlan0",
         "route replace default via 10.0.0.1"),
    ],
)  # fmt: skip
def test_a_gateway_that_went_in_silence_is_forgotten(
    network_namespace: Namespace, renumber: tuple[str, ...]
) -> None:
    build(network_namespace)
    network_namespace.ip(
        "addr add 192.168.10.2/24 dev wlan0", "route add default via 192.168.10.1"
    )

    async def work(rtnetlink: Rtnetlink) -> None:
        await first(
            rtnetlink,
            lambda news: gateways(news) == {ip_address("10.0.0.1")},
            lambda: network_namespace.ip(*renumber),
        )

    in_kernel(work)


def test_routes_of_ours_that_a_link_takes_along_are_missed(
    network_namespace: Namespace,
) -> None:
    build(network_namespace)
    network_namespace.ip("addr add 192.168.10.2/24 dev wlan0")
    route = OURS[4]

    async def work(rtnetlink: Rtnetlink) -> None:
        put(rtnetlink, route)
        await first(
            rtnetlink,
            lambda news: news.ours_touched,
            lambda: network_namespace.ip("link set wlan0 down", "link set wlan0 up"),
        )
        assert route not in await rtnetlink.present([])

    in_kernel(work)


def usable(news: NetworkNews, address: str) -> bool | None:
    """Whether this address may be used; None: it is not there."""
    found = (each for each in news.snapshot.addresses if each.address == ip_address(address))
    return next((each.usable for each in found), None)


def test_an_address_is_used_when_nobody_else_has_it_and_not_before(
    network_namespace: Namespace, make_namespace: Callable[[], Namespace]
) -> None:
    """Duplicate address detection (RFC 4862, 5.4) takes a second, and may fail."""
    neighbour = make_namespace()
    build(network_namespace)
    network_namespace.ip(f"link set router netns {neighbour.path}")
    neighbour.ip("link set router up", "addr add 2001:db8::2/64 dev router nodad")
    Path("/proc/sys/net/ipv6/conf/wlan0/accept_dad").write_text("1")
    own, taken = "2001:db8::3", "2001:db8::2"

    async def work(rtnetlink: Rtnetlink) -> None:
        seen: list[bool | None] = []

        def ready(news: NetworkNews) -> bool:
            seen.append(usable(news, own))
            return seen[-1] is True

        commands = (f"addr add {address}/64 dev wlan0" for address in (own, taken))
        await first(rtnetlink, ready, lambda: network_namespace.ip(*commands))
        assert seen[0] is False, "it was tentative first"
        news = NetworkNews(await rtnetlink.snapshot(), ours_touched=False)
        assert usable(news, own) is True
        assert usable(news, taken) is False, "somebody else has it"
        assert "dadfailed" in network_namespace.run("ip addr show dev wlan0")

    in_kernel(work)
