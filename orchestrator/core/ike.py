"""What charon tells us, as values: tunnels (an IKE_SA with its CHILD_SA) and their news.

IKE says local and remote; the SPIs are named by the direction of the traffic they protect.
"""

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.quantities import IPAddress, IPNetwork, Reqid, Spi, UniqueId


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One established CHILD_SA and the IKE_SA it belongs to."""

    ike: UniqueId
    child: UniqueId
    connection: str
    """The name of the connection in charon's configuration."""
    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int
    local_id: str
    remote_id: str
    reqid: Reqid
    spi_in: Spi
    spi_out: Spi
    local_ts: tuple[IPNetwork, ...]
    remote_ts: tuple[IPNetwork, ...]
    local_vips: tuple[IPAddress, ...] = ()
    """The virtual addresses the other side gave us in the configuration payload."""

    @property
    def given(self) -> tuple[IPAddress, ...]:
        """Our addresses, as the other side says: by payload, or by narrowing our offer."""
        hosts = (ts.network_address for ts in self.local_ts if ts.num_addresses == 1)
        return self.local_vips or tuple(hosts)


class IkeFailure(StrEnum):
    """Why an attempt to negotiate did not end in a tunnel; the words people see."""

    AUTHENTICATION = "authentication-failed"
    NO_PROPOSAL = "no-proposal-chosen"
    SELECTORS = "traffic-selectors-refused"
    MUST_ASK = "virtual-address-must-be-requested"
    """FAILED_CP_REQUIRED (RFC 7296, 3.10.1): the server has no lease for us yet."""
    POOL_EXHAUSTED = "no-virtual-address-left"
    """INTERNAL_ADDRESS_FAILURE (RFC 7296, 3.10.1)."""
    CERTIFICATE = "certificate-not-valid"
    SILENT = "server-silent"
    UNREACHABLE = "server-unreachable"
    REFUSED = "refused-after-authentication"
    CHARON = "charon-absent"
    CREDENTIALS = "credentials-unreadable"
    """Our own: a certificate or a key file cannot be read."""
    OTHER = "negotiation-failed"


@dataclass(frozen=True, slots=True)
class TunnelUp:
    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class TunnelRekeyed:
    """The CHILD_SA `old` was replaced by `tunnel.child` under the same IKE_SA."""

    old: UniqueId
    tunnel: Tunnel
    unsent: bool = False
    """The new outbound SA is not there yet: who was asked for a rekeying installs it when the
    other side has deleted the old ones (strongSwan, child_delete.c)."""


@dataclass(frozen=True, slots=True)
class TunnelDown:
    """The CHILD_SA is gone; its IKE_SA may live on."""

    ike: UniqueId
    child: UniqueId


@dataclass(frozen=True, slots=True)
class IkeRekeyed:
    """The IKE_SA has a new number; its CHILD_SAs went along."""

    old: UniqueId
    new: UniqueId


@dataclass(frozen=True, slots=True)
class IkeDown:
    ike: UniqueId


@dataclass(frozen=True, slots=True)
class IkeMoved:
    """An authenticated packet came from elsewhere and charon follows it (NAT mapping, move).

    charon 5.9 says so *before* it rewrites the SAs (libcharon/sa/ike_sa.c, update_hosts).
    """

    ike: UniqueId
    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int


@dataclass(frozen=True, slots=True)
class CharonUp:
    """The VICI socket answers; `tunnels` is everything established now."""

    version: str
    tunnels: tuple[Tunnel, ...]


@dataclass(frozen=True, slots=True)
class CharonGone:
    """The VICI socket is gone. SAs in the kernel may still carry traffic."""

    reason: str


IkeEvent = (
    TunnelUp
    | TunnelRekeyed
    | TunnelDown
    | IkeRekeyed
    | IkeDown
    | IkeMoved
    | CharonUp
    | CharonGone
)
