"""Kernel WireGuard between endpoint and server carries the virtual address, and roams."""

from orchestrator.lab import wireguard
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab
from orchestrator.lab.wireguard import WireGuardTunnel
from tests.kernel.lab.datagrams import Line

PEER = INTERNET.address("peer1")


def test_the_tunnel_carries_the_virtual_address_and_roams_by_itself(lab: Lab) -> None:
    endpoint, peer = lab.host("endpoint"), lab.host("peer1")
    lab.link("wifi").attach()
    with Line(endpoint, peer, PEER) as line:
        line.send()
        assert line.source_of_next(0.5) is None, "nobody is reached without a tunnel"
        tunnel = WireGuardTunnel(lab)
        line.send()
        assert line.source_of_next() == str(tunnel.vip)
        lab.roam("wifi2")
        line.send()
        assert line.source_of_next() == str(tunnel.vip)
        shown = lab.host("server").run(["wg", "show", wireguard.DEVICE, "endpoints"]).stdout
        assert "192.0.2.130:" in shown
