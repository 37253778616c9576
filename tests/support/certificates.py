"""Certificates for a server on loopback, each signed by itself."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate of 127.0.0.1 and localhost, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, shift: timedelta = timedelta()) -> Self:
        """Make a pair that is valid today, or before or after."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC) + shift
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @property
    def pem(self) -> bytes:
        """The certificate, as a client trusts it."""
        return self.certificate.public_bytes(Encoding.PEM)

    def write(self, directory: Path, passphrase: bytes | None = None) -> tuple[Path, Path]:
        """Write both files, and return where they are."""
        chain, key = directory / "cert.pem", directory / "key.pem"
        chain.write_bytes(self.pem)
        encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return chain, key


def trusting(*pairs: Pair) -> ssl.SSLContext:
    """Return what a client needs that trusts these and no others."""
    return ssl.create_default_context(cadata="".join(pair.pem.decode() for pair in pairs))
