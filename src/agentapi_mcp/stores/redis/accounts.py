"""Access tokens of connected accounts in Redis, sealed, until they are to be renewed; safe to lose."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from typing_extensions import override

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import UserId
from agentapi_mcp.core.accounts.ports import AccountCache
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.keys import OAUTH_TOKEN


class RedisAccountCache(AccountCache):
    """One key for each user and provider; without Redis all tokens are read from the database."""

    def __init__(self, client: RedisClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    @override
    async def find(self, user_id: UserId, providers: Sequence[str]) -> Mapping[str, bytes]:
        keys = [self._client.key(OAUTH_TOKEN, user_id, provider) for provider in providers]
        found = cast("list[str | None]", await self._client.read(lambda redis: redis.mget(keys), []))
        read = ((name, _sealed(text)) for name, text in zip(providers, found, strict=False))
        return {name: sealed for name, sealed in read if sealed is not None}

    @override
    async def put(self, user_id: UserId, provider: str, sealed: bytes, until: datetime | None) -> None:
        lifetime = OAUTH_TOKEN.lifetime
        if until is not None:
            lifetime = until - self._clock.now()
        milliseconds = int(lifetime.total_seconds() * 1000)
        if milliseconds <= 0:
            return
        key, text = self._client.key(OAUTH_TOKEN, user_id, provider), base64.b64encode(sealed).decode()
        await self._client.write(lambda redis: redis.set(key, text, px=milliseconds))

    @override
    async def remove(self, user_id: UserId, provider: str) -> None:
        key = self._client.key(OAUTH_TOKEN, user_id, provider)
        await self._client.write(lambda redis: redis.delete(key))


def _sealed(text: str | None) -> bytes | None:
    try:
        return None if text is None else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
