"""What is quick to lose of a session, in Redis: its history for an hour, its state for a day."""

import json
from typing import cast
from uuid import UUID

from redis.asyncio import Redis

from agentapi_mcp.core.records.ids import MessageId, SessionId
from agentapi_mcp.core.records.sessions import History, HistoryMessage, MessageRole, SessionState
from agentapi_mcp.core.store_ports import SessionCache
from agentapi_mcp.stores.local.session_caches import MAX_CHARACTERS, characters_of
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.keys import HISTORY, SESSION


class RedisSessionCache:
    """Shared by all replicas; `here` spares the one that wrote a history the reading.

    A large one is not worth its memory. The states are for programs that look there; ours asks Postgres.
    """

    def __init__(self, here: SessionCache, client: RedisClient) -> None:
        self._here = here
        self._client = client

    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        """Find the history, if it ends with this message."""
        history = await self._here.find(session_id, last_message_id)
        if history is not None:
            return history
        key = self._client.key(HISTORY, session_id)
        text = await self._client.read(lambda redis: redis.get(key), None)
        history = None if text is None else _history(str(text))
        return history if history is not None and history.last_message_id == last_message_id else None

    async def keep(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
        """Keep both; the history that was there is forgotten even where the new one is too large."""
        await self._here.keep(session_id, state, history)
        kept = history is not None and characters_of(history) <= MAX_CHARACTERS
        state_text, text = _state_text(state), _text(history) if history is not None and kept else None
        state_key, key = self._client.key(SESSION, session_id), self._client.key(HISTORY, session_id)

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.set(state_key, state_text, ex=SESSION.lifetime)
                if text is None:
                    pipe.delete(key)
                else:
                    pipe.set(key, text, ex=HISTORY.lifetime)
                await pipe.execute()

        await self._client.write(write)

    async def forget(self, session_id: SessionId) -> None:
        """Keep neither any longer."""
        await self._here.forget(session_id)
        keys = [self._client.key(kind, session_id) for kind in (SESSION, HISTORY)]
        await self._client.write(lambda redis: redis.delete(*keys))


def _state_text(state: SessionState) -> str:
    return json.dumps(
        {
            "user_id": str(state.user_id),
            "org_id": str(state.org_id),
            "agent": state.agent,
            "model": state.model,
            "metadata": dict(state.metadata),
        }
    )


def _text(history: History) -> str:
    return json.dumps(
        {
            "last_message_id": history.last_message_id and str(history.last_message_id),
            "dropped": history.dropped,
            "messages": [{"role": str(message.role), "content": message.text} for message in history.messages],
        }
    )


def _history(text: str) -> History | None:
    """Read what is kept; what another program wrote there in another form counts as nothing."""
    try:
        said = json.loads(text)
        last = said["last_message_id"]
        messages = cast("list[dict[str, str]]", said["messages"])
        return History(
            tuple(HistoryMessage(MessageRole(message["role"]), str(message["content"])) for message in messages),
            int(said["dropped"]),
            None if last is None else MessageId(UUID(last)),
        )
    except (ValueError, KeyError, TypeError):
        return None
