"""What peers of an absent endpoint send beyond the limit of memory: kept on disk."""

import contextlib
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.allowance import Shortage
from orchestrator.core.relay_events import Outcome, Phase
from tests.kernel.proxy.conftest import Proxied
from tests.kernel.proxy.handing import Replaceable
from tests.kernel.proxy.keeping import LIMIT, MIB, Stuck, octets, spooling, stuck
from tests.kernel.proxy.lan import limited, receive, until

SIZE = 8 * MIB
AHEAD = 128 * 1024
"""What the spool's limits leave unused at most: less than a chunk; and its headers."""


def until_spooled(proxied: Proxied, flows: Stuck, count: int = 1) -> None:
    """The endpoint goes away, and all that the peer has is taken."""
    proxied.lan.detach()
    flows.pour_until(lambda: all(sender.done for sender in flows.senders))
    until(lambda: all(flow.spooled for flow in proxied.flows()))
    assert len(proxied.flows()) == count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_an_absent_endpoints_peer_is_acknowledged_beyond_memory_and_all_arrives(
    proxied: Proxied, folder: Path
) -> None:
    proxied.configure(spooling(folder))
    with stuck(proxied, 3, SIZE) as flows:
        until_spooled(proxied, flows, 3)
        disk = proxied.counters().disk
        assert 3 * (SIZE - LIMIT) < disk.octets < 3 * SIZE
        assert disk.waiting == 0
        assert list(folder.iterdir()) == [], "a crash would leave it behind"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert proxied.counters().memory.octets <= 3 * LIMIT
        proxied.lan.attach()
        flows.all_arrives()
        assert proxied.counters().disk.octets == 0
        assert not any(flow.spooled for flow in proxied.flows())


def test_without_a_spool_its_peer_waits(proxied: Proxied) -> None:
    proxied.configure(limited(octets_per_flow=LIMIT))
    with stuck(proxied, 1, SIZE) as flows:
        proxied.lan.detach()
        flows.pour()
        flows.pour()
        assert 0 < flows.acknowledged <= LIMIT
        proxied.lan.attach()
        flows.all_arrives()


def test_nothing_is_spooled_for_an_application_that_does_not_read(
    proxied: Proxied, folder: Path
) -> None:
    proxied.configure(spooling(folder))
    with stuck(proxied, 1, SIZE) as flows:
        flows.pour()
        flows.pour()
        assert proxied.counters().disk.octets == 0
        flows.all_arrives()


@pytest.mark.parametrize("limit", list(Shortage))
def test_at_a_limit_of_the_spool_the_window_closes_and_nothing_is_lost(
    proxied: Proxied, folder: Path, limit: Shortage
) -> None:
    limits = {
        Shortage.STREAM: (MIB, 8 * MIB, 8 * MIB),
        Shortage.SESSION: (2 * MIB, 2 * MIB, 8 * MIB),
        Shortage.ALL: (2 * MIB, 2 * MIB, 2 * MIB),
    }[limit]
    count, most = 2, 2 * MIB
    proxied.configure(spooling(folder, *limits))
    before = dict(proxied.counters().disk.met)[limit]
    with stuck(proxied, count, SIZE) as flows:
        proxied.lan.detach()
        flows.pour_until(lambda: proxied.counters().disk.waiting > 0)
        flows.pour_until(lambda: proxied.counters().disk.octets > most - count * AHEAD)
        disk = proxied.counters().disk
        assert most - count * AHEAD < disk.octets <= most
        assert most < flows.acknowledged <= most + count * LIMIT
        # In all is looked at last: who meets it has met its session's first, with these limits.
        met = dict(disk.met)
        assert limit is Shortage.ALL or met[limit] > before
        assert disk.since is not None
        proxied.lan.attach()
        flows.all_arrives()
        assert proxied.counters().disk_failures == 0


def test_a_fin_waits_behind_what_is_spooled(proxied: Proxied, folder: Path) -> None:
    proxied.configure(spooling(folder))
    with stuck(proxied, 1, SIZE) as flows:
        (endpoint,), (sender,) = flows.endpoints, flows.senders
        until_spooled(proxied, flows)
        sender.sock.shutdown(socket.SHUT_WR)
        proxied.lan.attach()
        assert receive(endpoint, SIZE + 1) == sender.content
        endpoint.sendall(b"half open")
        assert receive(sender.sock, 9) == b"half open"
        endpoint.close()
        until(lambda: proxied.counters().open == 0)
        assert proxied.tally()[Outcome.FINISHED] == 1


def test_a_peer_that_is_gone_has_all_of_it_delivered(proxied: Proxied, folder: Path) -> None:
    proxied.configure(spooling(folder))
    with stuck(proxied, 1, SIZE) as flows:
        (endpoint,), (sender,) = flows.endpoints, flows.senders
        endpoint.shutdown(socket.SHUT_WR)
        assert sender.sock.recv(1) == b""
        until_spooled(proxied, flows)
        sender.sock.close()
        proxied.lan.attach()
        assert receive(endpoint, SIZE + 1) == sender.content
    until(lambda: proxied.counters().open == 0)
    assert proxied.tally()[Outcome.FINISHED] == 1


def test_a_reset_waits_behind_what_is_spooled(proxied: Proxied, folder: Path) -> None:
    proxied.configure(spooling(folder))
    with stuck(proxied, 1, SIZE) as flows:
        (endpoint,), (sender,) = flows.endpoints, flows.senders
        until_spooled(proxied, flows)
        sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sender.sock.close()
        until(lambda: proxied.flows()[0].state is Phase.RESETTING)
        proxied.lan.attach()
        assert receive(endpoint, SIZE) == sender.content
        with pytest.raises(ConnectionResetError):
            endpoint.recv(1)
    until(lambda: proxied.counters().open == 0)
    assert proxied.tally()[Outcome.RESET_BY_PEER] == 1
    assert proxied.counters().disk.octets == 0


def test_what_the_endpoint_resets_is_not_kept(proxied: Proxied, folder: Path) -> None:
    proxied.configure(spooling(folder))
    with stuck(proxied, 1, SIZE) as flows:
        until_spooled(proxied, flows)
        (endpoint,) = flows.endpoints
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        proxied.lan.attach()
        endpoint.close()
        until(lambda: proxied.counters().open == 0)
    disk = proxied.counters().disk
    assert (disk.octets, disk.waiting) == (0, 0)


# ---- the disk


@contextlib.contextmanager
def tiny_disk(folder: Path, size: int) -> Iterator[None]:
    folder.mkdir(mode=0o700)
    subprocess.run(
        ("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", folder), check=True
    )
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", folder), check=True)


def test_a_full_disk_closes_the_window_and_nothing_is_lost(
    own_proxied: Proxied, folder: Path
) -> None:
    with tiny_disk(folder, 2 * MIB):
        own_proxied.configure(spooling(folder))
        with stuck(own_proxied, 1, SIZE) as flows:
            own_proxied.lan.detach()
            flows.pour_until(lambda: own_proxied.counters().disk_failures > 0)
            assert MIB < own_proxied.counters().disk.octets <= 2 * MIB
            assert flows.acknowledged <= 2 * MIB + LIMIT
            assert "the disk is full" in (own_proxied.counters().disk_problem or "")
            own_proxied.lan.attach()
            flows.all_arrives()
            assert own_proxied.counters().disk_lost == 0


def test_a_folder_that_somebody_else_may_write_is_not_used(
    proxied: Proxied, folder: Path
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    proxied.configure(spooling(folder))
    assert "somebody else may write there" in (proxied.counters().disk_problem or "")
    folder.chmod(0o700)
    until(lambda: proxied.counters().disk_problem is None)


def test_a_folder_that_somebody_removed_is_made_again(proxied: Proxied, folder: Path) -> None:
    proxied.configure(spooling(folder))
    folder.rmdir()
    with stuck(proxied, 2, SIZE) as flows:
        until_spooled(proxied, flows, 2)
        assert proxied.counters().disk_problem is None
        proxied.lan.attach()
        flows.all_arrives()


def test_what_a_killed_worker_left_is_removed(proxied: Proxied, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "flow-0123").write_bytes(b"left")
    (folder / "precious").write_bytes(b"not ours")
    proxied.configure(spooling(folder))
    assert [path.name for path in folder.iterdir()] == ["precious"]


def test_octets_that_the_disk_changed_reach_nobody(own_proxied: Proxied, folder: Path) -> None:
    own_proxied.configure(spooling(folder))
    with stuck(own_proxied, 1, SIZE) as flows:
        (endpoint,), (sender,) = flows.endpoints, flows.senders
        until_spooled(own_proxied, flows)
        opened_there = own_proxied.descriptors().items()
        (file,) = (path for path, target in opened_there if "flow-" in target.name)
        with file.open("r+b") as opened:
            opened.seek(4 * MIB)
            opened.write(bytes(4096))
        own_proxied.lan.attach()
        got = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while part := endpoint.recv(1 << 16):
                got += part
        assert len(got) < SIZE
        assert sender.content.startswith(got)
        until(lambda: own_proxied.counters().open == 0)
    assert own_proxied.tally()[Outcome.SPOOL_LOST] == 1
    assert 0 < own_proxied.counters().disk_lost < SIZE


# ---- another worker


def test_what_is_spooled_goes_over_to_the_next_worker(
    own_proxied: Proxied, folder: Path
) -> None:
    own_proxied.configure(spooling(folder))
    worker = Replaceable(own_proxied)
    with worker.stack, stuck(own_proxied, 3, SIZE) as flows:
        until_spooled(own_proxied, flows, 3)
        before = own_proxied.counters().disk
        sender = flows.senders[0]
        sender.sock.shutdown(socket.SHUT_WR)
        assert (worker.replace().flows, worker.replace().lost) == (3, 0)
        assert own_proxied.counters().disk.octets == before.octets
        # Away still: what comes now goes behind it.
        flows.senders[1].content += octets(MIB, 9)
        flows.senders[1].pour()
        until(lambda: flows.senders[1].done)
        own_proxied.lan.attach()
        assert receive(flows.endpoints[0], SIZE + 1) == sender.content
        Stuck(flows.endpoints[1:], flows.senders[1:]).all_arrives()
        until(lambda: own_proxied.counters().disk.octets == 0)
