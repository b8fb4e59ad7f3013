"""Looks into the certificates that a configuration names: what charon would refuse later.

Read with the library `cryptography`, the one that Python's own ssl module lacks an answer for:
when a certificate ends, whom it names, and whether the key is its key.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from orchestrator.config.common import CertificateAuth
from orchestrator.config.endpoint import EndpointConfig
from orchestrator.config.reader import Contradiction
from orchestrator.config.server import ServerConfig
from orchestrator.config.toml import faults as placed
from orchestrator.config.toml import positions_of
from orchestrator.core.errors import ConfigFault

SOON: Final = timedelta(days=14)
"""A certificate that ends sooner is a fault already: renewing one takes people."""


def faults(
    file: Path, config: EndpointConfig | ServerConfig, now: datetime | None = None
) -> tuple[ConfigFault, ...]:
    """What is wrong with the certificates of a configuration that was loaded from `file`."""
    if not isinstance(config.auth, CertificateAuth):
        return ()
    found = _examine(config.auth, config.identity, now or datetime.now(UTC))
    return placed(file.absolute(), positions_of(file), found)


def _examine(auth: CertificateAuth, identity: str, now: datetime) -> Iterator[Contradiction]:
    ours = _certificate(auth.certificate)
    where = ("auth", "certificate")
    if ours is None:
        yield _not_pem(where, auth.certificate, "a certificate")
    else:
        yield from _validity(where, auth.certificate, ours, now)
        if not names(ours, identity):
            yield Contradiction(
                where,
                f"{auth.certificate} does not name {identity}: charon would not let it stand "
                "for that",
                "use an identity that is in its subjectAltName, or its whole subject",
            )
        yield from _key_faults(auth.private_key, ours)
    for index, path in enumerate(auth.ca):
        authority = _certificate(path)
        if authority is None:
            yield _not_pem(("auth", "ca", index), path, "a certificate")
            continue
        yield from _validity(("auth", "ca", index), path, authority, now)
        if not _is_authority(authority):
            yield Contradiction(
                ("auth", "ca", index),
                f"{path} is not the certificate of an authority",
                "name the certificate that signed the other side's",
            )


def names(certificate: x509.Certificate, identity: str) -> bool:
    """Whether charon takes the certificate as one of this identity: by a subjectAltName, or by
    the subject (compared part by part: there are many ways to write one)."""
    if "=" in identity:
        subject = {
            (part.rfc4514_attribute_name.upper(), str(part.value))
            for part in certificate.subject
        }
        return subject == {_part(text) for text in identity.split(",")}
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return False
    kinds = (x509.DNSName, x509.RFC822Name, x509.IPAddress)
    alternatives = [each for each in found.value if isinstance(each, kinds)]
    return identity.lower() in {str(each.value).lower() for each in alternatives}


def _part(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip().upper(), value.strip()


def _validity(
    where: tuple[str | int, ...], path: Path, certificate: x509.Certificate, now: datetime
) -> Iterator[Contradiction]:
    ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if now < begins:
        yield Contradiction(
            where, f"{path} is valid from {begins:%Y-%m-%d %H:%M} UTC only", "set the clock"
        )
    if ends < now:
        yield Contradiction(
            where, f"{path} has expired on {ends:%Y-%m-%d}", "have it issued again"
        )
    elif ends - now < SOON:
        yield Contradiction(
            where, f"{path} expires on {ends:%Y-%m-%d}", "have it issued again before"
        )


def _key_faults(path: Path, certificate: x509.Certificate) -> Iterator[Contradiction]:
    where = ("auth", "private_key")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except TypeError:
        yield Contradiction(
            where,
            f"{path} is encrypted",
            f"decrypt it: `openssl pkey -in {path} -out NEW`, then chmod 600 NEW",
        )
    except (OSError, ValueError, UnsupportedAlgorithm):
        yield _not_pem(where, path, "a private key")
    else:
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
            yield Contradiction(
                where,
                f"{path} is not the key of the certificate",
                "name the key that the certificate was requested with",
            )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, ValueError):
        return False
    return found.value.ca


def _certificate(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None


def _not_pem(where: tuple[str | int, ...], path: Path, what: str) -> Contradiction:
    return Contradiction(where, f"{path} holds no PEM of {what}", "convert it to PEM")
