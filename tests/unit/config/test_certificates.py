"""What charon would refuse later is said now."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from orchestrator.config.certificates import faults
from orchestrator.config.endpoint import EndpointConfig
from orchestrator.config.toml import load
from tests.unit.config.test_load import endpoint

NOW = datetime(2024, 5, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
IDENTITY = "laptop1@example.org"


@dataclass
class Issued:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, folder: Path, encryption: KeySerializationEncryption) -> None:
        (folder / "cert.pem").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        form = (Encoding.PEM, PrivateFormat.PKCS8)
        (folder / "key.pem").write_bytes(self.key.private_bytes(*form, encryption))
        (folder / "key.pem").chmod(0o600)


def issue(
    *,
    begins: datetime = NOW - YEAR,
    ends: datetime = NOW + YEAR,
    authority: bool = False,
    alternative: str | None = IDENTITY,
) -> Issued:
    """A certificate, signed by itself: who signed it is charon's to judge."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(NameOID.COMMON_NAME, "laptop 1"),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if alternative is not None:
        names = x509.SubjectAlternativeName(
            [x509.RFC822Name(alternative), x509.DNSName("laptop1.example.org")]
        )
        builder = builder.add_extension(names, critical=False)
    return Issued(builder.sign(key, hashes.SHA256()), key)


def configure(
    folder: Path,
    ours: Issued,
    *,
    ca: Issued | None = None,
    identity: str = IDENTITY,
    encryption: KeySerializationEncryption | None = None,
) -> Path:
    ours.write(folder, encryption or NoEncryption())
    authority = ca or issue(authority=True)
    (folder / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    file = folder / "endpoint.toml"
    file.write_text(f"""\
role = "endpoint"
identity = "{identity}"
server = {{ identity = "vpn.example.org", addresses = ["203.0.113.10"] }}
[auth]
kind = "certificate"
certificate = "cert.pem"
private_key = "key.pem"
ca = ["ca.pem"]
""")
    return file


def said(file: Path) -> list[str]:
    config = load(file)
    assert isinstance(config, EndpointConfig)
    return [str(fault).replace(f"{file.parent}/", "") for fault in faults(file, config, NOW)]


@pytest.mark.parametrize(
    "identity",
    [
        IDENTITY,
        "laptop1.example.org",
        "LAPTOP1.example.ORG",
        "C=CH, O=Example, CN=laptop 1",
        "CN=laptop 1,O=Example,c=CH",
    ],
)
def test_a_right_certificate(tmp_path: Path, identity: str) -> None:
    assert said(configure(tmp_path, issue(), identity=identity)) == []


def test_an_expired_one(tmp_path: Path) -> None:
    (fault,) = said(configure(tmp_path, issue(ends=NOW - timedelta(days=1))))
    assert fault == (
        "endpoint.toml:6: cert.pem has expired on 2024-04-30; have it issued again"
    )


def test_one_that_expires_soon(tmp_path: Path) -> None:
    (fault,) = said(configure(tmp_path, issue(ends=NOW + timedelta(days=3))))
    assert "expires on 2024-05-04; have it issued again before" in fault


def test_one_from_the_future(tmp_path: Path) -> None:
    (fault,) = said(configure(tmp_path, issue(begins=NOW + timedelta(hours=1))))
    assert "is valid from 2024-05-01 01:00 UTC only; set the clock" in fault


@pytest.mark.parametrize(
    "identity", ["other@example.org", "C=CH, O=Example, CN=laptop 2", "O=Example"]
)
def test_one_that_names_somebody_else(tmp_path: Path, identity: str) -> None:
    (fault,) = said(configure(tmp_path, issue(), identity=identity))
    assert f"does not name {identity}" in fault


def test_one_that_names_nobody(tmp_path: Path) -> None:
    (fault,) = said(configure(tmp_path, issue(alternative=None)))
    assert "use an identity that is in its subjectAltName, or its whole subject" in fault


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    ours = issue()
    (fault,) = said(configure(tmp_path, Issued(ours.certificate, issue().key)))
    assert fault.startswith("endpoint.toml:7: key.pem is not the key of the certificate")


def test_a_key_that_somebody_would_have_to_unlock(tmp_path: Path) -> None:
    locked = BestAvailableEncryption(b"pass")
    (fault,) = said(configure(tmp_path, issue(), encryption=locked))
    assert "key.pem is encrypted; decrypt it" in fault


def test_an_expired_authority_that_is_none(tmp_path: Path) -> None:
    old = issue(ends=NOW - YEAR + timedelta(days=1))
    first, second = said(configure(tmp_path, issue(), ca=old))
    assert first.startswith("endpoint.toml:8: ca.pem has expired")
    assert "is not the certificate of an authority" in second


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    file = configure(tmp_path, issue())
    for name in ("cert.pem", "ca.pem"):
        (tmp_path / name).write_text("nonsense")
    assert said(file) == [
        "endpoint.toml:6: cert.pem holds no PEM of a certificate; convert it to PEM",
        "endpoint.toml:8: ca.pem holds no PEM of a certificate; convert it to PEM",
    ]
    file = configure(tmp_path, issue())
    (tmp_path / "key.pem").write_text("nonsense")
    (fault,) = said(file)
    assert "key.pem holds no PEM of a private key" in fault


def test_there_is_nothing_to_say_about_a_pre_shared_key(tmp_path: Path) -> None:
    config = endpoint(tmp_path)
    assert faults(tmp_path / "endpoint.toml", config) == ()
