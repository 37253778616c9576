"""Session states in Redis, for programs that look there; ours asks Postgres."""

import json

from agentapi_mcp.core.records.ids import SessionId
from agentapi_mcp.core.records.sessions import SessionState
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.keys import SESSION


class RedisSessionStates:
    """One JSON object for each session."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def tell(self, session_id: SessionId, state: SessionState) -> None:
        """Tell it for a day."""
        key = self._client.key(SESSION, session_id)
        text = json.dumps(
            {
                "user_id": str(state.user_id),
                "org_id": str(state.org_id),
                "agent": state.agent,
                "model": state.model,
                "metadata": dict(state.metadata),
            }
        )
        await self._client.write(lambda redis: redis.set(key, text, ex=SESSION.lifetime))

    async def forget(self, session_id: SessionId) -> None:
        """Tell it no longer."""
        key = self._client.key(SESSION, session_id)
        await self._client.write(lambda redis: redis.delete(key))
