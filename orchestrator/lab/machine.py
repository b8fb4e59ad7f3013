"""Makes the machine it runs on one host of the lab: those of vagrant/Vagrantfile.

    python3 -m orchestrator.lab.machine configure HOST    its files; once
    python3 -m orchestrator.lab.machine up HOST           its network; after every boot
    python3 -m orchestrator.lab.machine roam LINK         on the endpoint
    python3 -m orchestrator.lab.machine leave             on the endpoint: out of range

The devices have their names already. Needs root, and no package but Python's own: routers have
no other. Everything may be done twice.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path
from socket import if_nametoindex
from subprocess import run
from typing import Final

from orchestrator.core.quantities import IPNetwork
from orchestrator.lab import product, rtnl, serve
from orchestrator.lab.host import FORWARDING, SYSCTLS
from orchestrator.lab.internet import INTERNET, Internet, Quality
from orchestrator.lab.namespaces import write_sysctls
from orchestrator.lab.netns import hosts_file, masquerade
from orchestrator.lab.peers import SSH_LOGIN
from orchestrator.lab.rtnl import LinkNews, Rtnetlink

SERVED_FILE: Final = "var/lib/lab/file"
_SERVED_OCTETS: Final = 64 << 20
"""A download of some 20 s at the 30 Mbit/s of LTE: time enough to roam by hand."""
_CARRIER_SECONDS: Final = 5.0
_DEFAULT_ROUTES: Final[Mapping[int, tuple[IPNetwork, int]]] = {
    4: (ip_network("0.0.0.0/0"), rtnl.PROTOCOL_DHCP),
    6: (ip_network("::/0"), rtnl.PROTOCOL_RA),
}
"""By family: the destination, and how the endpoint came by the route."""


def configure(
    internet: Internet,
    name: str,
    root: Path = Path("/"),
    served_octets: int = _SERVED_OCTETS,
) -> None:
    """Writes what the host's programs read."""
    # sudo asks for the machine's own name, and the endpoint has no address of its own.
    write = {"etc/hosts": hosts_file(internet) + f"127.0.1.1 {name}\n"}
    texts = {"endpoint": product.ENDPOINT, "server": product.SERVER}
    if name in texts:
        write[f"etc/orchestrator/{name}.toml"] = texts[name]
        write["etc/orchestrator/secret"] = product.SECRET
    if name.startswith("peer"):
        write["etc/ssh/sshd_config.d/lab.conf"] = _sshd_settings(internet, name)
        file = root / SERVED_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(serve.content(served_octets))
    for relative, text in write.items():
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600 if "orchestrator" in relative else 0o644)
        path.write_text(text)


def _sshd_settings(internet: Internet, name: str) -> str:
    """Nothing is asked of the one who comes out of the lab; Vagrant's own way in stays."""
    own = ",".join(
        str(interface.ip) for end in internet.ends_of(name) for interface in end.addresses
    )
    return (
        f"Match User {SSH_LOGIN} LocalAddress {own}\n"
        "    PasswordAuthentication yes\n"
        "    PermitEmptyPasswords yes\n"
    )


def bring_up(internet: Internet, name: str) -> None:
    """Addresses, routes, forwarding, NAT and quality. The endpoint's devices stay down."""
    host = internet.host(name)
    write_sysctls(SYSCTLS | (FORWARDING if host.forwards else {}))
    with closing(Rtnetlink()) as rtnetlink:
        for end in internet.ends_of(name):
            if not end.addresses:
                continue
            index = if_nametoindex(end.device)
            rtnetlink.say(
                rtnl.link_up(index),
                *(rtnl.add_address(index, interface) for interface in end.addresses),
                *(
                    rtnl.add_route(route.destination, route.gateway, index)
                    for route in host.routes
                    if any(route.gateway in interface.network for interface in end.addresses)
                ),
            )
        for device, quality in _qualities(internet, name):
            rtnetlink.say(rtnl.netem(if_nametoindex(device), quality))
    if host.masquerades is not None:
        # Adding it to what an earlier run left would translate twice.
        afresh = "table ip lab\ndelete table ip lab\n" + masquerade(host.masquerades)
        run(["nft", "-f", "-"], input=afresh, text=True, check=True)


def _qualities(internet: Internet, name: str) -> Iterator[tuple[str, Quality]]:
    """The host's devices on which a link's quality is made."""
    for link in internet.links:
        shaped = link if link.uplink is None else internet.link(link.uplink)
        for end in shaped.ends:
            if end.host == name and link.quality != Quality():
                yield end.device, link.quality


def leave(internet: Internet) -> None:
    """The endpoint loses every access link: carrier and addresses."""
    with closing(Rtnetlink()) as rtnetlink:
        for link in internet.access_links:
            index = if_nametoindex(link.far.device)
            mine = link.lease.addresses if link.lease else ()
            gone = (rtnl.delete_address(index, address) for address in mine)
            # The kernel takes the routes away with the device.
            rtnetlink.say(rtnl.link_down(index), *gone, fine=rtnl.GONE)


def roam(internet: Internet, name: str) -> None:
    """Break before make: out of range of everything, then what the link's lease gives."""
    link = internet.link(name)
    lease = link.lease
    if lease is None:
        raise ValueError(f"{name} is not an access link: nobody attaches to it")
    leave(internet)
    index = if_nametoindex(link.far.device)
    with closing(Rtnetlink()) as rtnetlink, closing(LinkNews()) as news:
        rtnetlink.say(rtnl.link_up(index))
        news.wait_until_running(index, _CARRIER_SECONDS)
        routes = ((_DEFAULT_ROUTES[gateway.version], gateway) for gateway in lease.gateways)
        rtnetlink.say(
            *(rtnl.add_address(index, address) for address in lease.addresses),
            *(
                rtnl.add_route(destination, gateway, index, lease.metric, protocol)
                for (destination, protocol), gateway in routes
            ),
        )


def main(*words: str) -> None:
    acts: Mapping[tuple[str, int], Callable[..., None]] = {
        ("configure", 1): configure,
        ("up", 1): bring_up,
        ("roam", 1): roam,
        ("leave", 0): leave,
    }
    act = acts.get((words[0], len(words) - 1)) if words else None
    if act is None:
        sys.exit("usage: lab up HOST | configure HOST | roam LINK | leave")
    try:
        act(INTERNET, *words[1:])
    except (KeyError, ValueError) as wrong:
        sys.exit(f"lab: {wrong.args[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
