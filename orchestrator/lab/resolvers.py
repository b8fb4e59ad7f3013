"""Starts what access routers do beside forwarding: DNS, and NAT64 where there is no IPv4."""

import json
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.quantities import IPAddress
from orchestrator.lab import internet
from orchestrator.lab.host import Host

DNS: Final = "orchestrator.lab.dns"
NAT64: Final = "orchestrator.lab.nat64"
"""Programs, named and not imported: whoever builds the lab need not have what they have."""
READY: Final = b"ready\n"
POOL: Final = "192.168.64.0/24"
"""What NAT64 calls the hosts of its network, before the router's NAT."""
RESOLV_CONF: Final = Path("/run/systemd/resolve/resolv.conf")
"""Where systemd-resolved keeps the list of all resolvers; every host has a /run of its own."""

_POLL_SECONDS: Final = 0.02
_pause: Final = threading.Event()

Router = tuple[Host, internet.Host, internet.End]
"""With the end of its access link."""
Zone = Mapping[str, Sequence[str]]
"""From a name to its addresses."""


class Resolvers:
    """One on each access router; they answer when this is made. Raises OrchestratorError."""

    def __init__(self, routers: Sequence[Router], folder: Path, zone: Zone) -> None:
        self._zone = folder / "zone.json"
        self._logs = {router.name: router.folder / "dns.log" for router, _, _ in routers}
        self.change(zone)
        resolving = []
        translating = []
        for router, description, end in routers:
            prefix = description.nat64
            addresses = [str(interface.ip) for interface in end.addresses]
            arguments = [str(self._zone), str(prefix or "-"), *addresses]
            log = self._logs[router.name]
            with log.open("wb") as file:
                started = router.spawn_python(DNS, *arguments, stdout=file.fileno())
            resolving.append((started, log))
            if prefix is not None:
                translating.append(
                    router.spawn_python(NAT64, str(prefix), POOL, stdout=subprocess.PIPE)
                )
        for process in translating:
            if process.stdout is None or process.stdout.readline() != READY:
                raise OrchestratorError("the lab's NAT64 did not start")
        for process, log in resolving:
            while not log.read_bytes().startswith(READY):
                if process.poll() is not None:
                    raise OrchestratorError(f"the lab's DNS did not start; see {log.parent}")
                _pause.wait(_POLL_SECONDS)

    def change(self, zone: Zone | None) -> None:
        """From now on names mean this, everywhere; None: nobody answers."""
        fresh = self._zone.with_suffix(".new")
        fresh.write_text(json.dumps(zone))
        fresh.replace(self._zone)

    def asked(self, router: str) -> list[str]:
        """What was asked of this router, each as "NAME TYPE SOURCE"."""
        return self._logs[router].read_text().splitlines()[1:]


def list_resolvers(addresses: Iterable[IPAddress]) -> None:
    """On this host, for all links; written whole, as its owner would."""
    RESOLV_CONF.parent.mkdir(parents=True, exist_ok=True)
    fresh = RESOLV_CONF.with_suffix(".new")
    fresh.write_text("".join(f"nameserver {address}\n" for address in addresses))
    fresh.replace(RESOLV_CONF)
