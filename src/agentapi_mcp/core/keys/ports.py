"""Storage ports of keys."""

from collections.abc import Sequence
from typing import Protocol

from agentapi_mcp.base.ids import ApiKeyId
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import ApiKey, KeyOwner, KeyRequest, SealedKey


class ApiKeyStore(Protocol):
    """Sealed keys of providers; another owner's is as if it were not there."""

    async def add(self, new: SealedKey) -> ApiKey:
        """Keep a key, or raise ConflictError where its owner has one of this name."""
        ...

    async def list_(self, owner: KeyOwner) -> tuple[ApiKey, ...]:
        """List an owner's keys, oldest first."""
        ...

    async def active(self, principal: Principal) -> tuple[SealedKey, ...]:
        """List what a principal's turns may use: their own, and their organisation's."""
        ...

    async def remove(self, key: ApiKey) -> None:
        """Remove a key."""
        ...

    async def set_active(self, key: ApiKey, *, active: bool) -> None:
        """Let a key be used, or no more."""
        ...

    async def mark_used(self, key: ApiKey) -> None:
        """Note that a key is used now, unless that was noted within the minute."""
        ...

    async def sealed_otherwise(self, key_id: str, after: ApiKeyId, limit: int) -> tuple[SealedKey, ...]:
        """List keys of all owners that another master key has sealed, by id."""
        ...

    async def replace(self, pairs: Sequence[tuple[SealedKey, SealedKey]]) -> int:
        """Put new seals in place of old ones, and return how many were still as they were."""
        ...


class KeyRequestStore(Protocol):
    """Requests for keys, each of which is used once."""

    async def add(self, request: KeyRequest) -> None:
        """Keep a request, and forget those that nobody can use any more."""
        ...

    async def find(self, token_sha256: bytes) -> KeyRequest | None:
        """Find a request that can be used."""
        ...

    async def take(self, token_sha256: bytes) -> KeyRequest | None:
        """Use a request up; None when it cannot be used."""
        ...

    async def give_back(self, token_sha256: bytes) -> None:
        """Let a request be used after all."""
        ...
