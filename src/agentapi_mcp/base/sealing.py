"""The port for encrypting secrets at rest."""

from collections.abc import Sequence
from typing import Protocol


class Sealer(Protocol):
    """Authenticated encryption of secrets, bound to the table and row where they are stored."""

    @property
    def key_id(self) -> str:
        """The id of the master key that encrypts new secrets."""
        ...

    def seal(self, plain: str, bound_to: Sequence[str]) -> bytes:
        """Encrypt a text, with `bound_to` as associated data."""
        ...

    def open_(self, sealed: bytes, bound_to: Sequence[str]) -> str:
        """Decrypt a text that was sealed with the same `bound_to`.

        Raises:
            ConfigurationError: the master key that encrypted it is missing.
            StoreError: it was modified, or sealed for another place.
        """
        ...
