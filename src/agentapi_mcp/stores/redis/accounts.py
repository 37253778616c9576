"""Access tokens of connected accounts in Redis, sealed, until they are to be renewed; safe to lose."""

import base64
import binascii
from collections.abc import Mapping, Sequence

from typing_extensions import override

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import UserId
from agentapi_mcp.core.accounts.models import Account
from agentapi_mcp.core.accounts.ports import AccountCache
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.hot_copies import HotCopies
from agentapi_mcp.stores.redis.keys import OAUTH_TOKEN


class RedisAccountCache(AccountCache):
    """One key for each user and provider; without Redis all tokens are read from the database."""

    def __init__(self, client: RedisClient, clock: Clock) -> None:
        self._copies = HotCopies(client)
        self._clock = clock

    @override
    async def find(self, user_id: UserId, providers: Sequence[str]) -> Mapping[str, bytes]:
        found = await self._copies.find(_names(user_id, providers))
        read = ((name, _sealed(copy.text)) for name, copy in zip(providers, found, strict=True) if copy is not None)
        return {name: sealed for name, sealed in read if sealed is not None}

    @override
    async def claim(self, user_id: UserId, providers: Sequence[str]) -> str | None:
        return await self._copies.claim(_names(user_id, providers))

    @override
    async def put(self, account: Account, sealed: bytes, claim: str | None) -> None:
        until = account.renew_at
        lifetime = OAUTH_TOKEN.lifetime if until is None else until - self._clock.now()
        (name,) = _names(account.user_id, [account.provider])
        await self._copies.put(name, base64.b64encode(sealed).decode(), lifetime, claim)

    @override
    async def remove(self, user_id: UserId, provider: str) -> None:
        (name,) = _names(user_id, [provider])
        await self._copies.remove(name)


def _names(user_id: UserId, providers: Sequence[str]) -> Sequence[str]:
    return [OAUTH_TOKEN.name("", user_id, provider) for provider in providers]


def _sealed(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
