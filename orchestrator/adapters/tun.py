"""Talks to a TUN device: what is routed to it is read here, what is written was received there.

The device is persistent: it outlives the daemon, so that no socket bound to its addresses is
closed by a crash. Its MTU, addresses and state are rtnetlink's. It belongs to root alone: one
without an owner could be opened by anybody while no daemon holds it.
"""

import contextlib
import errno
import fcntl
import os
from struct import Struct
from types import TracebackType
from typing import Final, Self

from orchestrator.core.errors import KernelError

DEVICE: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_TUNSETOWNER: Final = 0x400454CC
_TUNGETIFF: Final = 0x800454D2
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFREQ: Final = Struct("=16sH22x")
"""struct ifreq of include/uapi/linux/if.h: name and flags, 40 octets."""
_NAME_SIZE: Final = 15
"""IFNAMSIZ without its closing zero."""
_PACKET_SIZE: Final = 65535
"""No IP packet is longer; without IFF_VNET_HDR none is longer than the MTU either."""
_ROOT: Final = 0


class TunDevice:
    """An open TUN device; reading and writing never wait."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name: Final = name
        self._descriptor = descriptor

    @classmethod
    def open(cls, name: str) -> Self:
        """Adopts the device, or creates it, persistent and root's.

        Raises KernelError: EBUSY when it is open elsewhere, EINVAL when the name belongs to
        another kind of device.
        """
        return cls(name, _own(name))

    def is_gone(self) -> bool:
        """Whether somebody deleted the device, or gave it another name."""
        try:
            found = fcntl.ioctl(self._descriptor, _TUNGETIFF, bytes(_IFREQ.size))
        except OSError:
            return True
        name, _ = _IFREQ.unpack(found)
        return bool(name.rstrip(b"\0") != self.name.encode())

    def reopen(self) -> None:
        """Makes a deleted device anew; the descriptor is another one. Raises KernelError."""
        fresh = _own(self.name)
        with contextlib.suppress(OSError):  # of a renamed one nothing shall stay
            fcntl.ioctl(self._descriptor, _TUNSETPERSIST, 0)
        os.close(self._descriptor)
        self._descriptor = fresh

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Lets go of the device; it stays, and drops what is routed to it."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(self) -> bytes | None:
        """The next packet, whole; None when there is none now. Raises KernelError."""
        try:
            return os.read(self._descriptor, _PACKET_SIZE)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _translated(error, "read from", self.name) from error

    def write(self, packet: bytes) -> None:
        """Lets the packet arrive from the device. Raises KernelError."""
        try:
            os.write(self._descriptor, packet)
        except OSError as error:
            raise _translated(error, "write to", self.name) from error


def _own(name: str) -> int:
    descriptor = _attach(name)
    try:
        fcntl.ioctl(descriptor, _TUNSETOWNER, _ROOT)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    except OSError as error:
        os.close(descriptor)
        raise _translated(error, "keep", name) from error
    return descriptor


def _attach(name: str) -> int:
    packed = name.encode()
    if not 0 < len(packed) <= _NAME_SIZE:
        raise KernelError(errno.EINVAL, "open", name, f"a name has 1 to {_NAME_SIZE} octets")
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _translated(error, "open", DEVICE) from error
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(packed, _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(descriptor)
        raise _translated(error, "open", name) from error
    return descriptor


def _translated(error: OSError, operation: str, subject: str) -> KernelError:
    number = error.errno or errno.EIO
    detail = os.strerror(number)
    if number == errno.EBUSY:
        detail += ": another process has it open, is a second daemon running?"
    return KernelError(number, operation, subject, detail)
