"""A desired state in a real kernel: put once, kept against others, and gone without a trace."""

import asyncio
import contextlib
import errno
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.core.endpoint_state import EndpointState, Inner, endpoint_objects
from orchestrator.core.kernel import (
    ENDPOINT_REQID,
    MARK_UNDERLAY,
    Direction,
    KernelObject,
    Policy,
    Route,
    Template,
    Verdict,
)
from orchestrator.core.paths import Path as NetworkPath
from orchestrator.core.quantities import LinkIndex, TableId
from orchestrator.services.journal import Journal
from orchestrator.services.reconciler import Aspect, Reconciler
from tests.kernel.netns import Namespace, settled

pytestmark = pytest.mark.usefixtures("needs_tun")

PATIENCE = 30.0
SERVER = ip_address("203.0.113.10")
POP = ip_address("192.168.10.2")
WIFI = NetworkPath(LinkIndex(1), "wlan0", POP, ip_address("192.168.10.1"), SERVER)
WIFI6 = NetworkPath(
    LinkIndex(1),
    "wlan0",
    ip_address("2001:db8:66::2"),
    ip_address("2001:db8:66::1"),
    ip_address("2001:db8:113::10"),
)
HELD = EndpointState(
    Inner(),
    (ip_address("10.99.0.2"), ip_address("fd00:99::2")),
    {WIFI: TableId(11101)},
)
ATTACHED = replace(HELD, active=Template(POP, SERVER, ENDPOINT_REQID))

EVERYTHING = (
    "ip rule",
    "ip -6 rule",
    "ip route show table all",
    "ip -6 route show table all",
    "ip xfrm policy",
    "ip -o link",
    "ip -o addr",
    "nft list ruleset",
)


def build(namespace: Namespace) -> None:
    namespace.add_pair("wlan0", "router")
    namespace.ip("addr add 192.168.10.2/24 dev wlan0")


def as_text(namespace: Namespace) -> str:
    return settled(namespace.run(*EVERYTHING))


def in_kernel(state: Path, work: Callable[[Reconciler], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE), Rtnetlink() as rtnetlink:
            with (
                Xfrm() as xfrm,
                contextlib.closing(Reconciler(rtnetlink, xfrm, state, Journal())) as it,
            ):
                await work(it)

    asyncio.run(run())


def test_what_is_wanted_is_there_and_nothing_of_it_is_refused(
    network_namespace: Namespace, tmp_path: Path
) -> None:
    build(network_namespace)
    wanted = endpoint_objects(ATTACHED)

    async def work(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", wanted)
        assert reconciler.failures == ()
        assert set(await reconciler.read(Aspect.ALL)) == set(wanted)
        assert await reconciler.audit(Aspect.ALL) == ()

    in_kernel(tmp_path, work)


def test_holding_replaces_the_policies_out_and_leaves_the_rest(
    network_namespace: Namespace, tmp_path: Path
) -> None:
    build(network_namespace)

    async def work(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", endpoint_objects(ATTACHED))
        await reconciler.apply("endpoint", endpoint_objects(HELD))
        policies = [p for p in await reconciler.read(Aspect.POLICIES) if isinstance(p, Policy)]
        out = {p.verdict for p in policies if p.direction is Direction.OUT}
        outside = [p for p in policies if not p.selector.mark]
        into = {p.verdict for p in outside if p.direction is not Direction.OUT}
        assert (out, into) == ({Verdict.ALLOW}, {Verdict.PROTECT})

    in_kernel(tmp_path, work)


def test_what_is_refused_holds_nothing_else_up_and_is_tried_again(
    network_namespace: Namespace, tmp_path: Path
) -> None:
    build(network_namespace)
    absent = replace(WIFI, link=LinkIndex(7), link_name="wlan7")
    tables = {absent: TableId(11102), WIFI: TableId(11101)}
    wanted = endpoint_objects(replace(ATTACHED, tables=tables))
    over_it = {each for each in wanted if isinstance(each, Route) and each.link == "wlan7"}

    async def work(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", wanted)
        assert [error.errno for error in reconciler.failures] == [errno.ENODEV] * len(over_it)
        assert reconciler.refused is Aspect.ROUTING
        assert set(await reconciler.read(Aspect.ALL)) == set(wanted) - over_it
        network_namespace.ip("link add wlan7 type veth", "link set wlan7 up")
        await reconciler.apply("endpoint", wanted)
        assert reconciler.failures == ()
        assert set(await reconciler.read(Aspect.ALL)) == set(wanted)

    in_kernel(tmp_path, work)
    assert over_it


@pytest.mark.parametrize("doubted", [True, False], ids=["doubted", "control"])
def test_a_route_that_went_with_its_link_is_back_at_once(
    network_namespace: Namespace, tmp_path: Path, *, doubted: bool
) -> None:
    """Its path was gone for so short a time that nobody had dropped it."""
    build(network_namespace)
    gone = endpoint_objects(replace(HELD, tables={}))

    async def work(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", endpoint_objects(ATTACHED))
        network_namespace.ip("link set wlan0 down")
        if doubted:
            reconciler.doubt_routes()
        await reconciler.apply("endpoint", gone)
        network_namespace.ip("link set wlan0 up", "addr replace 192.168.10.2/24 dev wlan0")
        if doubted:
            reconciler.doubt_routes()
        await reconciler.apply("endpoint", endpoint_objects(ATTACHED))
        there = network_namespace.run("ip route show table 11101")
        assert ("default via 192.168.10.1" in there) is doubted
        nowhere = network_namespace.run("ip route show table 11199")
        assert "unreachable default" in nowhere, "nothing leaves over another link meanwhile"

    in_kernel(tmp_path, work)


@pytest.mark.parametrize("last_resort", [False, True], ids=["rule", "control"])
def test_a_gateway_that_was_not_heard_for_a_moment_is_asked_for_again(
    network_namespace: Namespace, tmp_path: Path, *, last_resort: bool
) -> None:
    """With a last resort in the same table, as the control has it, it never is."""
    build(network_namespace)
    pop, gateway = WIFI6.pop, WIFI6.gateway
    network_namespace.ip(f"addr add {pop}/64 dev wlan0", "route add ::/0 dev router")
    state = replace(HELD, tables={WIFI6: TableId(11101)})

    def way() -> str:
        asked = f"ip route get {WIFI6.server} from {pop} mark {MARK_UNDERLAY:#x}"
        try:
            return network_namespace.run(asked)
        except subprocess.CalledProcessError as error:
            return str(error.stderr)

    async def work(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", endpoint_objects(state))
        if last_resort:
            network_namespace.run(
                "ip -6 route add unreachable default table 11101 metric 65535"
            )
        assert f"via {gateway} dev wlan0" in way()
        network_namespace.ip(f"neigh replace {gateway} dev wlan0 nud failed")
        assert ("dev wlan0" in way()) is not last_resort
        # And without the route of its link it leaves over no other.
        network_namespace.run("ip -6 route del default dev wlan0 table 11101")
        assert "No route to host" in way()

    in_kernel(tmp_path, work)


@pytest.mark.parametrize("inner", [Inner(), Inner((ip_network("192.0.0.0/8"),))])
def test_doubting_leaves_one_way_out_and_trusting_opens_the_rest(
    network_namespace: Namespace, tmp_path: Path, inner: Inner
) -> None:
    """Full tunnel, and split tunnel with the service's address among the prefixes."""
    build(network_namespace)
    attached = replace(ATTACHED, inner=inner)
    doubted = replace(attached, active=None, probed=attached.active)

    async def work(reconciler: Reconciler) -> None:
        for state in (attached, doubted, replace(HELD, inner=inner), doubted, attached):
            wanted = {o for o in endpoint_objects(state) if isinstance(o, Policy)}
            await reconciler.apply("endpoint", endpoint_objects(state))
            assert set(await reconciler.read(Aspect.POLICIES)) == wanted
            assert reconciler.failures == ()

    in_kernel(tmp_path, work)


@pytest.mark.parametrize(
    ("meddling", "aspect"),
    [
        ("ip rule del priority 11150", Aspect.ROUTING),
        ("ip route flush table 11100", Aspect.ROUTING),
        ("ip addr flush dev vip0", Aspect.ROUTING),
        ("ip link del vip0", Aspect.ROUTING),
        ("ip xfrm policy flush", Aspect.POLICIES),
        ("nft flush ruleset", Aspect.FIREWALL),
        ("nft flush chain inet orchestrator leaving", Aspect.FIREWALL),
    ],
)
def test_what_others_take_away_is_put_back(
    network_namespace: Namespace, tmp_path: Path, meddling: str, aspect: Aspect
) -> None:
    build(network_namespace)
    wanted = endpoint_objects(ATTACHED)

    async def work(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", wanted)
        network_namespace.run(meddling)
        assert set(await reconciler.read(Aspect.ALL)) != set(wanted), "the negative control"
        assert await reconciler.audit(aspect) != ()
        assert set(await reconciler.read(Aspect.ALL)) == set(wanted)

    in_kernel(tmp_path, work)


def test_an_audit_takes_what_is_half_written_for_nobodys_meddling(
    network_namespace: Namespace, tmp_path: Path
) -> None:
    build(network_namespace)

    async def work(reconciler: Reconciler) -> None:
        applying = asyncio.create_task(reconciler.apply("endpoint", endpoint_objects(ATTACHED)))
        await asyncio.sleep(0)
        assert await reconciler.audit(Aspect.ALL) == ()
        assert applying.done()

    in_kernel(tmp_path, work)


def test_what_waits_to_be_swept_is_nobodys_meddling(
    network_namespace: Namespace, tmp_path: Path
) -> None:
    build(network_namespace)
    without_paths = replace(ATTACHED, tables={})

    async def work(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", endpoint_objects(ATTACHED))
        await reconciler.apply("endpoint", endpoint_objects(without_paths))
        assert await reconciler.audit(Aspect.ALL) == ()
        sweep = asyncio.create_task(reconciler.sweep())
        while set(await reconciler.read(Aspect.ALL)) != set(endpoint_objects(without_paths)):
            pass  # reading lets the sweep go on
        sweep.cancel()

    in_kernel(tmp_path, work)


def test_what_is_swept_while_it_is_read_is_nobodys_meddling(
    network_namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(network_namespace)
    without_paths = replace(ATTACHED, tables={})

    async def work(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", endpoint_objects(ATTACHED))
        await reconciler.apply("endpoint", endpoint_objects(without_paths))
        read, found = reconciler.read, set(endpoint_objects(without_paths))

        async def slowly(aspects: Aspect) -> tuple[KernelObject, ...]:
            seen = await read(aspects)
            while set(await read(Aspect.ALL)) != found:
                pass
            return seen

        monkeypatch.setattr(reconciler, "read", slowly)
        sweep = asyncio.create_task(reconciler.sweep())
        assert await reconciler.audit(Aspect.ALL) == ()
        sweep.cancel()

    in_kernel(tmp_path, work)


def test_what_a_predecessor_wanted_otherwise_goes(
    network_namespace: Namespace, tmp_path: Path
) -> None:
    build(network_namespace)
    split = replace(ATTACHED, inner=Inner(prefixes=(ip_network("10.50.0.0/15"),)))
    wanted = set(endpoint_objects(split))

    async def first(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", endpoint_objects(ATTACHED))

    async def second(reconciler: Reconciler) -> None:
        await reconciler.adopt()
        await reconciler.apply("endpoint", wanted)
        assert set(await reconciler.read(Aspect.ALL)) > wanted, "the negative control"
        await reconciler.audit(Aspect.ALL)
        assert set(await reconciler.read(Aspect.ALL)) == wanted

    in_kernel(tmp_path, first)
    in_kernel(tmp_path, second)


def test_a_successor_adopts_what_it_finds_and_writes_nothing_but_the_firewall(
    network_namespace: Namespace, tmp_path: Path
) -> None:
    build(network_namespace)
    wanted = endpoint_objects(ATTACHED)

    async def first(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", wanted)

    def look() -> str:
        return settled(
            network_namespace.run("ip xfrm policy", "ip rule", "ip route show table all")
        )

    async def second(reconciler: Reconciler) -> None:
        before = look()
        await reconciler.adopt()
        await reconciler.apply("endpoint", wanted)
        after = look()
        assert after == before
        assert reconciler.failures == ()

    in_kernel(tmp_path, first)
    in_kernel(tmp_path, second)


def test_everything_is_removed_as_text_the_same_and_twice_is_fine(
    network_namespace: Namespace, tmp_path: Path
) -> None:
    build(network_namespace)
    before = as_text(network_namespace)

    async def start(reconciler: Reconciler) -> None:
        await reconciler.apply("endpoint", endpoint_objects(ATTACHED))

    async def clean(reconciler: Reconciler) -> None:
        planned = await reconciler.remove_everything(dry_run=True)
        assert as_text(network_namespace) != before, "a dry run removes nothing"
        assert await reconciler.remove_everything(dry_run=False) == planned
        assert await reconciler.remove_everything(dry_run=False) == []

    in_kernel(tmp_path, start)
    in_kernel(tmp_path, clean)
    assert as_text(network_namespace) == before
