"""What charon is told of our secrets, and that nobody else is."""

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from orchestrator.adapters.charon import Charon, Section, ViciMessage
from orchestrator.config.common import CertificateAuth
from orchestrator.config.endpoint import EndpointConfig, EndpointPsk
from orchestrator.config.endpoint import Server as ServerOfEndpoint
from orchestrator.config.server import ServerConfig, ServerPsk, Underlay, Vip
from orchestrator.config.values import Identity, InterfaceName, Secret
from orchestrator.core.errors import ConfigError
from orchestrator.services.credentials import Credentials

CAROL, DAVE, GATEWAY = map(
    Identity, ("carol@example.org", "dave@example.org", "gw.example.org")
)
SECRET, OTHER = "correct horse battery staple", "another one"


class Listening(Charon):
    """Takes every command, and remembers it."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.told: list[tuple[str, ViciMessage | None]] = []

    async def _command(self, name: str, message: ViciMessage | None = None) -> Section:
        self.told.append((name, message))
        return {}


def endpoint(auth: EndpointPsk | CertificateAuth) -> EndpointConfig:
    server = ServerOfEndpoint(GATEWAY, (ip_address("203.0.113.10"),))
    return EndpointConfig("endpoint", CAROL, server, auth)


def server(auth: ServerPsk | CertificateAuth) -> ServerConfig:
    underlay = Underlay((InterfaceName("wan0"),))
    return ServerConfig("server", GATEWAY, underlay, auth, Vip((ip_network("10.99.0.0/24"),)))


def told(config: EndpointConfig | ServerConfig) -> list[tuple[str, ViciMessage | None]]:
    charon = Listening()
    asyncio.run(Credentials(config).load(charon))
    return charon.told


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def certificate_auth(folder: Path) -> CertificateAuth:
    return CertificateAuth(
        "certificate",
        certificate=written(folder / "own.pem", "our certificate"),
        private_key=written(folder / "own.key", "our key"),
        ca=(written(folder / "a.pem", "authority a"), written(folder / "b.pem", "authority b")),
    )


def shared(name: str, secret: str, *owners: str) -> tuple[str, Mapping[str, object]]:
    content = {"id": name, "type": "IKE", "data": secret.encode(), "owners": list(owners)}
    return "load-shared", content


def test_an_endpoint_shares_its_key_with_the_server(tmp_path: Path) -> None:
    for auth in (
        EndpointPsk("psk", secret=Secret(SECRET)),
        EndpointPsk("psk", secret_file=written(tmp_path / "secret", f"{SECRET}\n")),
    ):
        assert told(endpoint(auth)) == [shared("orchestrator", SECRET, CAROL, GATEWAY)]


def test_at_the_server_a_key_belongs_to_one_endpoint_alone(tmp_path: Path) -> None:
    files = {
        CAROL: written(tmp_path / "carol", SECRET),
        DAVE: written(tmp_path / "dave", OTHER),
    }
    assert told(server(ServerPsk("psk", secrets=files))) == [
        shared(f"orchestrator {CAROL}", SECRET, CAROL),
        shared(f"orchestrator {DAVE}", OTHER, DAVE),
    ]


def test_the_one_key_of_all_endpoints_is_the_servers(tmp_path: Path) -> None:
    auth = ServerPsk("psk", secret_file=written(tmp_path / "secret", SECRET))
    assert told(server(auth)) == [shared("orchestrator default", SECRET, GATEWAY)]


def test_a_key_is_read_anew_each_time(tmp_path: Path) -> None:
    file = written(tmp_path / "secret", SECRET)
    credentials = Credentials(endpoint(EndpointPsk("psk", secret_file=file)))
    charon = Listening()
    asyncio.run(credentials.load(charon))
    written(file, OTHER)
    asyncio.run(credentials.load(charon))
    assert charon.told[1] == shared("orchestrator", OTHER, CAROL, GATEWAY)


def test_charon_gets_the_private_key_and_every_authority(tmp_path: Path) -> None:
    auth = certificate_auth(tmp_path)
    expected = [
        ("load-key", {"type": "any", "data": b"our key"}),
        ("load-cert", {"type": "X509", "flag": "CA", "data": b"authority a"}),
        ("load-cert", {"type": "X509", "flag": "CA", "data": b"authority b"}),
    ]
    assert told(endpoint(auth)) == expected
    assert told(server(auth)) == expected


def test_a_connection_names_both_identities() -> None:
    credentials = Credentials(endpoint(EndpointPsk("psk", secret=Secret(SECRET))))
    assert credentials.sides(GATEWAY) == (
        {"auth": "psk", "id": CAROL},
        {"auth": "psk", "id": GATEWAY},
    )


def test_a_newcomer_may_have_any_identity_it_can_prove(tmp_path: Path) -> None:
    assert Credentials(server(certificate_auth(tmp_path))).sides(None) == (
        {"auth": "pubkey", "id": GATEWAY, "certs": [b"our certificate"]},
        {"auth": "pubkey", "cacerts": [b"authority a", b"authority b"]},
    )


@pytest.mark.parametrize("lost", ["own.pem", "a.pem"])
def test_a_lost_certificate_is_named(tmp_path: Path, lost: str) -> None:
    credentials = Credentials(endpoint(certificate_auth(tmp_path)))
    (tmp_path / lost).unlink()
    with pytest.raises(ConfigError, match=f"{lost}.*cannot be read: No such file"):
        credentials.sides(GATEWAY)


@pytest.mark.parametrize("lost", ["own.key", "b.pem"])
def test_a_lost_key_is_named(tmp_path: Path, lost: str) -> None:
    config = endpoint(certificate_auth(tmp_path))
    (tmp_path / lost).unlink()
    with pytest.raises(ConfigError, match=f"{lost}.*cannot be read: No such file"):
        told(config)


def test_nothing_that_can_be_printed_shows_a_secret() -> None:
    config = endpoint(EndpointPsk("psk", secret=Secret(SECRET)))
    credentials = Credentials(config)
    asyncio.run(credentials.load(Listening()))
    for printed in (repr(config), repr(credentials), repr(vars(credentials))):
        assert SECRET not in printed
