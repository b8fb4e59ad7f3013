"""The tables that both roles have: authentication, hold, control socket, charon, state.

The text under each field is its reference: docs/configuration.md is made of it.
"""

import grp
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from orchestrator.config.reader import Contradiction
from orchestrator.config.values import Between, ListenAddress, Octets
from orchestrator.core.errors import ConfigError, ConfigFault
from orchestrator.core.hold import HoldLimits, HoldPolicy
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


class Keep(StrEnum):
    NEWEST = "newest"
    OLDEST = "oldest"


@dataclass(frozen=True, slots=True)
class Hold:
    """How much is kept of what cannot be sent now, and for how long. When all is full, the
    flow that holds most loses first."""

    max_bytes: Annotated[Octets, Between(64 * 1024, 1024**3)] = Octets(4 * 1024 * 1024)
    """Octets held for each virtual address. Twice the bandwidth-delay product of 100 Mbit/s
    at 150 ms: what was in flight when the path went fits in."""
    max_packets: Annotated[int, Between(16, 1_000_000)] = 8192
    """Packets held for each virtual address. Bounds the cost of many small packets; 8192 of
    them with 512 octets each fill the default `max_bytes`."""
    flow_bytes: Annotated[Octets, Between(64 * 1024, 1024**3)] = Octets(1024 * 1024)
    """Octets held for each flow: a connection, or the datagrams between two ports. A quarter
    of the default `max_bytes`, so that one transfer leaves room for all others."""
    tcp_age: Annotated[Seconds, Between(1, 86400)] = Seconds(300.0)
    """A TCP segment that has waited longer is dropped. A sender repeats it every two minutes
    at least, so this one is not there any more."""
    datagram_age: Annotated[Seconds, Between(0.1, 86400)] = Seconds(30.0)
    """The same for UDP, ICMP and all other protocols. Whoever uses them repeats what matters
    within seconds, and has given it up by then."""
    query_age: Annotated[Seconds, Between(0.1, 86400)] = Seconds(5.0)
    """The same for UDP to `query_ports`. A resolver asks again after 5 s (resolv.conf(5)),
    and takes no answer to the former question."""
    query_ports: tuple[Annotated[int, Between(1, 65535)], ...] = (53, 123)
    """UDP ports that questions go to. DNS, and the time: an old answer about that is wrong."""
    keep: Keep = Keep.NEWEST
    """Which datagrams of a flow that is full are kept. The `newest` by default: voice,
    positions and measured values are worth more, the younger they are; `oldest` is for flows
    whose beginning matters, such as log lines. Of a TCP connection the segment that starts it
    again is always kept."""
    freeze: bool = True
    """Whether TCP connections are kept from giving up meanwhile: their keepalives and window
    probes are answered for the far end, and an endpoint's applications have their limits of
    patience (TCP_USER_TIMEOUT) lifted, and pace what they send afterwards. Without it a
    connection ends as its application and its kernel would have it without us, the kernel's
    after some 15 minutes."""

    def contradictions(self) -> Iterator[Contradiction]:
        if self.flow_bytes > self.max_bytes:
            yield Contradiction(
                ("flow_bytes",),
                "one flow may hold more than all together",
                "raise max_bytes, or lower flow_bytes",
            )

    @property
    def policy(self) -> HoldPolicy:
        limits = HoldLimits(
            max_bytes=self.max_bytes,
            max_packets=self.max_packets,
            flow_bytes=self.flow_bytes,
            tcp_age=self.tcp_age,
            datagram_age=self.datagram_age,
            query_age=self.query_age,
            keep_oldest=self.keep is Keep.OLDEST,
        )
        return HoldPolicy(limits, self.freeze, frozenset(self.query_ports))


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
class Metrics:
    """What is counted, for a Prometheus. `orchestrator metrics` has it always."""

    listen: ListenAddress | None = None
    """Where it is served by HTTP, as `/metrics`: `"127.0.0.1:9464"`. Not at all by default.
    There is neither a password nor TLS: whoever reaches the address reads how many are here,
    and when they move. So take a loopback address, and let an exporter proxy, or a Prometheus
    on this host, do the rest; every other one is open to all who can reach it."""


@dataclass(frozen=True, slots=True)
class Keys:
    """How long keys are used. charon negotiates fresh ones that long after the last, or up to a
    tenth sooner; each side does so by its own times. Those that were not replaced end a tenth
    after their time."""

    ike: Annotated[Seconds, Between(10, 604_800)] = Seconds(14_400.0)
    """Those that protect negotiations. Four hours, strongSwan's own default: fresh ones cost
    one exchange, and interrupt nothing."""
    child: Annotated[Seconds, Between(10, 604_800)] = Seconds(3_600.0)
    """Those that protect the traffic. One hour, strongSwan's own default."""


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
