"""Talks to nftables about one table, `inet orchestrator`, and to no other.

A ruleset is loaded whole, in one transaction: there is no instant without the old or the new
one. What the kernel made of it is remembered in nft's own JSON, so that a rule which somebody
else took out or put in is noticed; counters, handles and the elements of sets that come and go
do not count.

libnftables does it, in this process: to start nft for it would stop the daemon for as long as a
fork takes, in the moment of a move.
"""

import asyncio
import ctypes
import errno
import json
import os
import re
import socket
import threading
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from orchestrator.core.errors import KernelError
from orchestrator.core.firewall import HIDDEN_ECHOES
from orchestrator.core.flow_rules import CARRYING
from orchestrator.core.kernel import NFT_TABLE, Ruleset
from orchestrator.wire.netlink import attributes, frames

NFT_SECONDS: Final = 10.0
"""It takes some milliseconds; beside a foreign table of 100,000 elements it has been seen to
take seconds. What takes longer hangs."""
_LIBRARY: Final = "libnftables.so.1"
_JSON: Final = 1 << 4
"""NFT_CTX_OUTPUT_JSON (nftables/libnftables.h)."""
_ONE_AT_A_TIME: Final = threading.Lock()
"""libnftables has state of its own beside its contexts."""
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

    THREAD = 2
    """NFTA_GEN_PROC_PID: of whoever asked."""


class Nftables:
    """Loads, reads and removes our table in the network namespace of this process."""

    def __init__(self) -> None:
        self._applied: Ruleset | None = None
        self._canonical = ""
        self._filled: dict[str, frozenset[str]] = {}
        """What sets hold that come and go."""
        self._writing = asyncio.Lock()

    async def apply(self, ruleset: Ruleset) -> None:
        """The table holds `ruleset` and nothing else. Raises KernelError, nothing changed."""
        async with self._writing:
            result = await _nft(_CLEAR + ruleset.text + self._refill())
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
            result = await _nft(text)
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
        result = await _nft(_CLEAR)
        if result.code:
            raise _refusal("remove", result)
        self._applied = None
        self._filled.clear()

    async def _read(self) -> str | None:
        result = await _nft(f"list table {_TABLE}", as_json=True)
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
    result = await _nft(f"list counters table {_TABLE}", as_json=True)
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

    def __init__(self) -> None:
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
            thread = int.from_bytes(told.get(_Attribute.THREAD, b""), "big")
            if self._touched and not Path(f"/proc/self/task/{thread}").exists():
                foreign = True
            self._touched = False
        return foreign


@dataclass(frozen=True, slots=True)
class _Result:
    code: int
    out: str
    err: str


async def _nft(text: str, *, as_json: bool = False) -> _Result:
    """Raises KernelError when there is no answer at all."""
    try:
        async with asyncio.timeout(NFT_SECONDS):
            return await asyncio.to_thread(_run, text, _JSON if as_json else 0)
    except TimeoutError as error:
        detail = f"no answer in {NFT_SECONDS:.0f} s"
        raise KernelError(errno.ETIMEDOUT, "run", "nft", detail) from error


def _run(text: str, flags: int) -> _Result:
    """The calls wait for the kernel without the interpreter's lock. The text is a file to the
    library: only of a file it says in which line a fault is."""
    with _ONE_AT_A_TIME, open(os.memfd_create("ruleset"), "w+") as file:  # noqa: PTH123
        file.write(text)
        file.flush()
        name = f"/proc/self/fd/{file.fileno()}"
        library = _library()
        context = library.nft_ctx_new(0)
        if not context:
            raise KernelError(errno.ENOMEM, "run", "nft", "libnftables has no context")
        try:
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_buffer_error(context)
            library.nft_ctx_output_set_flags(context, flags)
            code = library.nft_run_cmd_from_filename(context, name.encode())
            out = library.nft_ctx_get_output_buffer(context)
            err = library.nft_ctx_get_error_buffer(context)
            return _Result(code, out.decode(), err.decode(errors="replace"))
        finally:
            library.nft_ctx_free(context)


@cache
def _library() -> ctypes.CDLL:
    """libnftables(3). Raises KernelError."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise KernelError(
            errno.ENOENT, "run", "nft", f"{error}: install the package nftables"
        ) from error
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    library.nft_run_cmd_from_filename.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("buffer_output", "buffer_error", "free"):
        getattr(library, f"nft_ctx_{name}").argtypes = [ctypes.c_void_p]
    for name in ("output", "error"):
        read = getattr(library, f"nft_ctx_get_{name}_buffer")
        read.argtypes, read.restype = [ctypes.c_void_p], ctypes.c_char_p
    library.nft_ctx_free.restype = None
    return library


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
