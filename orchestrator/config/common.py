"""The tables that both roles have: authentication, hold, control socket, charon, state.

The text under each field is its reference: docs/configuration.md is made of it.
"""

import grp
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from orchestrator.config.reader import Contradiction
from orchestrator.config.values import Between, Octets
from orchestrator.core.errors import ConfigError, ConfigFault
from orchestrator.core.hold import HoldLimits
from orchestrator.core.quantities import Seconds

SECRET_LIMIT: Final = 4096
"""Octets in a secret file; a longer one is some other file."""
SOCKET_PATH_LIMIT: Final = 107
"""sun_path without its final zero (include/uapi/linux/un.h)."""
READABLE_BY_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH


def secret_file_faults(key: str, path: Path) -> Iterator[Contradiction]:
    """What is wrong with a file that holds a secret: absent, or not secret."""
    try:
        found = path.stat()
    except OSError as error:
        yield Contradiction(
            (key,), f"{path} cannot be read: {error.strerror}", "create it, or correct the path"
        )
        return
    if not stat.S_ISREG(found.st_mode):
        yield Contradiction((key,), f"{path} is not a file", "give the path of a file")
    elif found.st_mode & READABLE_BY_OTHERS:
        yield Contradiction(
            (key,), f"{path} can be read or written by everybody", f"run `chmod 600 {path}`"
        )
    elif not os.access(path, os.R_OK):
        yield Contradiction((key,), f"{path} may not be read by you", "run this as root")


def file_faults(key: str, path: Path) -> Iterator[Contradiction]:
    """What is wrong with a file that holds nothing secret."""
    if not path.is_file():
        yield Contradiction((key,), f"{path} is not a file", "create it, or correct the path")
    elif not os.access(path, os.R_OK):
        yield Contradiction((key,), f"{path} may not be read by you", "run this as root")


def read_secret(path: Path) -> bytes:
    """The pre-shared key in the file, without the line end. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            secret = file.read(SECRET_LIMIT + 1).rstrip(b"\r\n")
    except OSError as error:
        fault = ConfigFault(path, 0, f"cannot be read: {error.strerror}", "restore the file")
        raise ConfigError([fault]) from error
    if not secret or len(secret) > SECRET_LIMIT:
        fault = ConfigFault(
            path,
            0,
            "is empty" if not secret else f"is longer than {SECRET_LIMIT} octets",
            "write the pre-shared key into it, on one line",
        )
        raise ConfigError([fault])
    return secret


def psk_file_faults(key: str, path: Path) -> Iterator[Contradiction]:
    """As `secret_file_faults`, and whether a usable secret is in it."""
    found = tuple(secret_file_faults(key, path))
    yield from found
    if not found:
        try:
            read_secret(path)
        except ConfigError as error:
            for fault in error.faults:
                yield Contradiction((key,), f"{path} {fault.problem}", fault.remedy)


@dataclass(frozen=True, slots=True)
class CertificateAuth:
    """Each side proves its identity with a certificate."""

    kind: Literal["certificate"]
    """How the two sides authenticate each other."""
    certificate: Path
    """Our certificate, PEM; its subject or one of its subjectAltNames is our `identity`."""
    private_key: Path
    """The certificate's key, PEM, not encrypted: nobody is there to type a passphrase when
    the device wakes up. Not readable by others."""
    ca: tuple[Path, ...]
    """Certificates of the authorities that we accept the other side's certificate from, PEM,
    one a file."""

    def contradictions(self) -> Iterator[Contradiction]:
        yield from file_faults("certificate", self.certificate)
        yield from secret_file_faults("private_key", self.private_key)
        if not self.ca:
            yield Contradiction(
                ("ca",), "no authority is trusted", "name the CA certificate of the other side"
            )
        for path in self.ca:
            yield from file_faults("ca", path)


@dataclass(frozen=True, slots=True)
class Hold:
    """How much is kept of what cannot be sent now. When full, the oldest packet goes first."""

    max_bytes: Annotated[Octets, Between(64 * 1024, 1024**3)] = Octets(4 * 1024 * 1024)
    """Octets held for each virtual address. Twice the bandwidth-delay product of 100 Mbit/s
    at 150 ms: what was in flight when the path went fits in."""
    max_packets: Annotated[int, Between(16, 1_000_000)] = 8192
    """Packets held for each virtual address. Bounds the cost of many small packets; 8192 of
    them with 512 octets each fill the default `max_bytes`."""
    max_age: Annotated[Seconds, Between(1, 86400)] = Seconds(120.0)
    """What has waited longer is dropped. A TCP sender in back-off waits two minutes at most
    before it sends again itself."""

    @property
    def limits(self) -> HoldLimits:
        return HoldLimits(self.max_bytes, self.max_packets, self.max_age)


@dataclass(frozen=True, slots=True)
class Control:
    """The socket that `orchestrator status` and the other commands talk to."""

    socket: Path = Path("/run/orchestrator/control.sock")
    """Where the daemon listens. Below /run: it means nothing after a reboot."""
    group: str | None = None
    """A group whose members may administer the daemon besides root. None by default: who
    may use the socket may interrupt everybody's traffic."""

    def contradictions(self) -> Iterator[Contradiction]:
        if self.group is not None:
            try:
                grp.getgrnam(self.group)
            except KeyError:
                yield Contradiction(
                    ("group",),
                    f"there is no group {self.group}",
                    f"run `groupadd --system {self.group}`, or correct the name",
                )
        if len(os.fsencode(self.socket)) > SOCKET_PATH_LIMIT:
            yield Contradiction(
                ("socket",),
                f"the path is longer than the {SOCKET_PATH_LIMIT} octets the kernel takes",
                "choose a shorter one",
            )


@dataclass(frozen=True, slots=True)
class CharonSocket:
    """strongSwan's daemon, which does IKE for us."""

    socket: Path = Path("/run/charon.vici")
    """charon's VICI socket (`charon.plugins.vici.socket` in strongswan.conf, without
    `unix://`). The default is strongSwan's own."""


@dataclass(frozen=True, slots=True)
class State:
    """What outlives the daemon and a reboot."""

    directory: Path = Path("/var/lib/orchestrator")
    """Virtual addresses or leases, and the system settings to restore. Kept on a disk: an
    endpoint that forgets its virtual address loses every connection."""
