"""Talks to nftables about one table, `inet orchestrator`, and to no other.

A ruleset is loaded whole, in one transaction: there is no instant without the old or the new
one. What the kernel made of it is remembered in nft's own JSON, so that a rule which somebody
else took out or put in is noticed; counters, handles and the elements of sets that come and go
do not count.

A process of ours that is kept does it (`adapters.libnftables`).
"""

import asyncio
import contextlib
import errno
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Any, Final, Self

from orchestrator.adapters import libnftables
from orchestrator.core.errors import KernelError
from orchestrator.core.firewall import HIDDEN_ECHOES
from orchestrator.core.flow_rules import CARRYING
from orchestrator.core.kernel import NFT_TABLE, Ruleset
from orchestrator.wire.netlink import attributes, frames

NFT_SECONDS: Final = 10.0
"""It takes some milliseconds; beside a foreign table of 100,000 elements it has been seen to
take seconds. What takes longer hangs."""
_END_SECONDS: Final = 0.1
"""A process that was killed is gone after some milliseconds."""
_TABLE: Final = f"inet {NFT_TABLE}"
_CLEAR: Final = f"add table {_TABLE}\ndelete table {_TABLE}\n"
"""Deletes the table whether it is there or not ("destroy" is newer than Debian 12)."""
_VOLATILE: Final = frozenset({"handle", "packets", "bytes"})
_COMES_AND_GOES: Final = {HIDDEN_ECHOES: "set", CARRYING: "map"}
"""What kind of thing it is, by name."""
_NETLINK_NETFILTER: Final = 12
_NFNLGRP_NFTABLES: Final = 7
_NETLINK_ADD_MEMBERSHIP: Final = 1
_SOL_NETLINK: Final = 270
_DATAGRAM_OCTETS: Final = 65536
_NFGENMSG_OCTETS: Final = 4


class _Message(IntEnum):
    """NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_… (linux/netfilter/nf_tables.h)."""

    NEW_GENERATION = 10 << 8 | 15


class _Attribute(IntEnum):
    """NFTA_GEN_…"""

    PROCESS = 2
    """NFTA_GEN_PROC_PID: of whoever asked."""


class Nftables:
    """Loads, reads and removes our table in the network namespace of this process."""

    def __init__(self) -> None:
        self._nft = _Nft()
        self._applied: Ruleset | None = None
        self._canonical = ""
        self._filled: dict[str, frozenset[str]] = {}
        """What sets hold that come and go."""
        self._writing = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Of the process that writes for us."""
        return self._nft.pid

    def close(self) -> None:
        """The table stays as it is."""
        self._nft.close()

    async def apply(self, ruleset: Ruleset) -> None:
        """The table holds `ruleset` and nothing else. Raises KernelError, nothing changed."""
        async with self._writing:
            result = await self._nft.run(_CLEAR + ruleset.text + self._refill())
            if result.code:
                raise _refusal("load", result, ruleset.text)
            self._canonical = await self._read() or ""
            self._applied = ruleset

    async def fill(self, name: str, elements: Collection[str]) -> None:
        """A set or map of the applied ruleset, one that comes and goes, has these elements and
        no others, also when the ruleset is loaded again. Raises KernelError, nothing changed.
        """
        async with self._writing:
            text = f"flush {_COMES_AND_GOES[name]} {_TABLE} {name}\n" + _add_elements(
                name, elements
            )
            result = await self._nft.run(text)
            if result.code:
                raise _refusal("fill a set of", result)
            self._filled[name] = frozenset(elements)

    def _refill(self) -> str:
        return "".join(_add_elements(*filled) for filled in self._filled.items())

    async def current(self) -> Ruleset | None:
        """The very ruleset that was applied, if the kernel still has it unaltered; None if
        there is no table; else a ruleset equal to no other, with nft's JSON as its text."""
        found = await self._read()
        if found is None:
            return None
        if self._applied is not None and found == self._canonical:
            return self._applied
        return Ruleset(found)

    async def remove(self) -> None:
        """There is no table of ours any more, whether there was one or not."""
        result = await self._nft.run(_CLEAR)
        if result.code:
            raise _refusal("remove", result)
        self._applied = None
        self._filled.clear()

    async def _read(self) -> str | None:
        result = await self._nft.run(f"list table {_TABLE}", as_json=True)
        if result.code:
            if _absent(result):
                return None
            raise _refusal("read", result)
        return _canonical(result.out)


@dataclass(frozen=True, slots=True)
class Counted:
    """What one named counter has seen since the ruleset was loaded."""

    packets: int
    octets: int


async def counters() -> dict[str, Counted]:
    """The counters of our table; none, if there is no table. Raises KernelError."""
    with contextlib.closing(_Nft()) as nft:
        result = await nft.run(f"list counters table {_TABLE}", as_json=True)
    if result.code:
        if _absent(result):
            return {}
        raise _refusal("read", result)
    found = [
        each["counter"] for each in json.loads(result.out)["nftables"] if "counter" in each
    ]
    return {each["name"]: Counted(each["packets"], each["bytes"]) for each in found}


class NftablesChanges:
    """Tells when another process touched our table."""

    def __init__(self, ours: Callable[[], int | None]) -> None:
        """`ours` is the number of the process that writes for us. In a PID namespace the kernel
        tells other numbers than we know: then what we write is news, too."""
        self._ours = ours
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
        )
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        self._touched = False
        """By the transaction whose end is not told yet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    async def wait(self) -> None:
        """Returns after the next change; the caller reads and compares."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                datagram = await loop.sock_recv(self._socket, _DATAGRAM_OCTETS)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return  # the kernel dropped messages: one of them may have been about ours
            if self._ends_with_ours_touched(datagram):
                return

    def _ends_with_ours_touched(self, datagram: bytes) -> bool:
        """Behind what a transaction changed comes whose it was."""
        ours = NFT_TABLE.encode() + b"\0"
        foreign = False
        for message in frames(datagram):
            if message.kind != _Message.NEW_GENERATION:
                # Every message about a table, chain, set or rule names its table.
                self._touched = self._touched or ours in message.body
                continue
            told = dict(attributes(message.body, _NFGENMSG_OCTETS))
            process = int.from_bytes(told.get(_Attribute.PROCESS, b""), "big")
            foreign = foreign or (self._touched and process != self._ours())
            self._touched = False
        return foreign


@dataclass(frozen=True, slots=True)
class _Result:
    code: int
    out: str
    err: str


class _Nft:
    """The process that speaks to nftables: started when first needed, and again if it ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._one_at_a_time = asyncio.Lock()

    def __del__(self) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """What it has not done yet is not done."""
        if self._process is not None:
            self._process.kill()
            # One that hangs in the kernel ends when that lets it; nobody waits for it here.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        if self._socket is not None:
            self._socket.close()
        self._socket = self._process = None

    async def run(self, text: str, *, as_json: bool = False) -> _Result:
        """A process that was found dead is replaced, and asked the same: all that is asked can
        be done twice. Raises KernelError when there is no answer at all."""
        async with self._one_at_a_time:
            answered = False
            try:
                async with asyncio.timeout(NFT_SECONDS):
                    result = await self._run(text.encode(), as_json=as_json)
                answered = True
            except TimeoutError as error:
                detail = f"no answer in {NFT_SECONDS:.0f} s"
                raise KernelError(errno.ETIMEDOUT, "run", "nft", detail) from error
            except OSError as error:
                detail = f"its process ended ({error}): install the package nftables"
                raise KernelError(error.errno or errno.EIO, "run", "nft", detail) from error
            finally:
                if not answered:
                    self.close()
            return result

    def _start(self) -> socket.socket:
        ours, its = socket.socketpair()
        ours.settimeout(0.0)
        self._socket = ours
        command = (sys.executable, "-P", "-m", libnftables.__name__)
        with its:
            environment = {**os.environ, "LC_ALL": "C"}
            # In a session of its own: Ctrl-C is for the daemon, which ends this one.
            self._process = subprocess.Popen(
                command, stdin=its.fileno(), env=environment, start_new_session=True
            )
        return ours

    async def _run(self, text: bytes, *, as_json: bool) -> _Result:
        if self._socket is not None:
            try:
                return await self._ask(self._socket, text, as_json=as_json)
            except OSError:
                self.close()
        return await self._ask(self._start(), text, as_json=as_json)

    @staticmethod
    async def _ask(connection: socket.socket, text: bytes, *, as_json: bool) -> _Result:
        request = libnftables.REQUEST.pack(len(text), as_json) + text
        await asyncio.get_running_loop().sock_sendall(connection, request)
        head = await _receive(connection, libnftables.ANSWER.size)
        code, out, complaints = libnftables.ANSWER.unpack(head)
        told = await _receive(connection, out + complaints)
        return _Result(code, told[:out].decode(), told[out:].decode(errors="replace"))


async def _receive(sock: socket.socket, octets: int) -> bytes:
    """So many. Raises OSError when they do not come."""
    received = bytearray()
    while len(received) < octets:
        part = await asyncio.get_running_loop().sock_recv(sock, octets - len(received))
        if not part:
            raise OSError(errno.EIO, "the process that has libnftables ended")
        received += part
    return bytes(received)


def _canonical(listing: str) -> str:
    """nft's JSON without what changes by itself."""
    entries = json.loads(listing)["nftables"]
    for entry in entries:
        for kind, described in entry.items():
            if _COMES_AND_GOES.get(described.get("name")) == kind:
                described.pop("elem", None)
    steady = [_steady(entry) for entry in entries if "metainfo" not in entry]
    return json.dumps(steady, sort_keys=True)


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(one) for key, one in value.items() if key not in _VOLATILE}
    if isinstance(value, list):
        return [_steady(one) for one in value]
    return value


def _add_elements(name: str, elements: Collection[str]) -> str:
    """nft has no empty element list."""
    listed = ", ".join(sorted(elements))
    return f"add element {_TABLE} {name} {{ {listed} }}\n" if elements else ""


def _absent(result: _Result) -> bool:
    return "No such file or directory" in result.err


def _refusal(operation: str, result: _Result, text: str = "") -> KernelError:
    """nft's first complaint, and the line of ours that it is about."""
    complaint = next((line for line in result.err.splitlines() if line.strip()), "no message")
    place = re.match(r"[^:]*:(\d+):[\d-]*:?\s*", complaint)
    if place is None:
        return KernelError(_errno(complaint), operation, f"the table {_TABLE}", complaint)
    number = int(place[1]) - _CLEAR.count("\n")
    lines = text.splitlines()
    line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    detail = f"line {number}, “{line}”: {complaint[place.end() :]}"
    return KernelError(_errno(complaint), operation, f"the table {_TABLE}", detail)


def _errno(complaint: str) -> int:
    """nft prints the kernel's error as a sentence; a fault in the text has none."""
    known = (errno.EPERM, errno.ENOENT, errno.EEXIST, errno.EOPNOTSUPP, errno.ENOMEM)
    return next((code for code in known if os.strerror(code) in complaint), errno.EINVAL)
