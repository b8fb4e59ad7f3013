"""A path that drops what is larger than 1280, and fragments, and tells nobody."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.scenarios.world import World

NARROW: Final = 1280
_RULES: Final = f"""
table inet narrow {{
    counter lost {{ }}
    counter pieces {{ }}
    chain forward {{
        type filter hook forward priority 0
        meta length > {NARROW} counter name lost drop
        ip frag-off & 0x3fff != 0 counter name pieces drop
        exthdr frag exists counter name pieces drop
    }}
}}
"""


@contextmanager
def black_hole(world: World, router: str) -> Iterator[None]:
    """On this router, both ways."""
    host = world.lab.host(router)
    host.run(["nft", "-f", "-"], input=_RULES)
    try:
        yield
    finally:
        host.run(["nft", "delete", "table", "inet", "narrow"])


def counted(world: World, router: str, counter: str) -> int:
    """Packets that it dropped: "lost" for their size, "pieces" because they were fragments."""
    text = world.lab.host(router).run(["nft", "list", "counter", "inet", "narrow", counter])
    return int(text.stdout.split("packets ")[1].split()[0])
