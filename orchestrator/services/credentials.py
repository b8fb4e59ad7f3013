"""Hands our secrets to charon, and says how the two sides of a connection prove themselves.

Secrets are read from their files each time that charon appears, go over the VICI socket, and
stay nowhere else.
"""

from pathlib import Path
from typing import Final

from orchestrator.adapters.charon import Charon, ViciMessage, ViciValue
from orchestrator.config.common import CertificateAuth
from orchestrator.config.endpoint import EndpointConfig, EndpointPsk
from orchestrator.config.server import ServerConfig, ServerPsk
from orchestrator.core.errors import ConfigError, ConfigFault

PREFIX: Final = "orchestrator"
"""Of the names under which charon knows our pre-shared keys. It names private keys and
certificates itself, by what is in them."""


def is_ours(shared: str) -> bool:
    """Whether a pre-shared key of this name came from one of our daemons."""
    return shared == PREFIX or shared.startswith(f"{PREFIX} ")


class Credentials:
    """What one role authenticates with."""

    def __init__(self, config: EndpointConfig | ServerConfig) -> None:
        self._identity = config.identity
        self._auth = config.auth
        self._peer = config.server.identity if isinstance(config, EndpointConfig) else None

    async def load(self, charon: Charon) -> None:
        """Raises ConfigError for a file that has become unreadable, CharonError."""
        match self._auth:
            case EndpointPsk():
                owners = [self._identity, *([self._peer] if self._peer else [])]
                await charon.load_shared(PREFIX, self._auth.key(), owners)
            case ServerPsk():
                for name, key in self._auth.keys():  # noqa: SIM118 - no dictionary
                    # Not ours as well: charon takes any key of either side for good, and
                    # who has one of them could pose as everybody.
                    owners = [name] if name else [self._identity]
                    await charon.load_shared(f"{PREFIX} {name or 'default'}", key, owners)
            case CertificateAuth(private_key=private_key, ca=authorities):
                await charon.load_key(_read(private_key))
                for authority in authorities:
                    await charon.load_certificate(_read(authority), authority=True)

    def sides(self, remote: str | None) -> tuple[ViciMessage, ViciMessage]:
        """The sections `local` and `remote`; `remote` None: whoever can prove an identity.

        Raises ConfigError for a certificate that has become unreadable.
        """
        identity: dict[str, ViciValue] = {} if remote is None else {"id": remote}
        if isinstance(self._auth, CertificateAuth):
            certificate = [_read(self._auth.certificate)]
            authorities = [_read(authority) for authority in self._auth.ca]
            return (
                {"auth": "pubkey", "id": self._identity, "certs": certificate},
                {"auth": "pubkey", "cacerts": authorities, **identity},
            )
        return {"auth": "psk", "id": self._identity}, {"auth": "psk", **identity}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise ConfigError([ConfigFault(path, 0, problem, "restore the file")]) from error
