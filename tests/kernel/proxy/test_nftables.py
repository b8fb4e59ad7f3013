"""The adapter against the kernel's nftables: our table, all of it, and no other."""

import asyncio
import os
import signal
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from orchestrator.adapters import libnftables
from orchestrator.adapters.nftables import Counted, Nftables, NftablesChanges, counters
from orchestrator.core.endpoint_state import SERVICE_PORT
from orchestrator.core.errors import KernelError
from orchestrator.core.firewall import (
    ECHOING,
    HIDDEN_ECHOES,
    ServerCounter,
    ServerFirewall,
    endpoint_ruleset,
    server_ruleset,
)
from orchestrator.core.kernel import Ruleset
from tests.kernel.netns import Namespace
from tests.kernel.proxy.lan import POOLS, PORTS, load_rules

FOREIGN = "table inet foreign {\n chain input { counter; }\n}\n"
ENDPOINT = Ruleset(endpoint_ruleset([], "vip0"))
OTHER_ENDPOINT = Ruleset(endpoint_ruleset([ip_address("10.99.0.7")], "vip0"))
SERVER = Ruleset(server_ruleset(ServerFirewall(["wan0"], POOLS, SERVICE_PORT, PORTS)))


@pytest.fixture
def tables(network_namespace: Namespace) -> Iterator[Namespace]:
    """A namespace that somebody else's firewall lives in, too; it must stay as it is."""
    load_rules(network_namespace, FOREIGN)
    before = network_namespace.run("nft list table inet foreign")
    yield network_namespace
    assert network_namespace.run("nft list table inet foreign") == before


def test_there_is_nothing_before_anything_was_applied(tables: Namespace) -> None:
    assert asyncio.run(Nftables().current()) is None


def test_what_was_applied_is_current_also_the_second_time(tables: Namespace) -> None:
    async def story() -> None:
        ours = Nftables()
        for ruleset in (SERVER, SERVER, ENDPOINT):
            await ours.apply(ruleset)
            assert await ours.current() == ruleset

    asyncio.run(story())
    assert "tproxy" not in tables.run("nft list ruleset")


def test_counters_are_read_by_name(tables: Namespace) -> None:
    assert asyncio.run(counters()) == {}
    asyncio.run(Nftables().apply(SERVER))
    found = asyncio.run(counters())
    assert set(found) == set(ServerCounter)
    assert set(found.values()) == {Counted(0, 0)}
    tables.run("nft insert rule inet orchestrator leaving counter name leak_stopped")
    tables.run("ip link set lo up", "ping -c 1 -s 56 127.0.0.1")
    seen = asyncio.run(counters())[ServerCounter.LEAK_STOPPED]
    assert (seen.packets, seen.octets) == (2, 2 * 84)


@pytest.mark.parametrize(
    "meddling",
    [
        "nft flush chain inet orchestrator leaving",
        "nft add rule inet orchestrator leaving accept",
        "nft insert rule inet orchestrator leaving accept",
        "nft delete element inet orchestrator pool4 { 10.99.0.0/24 }",
        "nft add element inet orchestrator management { 22 }",
    ],
)
def test_what_somebody_else_changed_is_noticed_and_repaired(
    tables: Namespace, meddling: str
) -> None:
    async def story() -> None:
        ours = Nftables()
        await ours.apply(SERVER)
        tables.run(meddling)
        found = await ours.current()
        assert found is not None
        assert found != SERVER
        await ours.apply(SERVER)
        assert await ours.current() == SERVER

    asyncio.run(story())


def test_a_table_that_somebody_else_deleted_is_missed(tables: Namespace) -> None:
    async def story() -> None:
        ours = Nftables()
        await ours.apply(SERVER)
        tables.run("nft delete table inet orchestrator")
        assert await ours.current() is None

    asyncio.run(story())


def test_a_new_daemon_finds_a_table_it_does_not_know(tables: Namespace) -> None:
    asyncio.run(Nftables().apply(SERVER))
    found = asyncio.run(Nftables().current())
    assert found is not None
    assert found != SERVER


def test_counting_packets_is_no_change(tables: Namespace) -> None:
    async def story() -> None:
        ours = Nftables()
        ruleset = Ruleset(
            "table inet orchestrator {\n counter seen { }\n"
            " chain out { type filter hook output priority 0; counter name seen; counter; }\n"
            "}\n"
        )
        await ours.apply(ruleset)
        counter = "nft list counter inet orchestrator seen"
        assert "packets 0 bytes 0" in tables.run(counter)
        tables.run("ping -c 1 127.0.0.1")
        assert "packets 2 " in tables.run(counter)
        assert await ours.current() == ruleset

    asyncio.run(story())


def test_a_ruleset_with_a_fault_names_the_line_and_changes_nothing(tables: Namespace) -> None:
    async def story() -> None:
        ours = Nftables()
        await ours.apply(SERVER)
        faulty = SERVER.text.replace("policy accept;", "policy maybe;", 1)
        (number,) = [
            at for at, line in enumerate(faulty.splitlines(), 1) if "policy maybe" in line
        ]
        with pytest.raises(KernelError, match=rf"line {number}, “.*policy maybe;”: Error"):
            await ours.apply(Ruleset(faulty))
        assert await ours.current() == SERVER

    asyncio.run(story())


def test_removing_is_complete_and_can_be_done_twice(tables: Namespace) -> None:
    async def story() -> None:
        ours = Nftables()
        await ours.apply(SERVER)
        for _ in range(2):
            await ours.remove()
            assert await ours.current() is None

    asyncio.run(story())
    assert "orchestrator" not in tables.run("nft list ruleset")


def test_without_its_library_it_says_what_to_install(
    tables: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libnftables, "__name__", "orchestrator.adapters.nothing")
    with pytest.raises(KernelError, match="install the package nftables"):
        asyncio.run(Nftables().current())


def test_a_change_of_our_table_wakes_who_waits_and_others_do_not(tables: Namespace) -> None:
    async def story() -> None:
        ours = Nftables()
        await ours.apply(ENDPOINT)
        with NftablesChanges(lambda: ours.pid) as changes:
            waiting = asyncio.create_task(changes.wait(), name="waiting")
            tables.run("nft add chain inet foreign other")
            tables.run("nft delete chain inet foreign other")
            await ours.apply(OTHER_ENDPOINT)
            await asyncio.sleep(0.1)
            assert not waiting.done(), "what we write is no news"
            tables.run("nft flush chain inet orchestrator leaving")
            async with asyncio.timeout(5.0):
                await waiting

    asyncio.run(story())


def test_a_process_that_was_killed_or_hangs_is_replaced(
    tables: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        ours = Nftables()
        await ours.apply(ENDPOINT)
        assert ours.pid is not None
        assert os.getpgid(ours.pid) != os.getpgid(0), "Ctrl-C is not for it"
        os.kill(ours.pid, signal.SIGKILL)
        await ours.apply(OTHER_ENDPOINT)
        await ours.apply(ENDPOINT)
        assert await ours.current() == ENDPOINT
        os.kill(ours.pid, signal.SIGSTOP)
        monkeypatch.setattr("orchestrator.adapters.nftables.NFT_SECONDS", 0.2)
        with pytest.raises(KernelError, match="no answer"):
            await ours.apply(OTHER_ENDPOINT)
        monkeypatch.undo()
        assert await ours.current() == ENDPOINT

    asyncio.run(story())


def test_what_comes_and_goes_is_no_change_and_survives_another_load(tables: Namespace) -> None:
    listed = f"nft list set inet orchestrator {HIDDEN_ECHOES}"

    async def story() -> None:
        ours = Nftables()
        await ours.apply(ENDPOINT)
        for elements in (ECHOING, ECHOING, ()):
            await ours.fill(HIDDEN_ECHOES, elements)
            assert ("elements" in tables.run(listed)) is bool(elements)
            assert await ours.current() == ENDPOINT
        await ours.fill(HIDDEN_ECHOES, ECHOING)
        await ours.apply(OTHER_ENDPOINT)
        assert "elements = { tcp }" in tables.run(listed)
        assert await ours.current() == OTHER_ENDPOINT

    asyncio.run(story())
    asyncio.run(Nftables().apply(ENDPOINT))
    assert "elements" not in tables.run(listed), "a new daemon begins anew"


def test_a_set_that_is_not_there_cannot_be_filled(tables: Namespace) -> None:
    async def story() -> None:
        ours = Nftables()
        await ours.apply(SERVER)
        with pytest.raises(KernelError, match="fill"):
            await ours.fill(HIDDEN_ECHOES, ECHOING)
        await ours.apply(SERVER)

    asyncio.run(story())
