"""Cleaning up from cold leaves a system as it was found; compared as text."""

import json

from orchestrator.lab.host import Host
from tests.scenarios.world import Side, World

LOOKS = {
    "rules": "ip rule show",
    "rules of IPv6": "ip -6 rule show",
    "routes": "ip route show table all",
    "routes of IPv6": "ip -6 route show table all",
    "policies": "ip xfrm policy show",
    "associations": "ip xfrm state count",
    "firewall": "nft list ruleset",
    "devices": "ip -oneline link show",
    "addresses": "ip -brief address show",
    "settings": "sysctl --all --ignore --pattern ^net[.](ipv4|ipv6|core|netfilter)",
    "charon's connections": "swanctl --list-conns",
    "charon's pools": "swanctl --list-pools",
    "runtime files": "find /run/orchestrator -not -name *.lock -not -type d",
}
WALK = ("wifi", "lte", "wifi")
CHANGED = {"rules", "routes", "policies", "firewall", "devices", "addresses"}
VOLATILE = ("random", "nf_conntrack_count", "stat_refresh", "fib_triestat", "dev_weight")


def look(host: Host) -> dict[str, str]:
    """All that our daemons may change, as an administrator sees it."""
    found = {
        name: host.run(command.split(), check=False).stdout for name, command in LOOKS.items()
    }
    found["settings"] = "\n".join(
        sorted(
            line
            for line in found["settings"].splitlines()
            # The settings of devices come and go with them.
            if not any(word in line for word in VOLATILE)
        )
    )
    return found


def test_everything_is_as_it_was_found(cold_world: World) -> None:
    world = cold_world
    for link in WALK:  # a link that was up once has an address of its own ever after
        world.lab.roam(link)
    for side in world.sides:
        side.start_charon()
    found = {side.role: look(side.host) for side in world.sides}
    for side in world.sides:
        side.start()
    for link in WALK:
        world.lab.roam(link)
        status = world.attached(link)
    for side in world.sides:
        now = look(side.host)
        changed = {name for name, text in now.items() if text != found[side.role][name]}
        assert changed >= CHANGED, "or it would be easy to leave it as it was"
        _refused_while_it_runs(side)
        side.kill()
        assert _clean_up(side) != []
        assert look(side.host) == found[side.role]
        assert _clean_up(side) == []
        assert look(side.host) == found[side.role]
    for side in world.sides:
        side.start()
    assert world.attached("wifi")["vip"] == status["vip"], "leases are no trace"


def _refused_while_it_runs(side: Side) -> None:
    answer = side.host.run(["orchestrator", "cleanup", "--json"], check=False)
    assert answer.returncode == 1
    assert "running already" in json.loads(answer.stdout)["error"]


def _clean_up(side: Side) -> list[str]:
    operations: list[str] = json.loads(side.run("orchestrator", "cleanup", "--json"))[
        "operations"
    ]
    return operations
