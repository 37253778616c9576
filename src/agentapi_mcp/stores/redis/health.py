"""Health results copied to Redis for other programs; the wrapped store stays the source of truth."""

import json
from collections.abc import Mapping

from typing_extensions import override

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HealthCheck
from agentapi_mcp.core.catalogue.models import AgentHealth
from agentapi_mcp.core.catalogue.ports import HealthStore
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.keys import HEALTH


class RedisHealth(HealthStore):
    """Delegates to the wrapped store, and publishes each new measurement in Redis for five minutes."""

    def __init__(self, store: HealthStore, client: RedisClient) -> None:
        self._store = store
        self._client = client

    @override
    async def all_(self) -> Mapping[AgentId, AgentHealth]:
        return await self._store.all_()

    @override
    async def record(self, agent_id: AgentId, check: HealthCheck) -> AgentHealth:
        health = await self._store.record(agent_id, check)
        key = self._client.key(HEALTH, agent_id)
        text = json.dumps(
            {
                "status": str(health.status),
                "last_check": health.checked_at and health.checked_at.isoformat(),
                "last_error": health.last_error,
                "consecutive_failures": health.consecutive_failures,
            }
        )
        await self._client.write(lambda redis: redis.set(key, text, ex=HEALTH.lifetime))
        return health
