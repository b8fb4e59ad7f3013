"""Others take away what is ours: it comes back, and connections go on.

The server's turn comes with the same words; what is meddled with is ours alone in the lab.
"""

import re
from collections.abc import Sequence

import pytest

from tests.scenarios.conversation import Conversation
from tests.scenarios.world import PEER, Side, World, eventually

REPAIR_LIMIT = 15.0
"""Seconds; a repair takes a third of one, on a machine that has a processor to itself."""

LOOKS = (
    "ip rule show",
    "ip -6 rule show",
    "ip route show table 11100",
    "ip address show dev {tun}",
    "ip xfrm policy show",
    "nft --stateless list table inet orchestrator",
    "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding",
)
NUMBER = re.compile(r"^\s*(\d+: (?=vips?0))?|\s*$")
ELEMENTS = re.compile(r"elements = \{ tcp \}")
"""Whether echoes are hidden: they are until a second after an outage."""
TUNS = {"endpoint": "vip0", "server": "vips0"}
ENDPOINT = (
    "ip rule del priority 11150",
    "ip rule del priority 11170",
    "ip rule flush",
    "ip route flush table 11100",
    "ip route flush table 11101",
    "ip address flush dev vip0",
    "ip link set vip0 down",
    "ip link del vip0",
    "ip xfrm policy flush",
    "nft flush ruleset",
    "nft delete chain inet orchestrator leaving",
)
SERVER = (
    "ip rule flush",
    "ip route flush table 11100",
    "ip route del 10.99.0.0/24",
    "ip address flush dev vips0",
    "ip link del vips0",
    "sysctl -qw net.ipv4.ip_forward=0",
    "sysctl -qw net.ipv6.conf.all.forwarding=0",
    "ip xfrm policy flush",
    "nft flush ruleset",
)


def look(side: Side) -> Sequence[str]:
    """What is ours, as an administrator sees it; what changes by itself is left out."""
    texts = [
        side.run(*command.format(tun=TUNS[side.role]).split(), check=False) for command in LOOKS
    ]
    # The kernel numbers a policy and a device anew each time.
    return [
        "\n".join(sorted(NUMBER.sub("", line) for line in text.splitlines() if told(line)))
        for text in texts
    ]


def told(line: str) -> bool:
    return bool(line.strip()) and not ELEMENTS.search(line)


def meddle(world: World, side: Side, command: str) -> None:
    before = look(side)
    repairs = side.status()["repairs"]
    with Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        side.run(*command.split())
        if "rule flush" in command:
            # It takes the kernel's own along, which nobody but the administrator gives back.
            for table, priority in (("main", "32766"), ("default", "32767")):
                side.run("ip", "rule", "add", "lookup", table, "priority", priority)
        eventually(lambda: look(side), lambda now: now == before, REPAIR_LIMIT)
        # Counted after it is done: somebody else did not repair it.
        eventually(lambda: side.status()["repairs"], lambda now: now > repairs, REPAIR_LIMIT)
        talk.goes_on()
        talk.ends_well()


@pytest.mark.parametrize("command", ENDPOINT)
def test_the_endpoint_repairs(world: World, command: str) -> None:
    with world.nothing_in_clear():
        meddle(world, world.endpoint, command)


@pytest.mark.parametrize("command", SERVER)
def test_the_server_repairs(world: World, command: str) -> None:
    with world.nothing_in_clear():
        meddle(world, world.server, command)


def test_without_the_daemon_nothing_comes_back(world: World) -> None:
    """The control of all of the above."""
    world.endpoint.kill()
    with Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.endpoint.run("ip", "xfrm", "policy", "flush")
        talk.stays_silent(3.0)
        world.endpoint.start()
        talk.goes_on()
        talk.ends_well()
