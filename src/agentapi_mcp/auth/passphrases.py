"""Encryption by a passphrase: a key by scrypt (RFC 7914), and AES-256-GCM.

A sealed value is: the version (1), a salt of 128 bits, a nonce of 96 bits, ciphertext and tag. The version decides on
the parameters of scrypt, and is associated data with the salt.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from agentapi_mcp.base.errors import InvalidRequestError

_VERSION = 1
_SALT = 16
_NONCE = 12
# 128 MB and about half a second for each attempt to guess.
_COST, _BLOCK, _PARALLEL = 2**17, 8, 1
LEAST = 12


def check_passphrase(passphrase: str) -> None:
    """Refuse a passphrase that can be guessed.

    Raises:
        InvalidRequestError: it is too short.
    """
    if len(passphrase) < LEAST:
        raise InvalidRequestError(f"The passphrase needs {LEAST} characters: whoever has the backup can try many.")


def seal(plain: str, passphrase: str) -> bytes:
    """Encrypt a text."""
    head = bytes((_VERSION,)) + os.urandom(_SALT)
    nonce = os.urandom(_NONCE)
    return head + nonce + _cipher(head, passphrase).encrypt(nonce, plain.encode(), head)


def unseal(sealed: bytes, passphrase: str) -> str:
    """Decrypt what `seal` returned.

    Raises:
        InvalidRequestError: the passphrase is another one, or the value was changed.
    """
    start = 1 + _SALT
    head, nonce, rest = sealed[:start], sealed[start : start + _NONCE], sealed[start + _NONCE :]
    if head[:1] != bytes((_VERSION,)):
        raise InvalidRequestError("The master keys in this backup are sealed in a way that this program does not know.")
    try:
        return _cipher(head, passphrase).decrypt(nonce, rest, head).decode()
    except (InvalidTag, ValueError):  # a nonce that was cut off, too
        raise InvalidRequestError("The passphrase does not open the master keys of this backup.") from None


def _cipher(head: bytes, passphrase: str) -> AESGCM:
    derived = Scrypt(salt=head[1:], length=32, n=_COST, r=_BLOCK, p=_PARALLEL)
    return AESGCM(derived.derive(passphrase.encode()))
