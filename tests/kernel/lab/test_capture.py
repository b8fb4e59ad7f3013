"""The capture can see what it is there to find: each count has its negative control."""

import socket
from collections.abc import Iterator
from ipaddress import ip_interface, ip_network

import pytest

from orchestrator.lab.capture import Capture
from orchestrator.lab.host import Host
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab
from tests.kernel.lab.datagrams import Line

SERVER = INTERNET.address("server")
VIPS = {4: "10.99.0.7/32", 6: "fd00:99::7/128"}
HOPS = ["endpoint:wwan0", "lte:wan0", "internet:server"]
"""The devices that a packet leaves on its way from the endpoint to the server over LTE."""


@pytest.fixture
def capture(lab: Lab) -> Iterator[Capture]:
    lab.link("lte").attach()
    # Neighbours are asked for now, and not with a virtual address as the one who asks.
    for version in (4, 6):
        destination = INTERNET.address("server", version)
        with Line(lab.host("endpoint"), lab.host("server"), destination) as line:
            line.send()
            assert line.source_of_next() is not None
    capture = lab.capture()
    yield capture
    capture.close()


@pytest.fixture
def bare_vips(lab: Lab) -> Iterator[Host]:
    """The endpoint with virtual addresses and nothing that protects them."""
    endpoint = lab.host("endpoint")
    endpoint.run(
        ["ip", "-batch", "-"], input="".join(f"a add {v} dev lo\n" for v in VIPS.values())
    )
    yield endpoint
    endpoint.run(
        ["ip", "-batch", "-"], input="".join(f"a del {v} dev lo\n" for v in VIPS.values())
    )


@pytest.mark.parametrize("version", [4, 6])
def test_sees_a_virtual_address_in_clear_on_every_hop(
    lab: Lab, capture: Capture, bare_vips: Host, version: int
) -> None:
    destination = INTERNET.address("server", version)
    with Line(bare_vips, lab.host("server"), destination) as line:
        line.outgoing.bind((str(ip_interface(VIPS[version]).ip), 0))
        line.send(b"secret")
        assert line.source_of_next() == str(ip_interface(VIPS[version]).ip)
    seen = {device: clear for device, (clear, _) in capture.by_device().items() if clear}
    assert seen == dict.fromkeys(HOPS, 1)
    assert capture.in_clear == len(HOPS)
    assert {example.packet[-6:] for example in capture.examples()} == {b"secret"}


def test_sees_a_question_for_a_virtual_address(
    lab: Lab, capture: Capture, bare_vips: Host
) -> None:
    del bare_vips
    endpoint = lab.host("endpoint")
    # On the link, as though it were a neighbour: ARP with the VIP as its sender.
    endpoint.run(["ip", "route", "add", "100.64.0.99", "dev", "wwan0", "src", "10.99.0.7"])
    with endpoint.inside(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.sendto(b"x", ("100.64.0.99", 9))
    assert capture.by_device()["endpoint:wwan0"][0] >= 1


def test_what_a_link_loses_was_seen_before(lab: Lab, capture: Capture, bare_vips: Host) -> None:
    lab.link("lte").set(loss_percent=100)
    with Line(bare_vips, lab.host("server"), SERVER) as line:
        line.outgoing.bind((str(ip_interface(VIPS[4]).ip), 0))
        line.send()
    assert capture.in_clear == 1


def test_does_not_count_other_addresses(lab: Lab, capture: Capture) -> None:
    with Line(lab.host("endpoint"), lab.host("server"), SERVER) as line:
        line.send()
        assert line.source_of_next() is not None
    assert (capture.in_clear, capture.protected) == (0, 0)


def test_counts_for_the_networks_it_was_given(lab: Lab, capture: Capture) -> None:
    capture.close()
    other = lab.capture(links=["lte"], networks=[ip_network("100.64.0.0/24")])
    with Line(lab.host("endpoint"), lab.host("server"), SERVER) as line:
        line.send()
        assert line.source_of_next() is not None
    assert other.by_device() == {"lte:wwan0": (0, 0), "endpoint:wwan0": (1, 0)}


@pytest.mark.parametrize("port", [500, 4500])
@pytest.mark.parametrize("version", [4, 6])
def test_counts_ike_and_encapsulated_esp(
    lab: Lab, capture: Capture, port: int, version: int
) -> None:
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    with lab.host("endpoint").inside(socket.socket, family, socket.SOCK_DGRAM) as ike:
        ike.sendto(b"\0" * 40, (str(INTERNET.address("server", version)), port))
    assert capture.by_device()["endpoint:wwan0"] == (0, 1)


@pytest.mark.parametrize("version", [4, 6])
def test_counts_esp(lab: Lab, capture: Capture, version: int) -> None:
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    with lab.host("endpoint").inside(socket.socket, family, socket.SOCK_RAW, 50) as esp:
        esp.sendto(b"\0" * 40, (str(INTERNET.address("server", version)), 0))
    assert capture.by_device()["endpoint:wwan0"] == (0, 1)


def test_its_counts_stay_when_it_is_closed(lab: Lab, capture: Capture, bare_vips: Host) -> None:
    with Line(bare_vips, lab.host("server"), SERVER) as line:
        line.outgoing.bind(("10.99.0.7", 0))
        line.send()
        assert line.source_of_next() is not None
    capture.close()
    assert capture.in_clear == len(HOPS)
