"""A NAT that forgets: the same socket is seen with another port from then on."""

import socket

from orchestrator.lab.internet import INTERNET
from orchestrator.lab.nat import Nat
from orchestrator.lab.netns import Lab

PORT = 7007


def test_after_it_a_socket_has_another_port_to_whoever_is_beyond(lab: Lab) -> None:
    lab.link("wifi").attach()
    address, seen = str(INTERNET.address("server")), []
    nat = Nat(lab.host("ap1"), "wan0")
    inside: socket.socket = lab.host("endpoint").inside(
        socket.socket, socket.AF_INET, socket.SOCK_DGRAM
    )
    beyond: socket.socket = lab.host("server").inside(
        socket.socket, socket.AF_INET, socket.SOCK_DGRAM
    )
    with inside, beyond:
        beyond.bind((address, PORT))
        beyond.settimeout(10)
        for forgets in (False, False, True, True):
            if forgets:
                nat.rebind()
            inside.sendto(b"where am I?", (address, PORT))
            seen.append(beyond.recvfrom(64)[1])
    assert seen[0] == seen[1], "the control: it keeps what it does not forget"
    assert len(set(seen)) == 3
    assert len({host for host, _ in seen}) == 1
