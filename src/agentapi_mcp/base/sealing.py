"""The port for sealing secrets."""

from collections.abc import Sequence
from typing import Protocol


class Sealer(Protocol):
    """Seals secrets for the place where they are kept, named from the table to the row: elsewhere they do not open."""

    @property
    def key_id(self) -> str:
        """The id of the master key that seals now."""
        ...

    def seal(self, plain: str, bound_to: Sequence[str]) -> bytes:
        """Seal a text for this place."""
        ...

    def open_(self, sealed: bytes, bound_to: Sequence[str]) -> str:
        """Open what was sealed for this place.

        Raises:
            ConfigurationError: the master key that sealed it is not given.
            StoreError: it was not sealed here, or changed since.
        """
        ...
