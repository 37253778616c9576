"""Encryption of secrets at rest: AES-256-GCM, bound to the row where the secret is stored.

A sealed value is: the version (1), the length of the master key's id, the id, a nonce of 96 bits, ciphertext and tag.
The header before the nonce, and the place, are its associated data.
"""

import json
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from typing_extensions import override

from agentapi_mcp.auth.master_keys import MasterKey, MasterKeySource
from agentapi_mcp.base.errors import ConfigurationError, StoreError
from agentapi_mcp.base.sealing import Sealer

_VERSION = 1
_NONCE = 12
_TAG = 16
_NOT_SEALED_HERE = "A secret in the database is not what was sealed for its place; remove it and enter it again."


class AesGcmSealer(Sealer):
    """Encrypts with the first of its keys, and decrypts with any of them, so that keys can be rotated."""

    def __init__(self, keys: Sequence[MasterKey]) -> None:
        self._first = keys[0].id
        self._ciphers = {key.id: AESGCM(key.value) for key in keys}

    @property
    @override
    def key_id(self) -> str:
        return self._first

    @override
    def seal(self, plain: str, bound_to: Sequence[str]) -> bytes:
        name = self._first.encode()
        head = bytes((_VERSION, len(name))) + name
        nonce = os.urandom(_NONCE)
        return head + nonce + self._ciphers[self._first].encrypt(nonce, plain.encode(), _bound(head, bound_to))

    @override
    def open_(self, sealed: bytes, bound_to: Sequence[str]) -> str:
        start = 2 + sealed[1] if len(sealed) > 1 and sealed[0] == _VERSION else len(sealed)
        if len(sealed) < start + _NONCE + _TAG:
            raise StoreError(_NOT_SEALED_HERE)
        head, nonce, rest = sealed[:start], sealed[start : start + _NONCE], sealed[start + _NONCE :]
        name = head[2:].decode("ascii", "backslashreplace")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise ConfigurationError(
                f"A secret in the database was sealed with the master key {name[:32]!r}, which is not given: "
                "add it to AGENTAPI_MASTER_KEY, after the one that seals."
            )
        try:
            return cipher.decrypt(nonce, rest, _bound(head, bound_to)).decode()
        except InvalidTag as exc:
            raise StoreError(_NOT_SEALED_HERE) from exc


def _bound(head: bytes, place: Sequence[str]) -> bytes:
    return head + json.dumps(list(place)).encode()  # JSON is unambiguous, so no two places have the same encoding


async def open_sealer(source: MasterKeySource) -> AesGcmSealer:
    """Return a sealer with the master keys of a source.

    Raises:
        ConfigurationError: the keys cannot be read.
    """
    return AesGcmSealer(await source.read())
