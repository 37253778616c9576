"""The TLS certificate of `serve`, with reload."""

import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from agentapi_mcp.base.errors import ConfigurationError

_log = logging.getLogger(__name__)


class _EncryptedError(Exception):
    """The private key is encrypted."""


@dataclass(slots=True)
class Certificate:
    """A certificate chain and its private key, as PEM files, with the TLS context that uses them."""

    chain: Path
    key: Path
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        """Read both files.

        Raises:
            ConfigurationError: a file cannot be read or is not PEM, or the key is not the certificate's.
        """
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # uvicorn speaks HTTP/1.1 only.
        self.context.set_alpn_protocols(["http/1.1"])
        self._load(self.context)

    def renew(self) -> None:
        """Reload both files for new connections; on an error, keep the certificate in use."""
        try:
            # Into a throwaway context first: a failed load could leave the live one with half of the pair.
            self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
            self._load(self.context)
        except ConfigurationError as exc:
            _log.error("certificate_not_renewed", extra={"reason": str(exc)})
        else:
            _log.info("certificate_renewed")

    def _load(self, context: ssl.SSLContext) -> None:
        for path, what, mark in (
            (self.chain, "certificate", b"-----BEGIN CERTIFICATE-----"),
            (self.key, "private key", b"PRIVATE KEY-----"),
        ):
            if mark not in _read(path):
                raise ConfigurationError(f"{path} holds no {what} in the PEM form; give the {what} of this server.")
        try:
            # Without a callback, OpenSSL would prompt on the terminal and block the server.
            context.load_cert_chain(self.chain, self.key, _no_passphrase)
        except _EncryptedError:
            raise ConfigurationError(
                f"{self.key} is encrypted, and nobody is there to give its passphrase: give a key without one."
            ) from None
        except (ssl.SSLError, OSError) as exc:
            if getattr(exc, "reason", None) == "KEY_VALUES_MISMATCH":
                message = f"{self.key} is not the private key of the certificate in {self.chain}; give the pair."
            else:
                message = f"{self.chain} and {self.key} cannot be used as a certificate and its private key."
            raise ConfigurationError(message) from exc


def open_certificate(chain: Path | None, key: Path | None) -> Certificate | None:
    """Return the configured certificate, or None without TLS.

    Raises:
        ConfigurationError: only one of the two files is given, or they cannot be used.
    """
    if chain is not None and key is not None:
        return Certificate(chain, key)
    if chain is not None or key is not None:
        raise ConfigurationError(
            "Give both --tls-cert and --tls-key (or AGENTAPI_TLS_CERT and AGENTAPI_TLS_KEY), or neither."
        )
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(
            f"{path} cannot be read ({exc.strerror}); give a file that this user may read."
        ) from exc


def _no_passphrase() -> str:
    raise _EncryptedError
