import errno
import json
import os
import pwd
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters.tun import TunDevice
from orchestrator.core.errors import KernelError
from tests.kernel.adapters.devices import wait_until_awake
from tests.kernel.netns import Namespace

NAME = "vip0"
QUEUED = 500
"""TUN_READQ_SIZE, drivers/net/tun.c."""
pytestmark = pytest.mark.usefixtures("needs_tun")


@pytest.fixture
def tun(network_namespace: Namespace) -> Iterator[TunDevice]:
    with TunDevice.open(NAME) as opened:
        network_namespace.run(
            "ip addr add 10.99.0.2/32 dev vip0",
            "ip link set vip0 mtu 1380 addrgenmode none",
            "ip link set vip0 up",
            "ip route add 10.50.0.0/16 dev vip0 src 10.99.0.2",
        )
        yield opened


def wait(tun: TunDevice) -> bytes:
    select.select([tun], [], [], 5.0)
    packet = tun.read()
    assert packet is not None
    return packet


def exists(namespace: Namespace) -> bool:
    return NAME in namespace.run("ip link")


def udp(address: str, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5.0)
    sock.bind((address, port))
    return sock


def test_reads_what_is_routed_to_it(tun: TunDevice) -> None:
    assert tun.read() is None
    with udp("10.99.0.2") as sock:
        sock.sendto(b"hello", ("10.50.0.1", 9))
    packet = wait(tun)
    assert packet[12:20] == bytes([10, 99, 0, 2, 10, 50, 0, 1])
    assert packet.endswith(b"hello")
    assert tun.read() is None


def test_of_what_is_not_read_the_newest_is_lost(
    tun: TunDevice, network_namespace: Namespace
) -> None:
    with udp("10.99.0.2") as sock:
        for number in range(QUEUED + 100):
            sock.sendto(number.to_bytes(2, "big"), ("10.50.0.1", 9))
    found = [wait(tun)[-2:] for _ in range(QUEUED)]
    assert found == [number.to_bytes(2, "big") for number in range(QUEUED)]
    assert tun.read() is None
    (link,) = json.loads(network_namespace.run("ip -s -j link show dev vip0"))
    assert link["stats64"]["tx"]["dropped"] == 100


def test_what_is_written_arrives(tun: TunDevice) -> None:
    with udp("10.99.0.2", 7000) as sock:
        sock.sendto(b"ping", ("10.50.0.1", 7000))
        sent = bytearray(wait(tun))
        # The same packet with its ends exchanged; both checksums stay what they were.
        sent[12:16], sent[16:20] = sent[16:20], sent[12:16]
        tun.write(bytes(sent))
        assert sock.recvfrom(100) == (b"ping", ("10.50.0.1", 7000))


def test_outlives_its_opener_and_is_adopted(
    tun: TunDevice, network_namespace: Namespace
) -> None:
    tun_index = socket.if_nametoindex(NAME)
    descriptor = os.dup(tun.fileno())
    with TunDevice(NAME, descriptor):
        pass
    with udp("10.99.0.2") as bound:
        tun.close()
        assert exists(network_namespace)
        assert "10.99.0.2" in network_namespace.run("ip addr show dev vip0")
        tun._descriptor = TunDevice.open(NAME).fileno()
        assert socket.if_nametoindex(NAME) == tun_index
        wait_until_awake(NAME)
        bound.sendto(b"still here", ("10.50.0.1", 9))
        assert wait(tun).endswith(b"still here")


def test_a_second_opener_is_told_that_somebody_has_it(tun: TunDevice) -> None:
    with pytest.raises(KernelError, match="another process has it open") as caught:
        TunDevice.open(NAME)
    assert caught.value.errno == errno.EBUSY


def test_nobody_but_root_can_adopt_it(tun: TunDevice, network_namespace: Namespace) -> None:
    tun.close()
    nobody = pwd.getpwnam("nobody").pw_uid
    child = os.fork()
    if child == 0:
        os.setresuid(nobody, nobody, nobody)
        try:
            TunDevice.open(NAME)
        except KernelError as error:
            os._exit(0 if error.errno in (errno.EPERM, errno.EACCES) else 2)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    tun._descriptor = TunDevice.open(NAME).fileno()


def test_refuses_a_name_of_another_device(network_namespace: Namespace) -> None:
    with pytest.raises(KernelError, match="open lo"):
        TunDevice.open("lo")


@pytest.mark.parametrize("name", ["", "a-name-of-sixteen"])
def test_refuses_a_name_that_no_device_can_have(
    network_namespace: Namespace, name: str
) -> None:
    with pytest.raises(KernelError, match="1 to 15"):
        TunDevice.open(name)


def test_a_closed_device_drops_what_is_routed_to_it(
    tun: TunDevice, network_namespace: Namespace
) -> None:
    network_namespace.run("ip link add out0 type veth peer name in0", "ip link set out0 up")
    tun.close()
    with udp("10.99.0.2") as sock:
        sock.sendto(b"lost, not leaked", ("10.50.0.1", 9))
    sent = Path("/proc/thread-self/net/dev").read_text()
    (line,) = [row for row in sent.splitlines() if row.strip().startswith("out0:")]
    assert line.split()[10] == "0"
    tun._descriptor = TunDevice.open(NAME).fileno()


def test_a_deleted_device_is_noticed_and_made_anew(
    tun: TunDevice, network_namespace: Namespace
) -> None:
    assert not tun.is_gone()
    network_namespace.run("ip link del vip0")
    assert tun.is_gone()
    with pytest.raises(KernelError):
        tun.read()
    tun.reopen()
    assert not tun.is_gone()
    assert tun.read() is None
    assert exists(network_namespace)


def test_a_renamed_device_is_replaced_and_goes(
    tun: TunDevice, network_namespace: Namespace
) -> None:
    network_namespace.run("ip link set vip0 down", "ip link set vip0 name other0")
    assert tun.is_gone()
    tun.reopen()
    assert not tun.is_gone()
    assert exists(network_namespace)
    assert "other0" not in network_namespace.run("ip link")
