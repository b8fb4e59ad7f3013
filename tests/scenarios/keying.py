"""What charons and kernels have in the way of IKE_SAs and SAs; how to have it renewed."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import vici
import vici.exception

from orchestrator.adapters.xfrm import Xfrm
from orchestrator.core.errors import CharonError
from orchestrator.core.quantities import Spi
from orchestrator.lab.charon import VICI_SOCKET
from orchestrator.services.ike import REPLAY_WINDOW
from orchestrator.wire.security_association import ReplayEsn, SecurityAssociation, StateFlag
from tests.scenarios.world import LIMIT, Side


@dataclass(frozen=True, slots=True)
class ChildSa:
    number: int
    state: str
    spi_in: Spi
    spi_out: Spi


@dataclass(frozen=True, slots=True)
class IkeSa:
    number: int
    state: str
    local: str
    remote: str
    children: tuple[ChildSa, ...]

    @property
    def rests(self) -> bool:
        """It has one CHILD_SA, and nothing is going on."""
        return self.state == "ESTABLISHED" and [c.state for c in self.children] == ["INSTALLED"]

    def __str__(self) -> str:
        children = ", ".join(
            f"{child.state} {child.spi_in:08x}/{child.spi_out:08x}" for child in self.children
        )
        return f"[{self.number}] {self.state} {self.local}...{self.remote}: {children}"


def ike_sas(side: Side) -> tuple[IkeSa, ...]:
    """All that its charon lists."""
    return tuple(side.host.inside(lambda: list(_listed())))


def rekey(side: Side, *, ike: int | None = None, child: int | None = None) -> None:
    """Begins it. Raises CharonError if there is no such SA."""
    what = {"child-id": str(child)} if ike is None else {"ike-id": str(ike)}

    def ask() -> None:
        with _session() as session:
            session.rekey(what)

    try:
        side.host.inside(ask)
    except vici.exception.CommandException as error:
        raise CharonError(f"{side.role} does not rekey {what}: {error}") from error


def associations(side: Side) -> tuple[SecurityAssociation, ...]:
    """The kernel's."""

    def read() -> tuple[SecurityAssociation, ...]:
        with Xfrm() as xfrm:
            return xfrm.states()

    found: tuple[SecurityAssociation, ...] = side.host.inside(read)
    return found


def told(side: Side, words: str) -> int:
    """How often its charon has said so."""
    return (side.host.folder / "charon.log").read_text(errors="replace").count(words)


def weakened(sa: SecurityAssociation, *, inbound: bool) -> Iterator[str]:
    """What it has not, or has not any more, of what it was negotiated with. An outbound one has
    no window worth the name: charon gives it one of 1."""
    name = f"SA {sa.spi:08x} {sa.source} -> {sa.destination}"
    if StateFlag.ESN not in sa.flags:
        yield f"{name} has no extended sequence numbers"
    window = sa.replay.window if isinstance(sa.replay, ReplayEsn) else sa.replay_window
    if inbound and window != REPLAY_WINDOW:
        yield f"{name} has a replay window of {window}"
    if sa.statistics.replayed:
        yield f"{name} was sent a number twice, {sa.statistics.replayed} times"
    if sa.statistics.forged:
        yield f"{name} was sent what its key does not fit, {sa.statistics.forged} times"


@contextmanager
def _session() -> Iterator[Any]:
    with closing(socket.socket(socket.AF_UNIX)) as line:
        line.settimeout(LIMIT)
        line.connect(str(VICI_SOCKET))
        yield vici.Session(line)


def _listed() -> Iterator[IkeSa]:
    with _session() as session:
        for found in session.list_sas():
            for sa in found.values():
                yield IkeSa(
                    int(sa["uniqueid"]),
                    sa["state"].decode(),
                    _end(sa, "local"),
                    _end(sa, "remote"),
                    tuple(_child(child) for child in sa.get("child-sas", {}).values()),
                )


def _end(sa: dict[str, bytes], which: str) -> str:
    return f"{sa[f'{which}-host'].decode()}:{sa[f'{which}-port'].decode()}"


def _child(child: dict[str, bytes]) -> ChildSa:
    return ChildSa(
        int(child["uniqueid"]),
        child["state"].decode(),
        Spi(int(child.get("spi-in", b"0"), 16)),
        Spi(int(child.get("spi-out", b"0"), 16)),
    )
