"""The cache of access tokens without Redis: none."""

from collections.abc import Mapping, Sequence

from typing_extensions import override

from agentapi_mcp.base.ids import UserId
from agentapi_mcp.core.accounts.models import Account
from agentapi_mcp.core.accounts.ports import AccountCache


class NoAccountCache(AccountCache):
    """Keeps nothing: the database is as near, and a token that was disconnected elsewhere must not be used here."""

    @override
    async def find(self, user_id: UserId, providers: Sequence[str]) -> Mapping[str, bytes]:
        return {}

    @override
    async def claim(self, user_id: UserId, providers: Sequence[str]) -> str | None:
        return None

    @override
    async def put(self, account: Account, sealed: bytes, claim: str | None) -> None:
        return None

    @override
    async def remove(self, user_id: UserId, provider: str) -> None:
        return None
