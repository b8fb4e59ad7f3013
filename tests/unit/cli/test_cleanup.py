"""What cleanup takes out of charon, and what it leaves there."""

import asyncio
from pathlib import Path

from orchestrator.adapters.charon import Charon, Section, ViciMessage
from orchestrator.cli.cleanup import _forget_tunnels
from orchestrator.core.ike import Tunnel

OURS = ("orchestrator", "orchestrator default", "orchestrator truck7@example.org")
FOREIGN = ("ike-1", "orchestrators", "my orchestrator")


class FakeCharon(Charon):
    """Knows pre-shared keys by name, as a VICI socket answers for them."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.keys = [*FOREIGN, *OURS]

    async def _command(self, name: str, message: ViciMessage | None = None) -> Section:
        match name, message:
            case "get-shared", None:
                return {"keys": [key.encode() for key in self.keys]}
            case "unload-shared", {"id": str(key)}:
                self.keys.remove(key)
        return {}

    async def tunnels(self) -> tuple[Tunnel, ...]:
        return ()


def test_our_pre_shared_keys_go_and_those_of_others_stay() -> None:
    charon = FakeCharon()
    _, would = asyncio.run(_forget_tunnels(charon, dry_run=True))
    assert charon.keys == [*FOREIGN, *OURS], "a dry run changed something"
    _, did = asyncio.run(_forget_tunnels(charon, dry_run=False))
    assert charon.keys == [*FOREIGN]
    assert did == would == [f"unload the pre-shared key {name} from charon" for name in OURS]
    assert asyncio.run(_forget_tunnels(charon, dry_run=False)) == (set(), [])
