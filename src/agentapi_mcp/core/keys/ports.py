"""Storage ports of keys."""

from collections.abc import Sequence
from typing import Protocol

from agentapi_mcp.base.ids import ApiKeyId
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import ApiKey, KeyOwner, KeyRequest, PagePurpose, SealedKey


class ApiKeyStore(Protocol):
    """Encrypted provider keys; keys of other owners are treated as absent.

    The principal is the one who asks, also for a key of the organisation.
    """

    async def add(self, principal: Principal, new: SealedKey) -> ApiKey:
        """Store a key, or raise ConflictError if its owner has one with this name."""
        ...

    async def list_(self, principal: Principal, owner: KeyOwner) -> tuple[ApiKey, ...]:
        """List an owner's keys, oldest first."""
        ...

    async def active(self, principal: Principal) -> tuple[SealedKey, ...]:
        """List the active keys of the principal and of their organisation."""
        ...

    async def remove(self, principal: Principal, key: ApiKey) -> None:
        """Remove a key."""
        ...

    async def set_active(self, principal: Principal, key: ApiKey, *, active: bool) -> None:
        """Enable or disable a key."""
        ...

    async def mark_used(self, principal: Principal, key: ApiKey) -> None:
        """Record the use of a key, unless one was recorded within the last minute."""
        ...

    async def sealed(self, after: ApiKeyId, limit: int) -> tuple[SealedKey, ...]:
        """List keys of all owners, by id."""
        ...

    async def replace(self, pairs: Sequence[tuple[SealedKey, SealedKey]]) -> int:
        """Replace encrypted values and return how many; values that changed meanwhile are skipped."""
        ...


class KeyRequestStore(Protocol):
    """Single-use requests for keys and accounts; a request with another purpose counts as absent."""

    async def add(self, request: KeyRequest) -> None:
        """Store a request."""
        ...

    async def find(self, token_sha256: bytes, purpose: PagePurpose) -> KeyRequest | None:
        """Find a request that is neither used nor expired."""
        ...

    async def consume(self, visitor: Principal, token_sha256: bytes, purpose: PagePurpose) -> KeyRequest | None:
        """Mark a request as used; None when it is used or expired."""
        ...

    async def restore(self, visitor: Principal, token_sha256: bytes) -> None:
        """Make a consumed request usable again."""
        ...
