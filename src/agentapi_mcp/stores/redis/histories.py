"""Recent history in Redis, for an hour."""

import json
from typing import cast
from uuid import UUID

from agentapi_mcp.core.records.ids import MessageId, SessionId
from agentapi_mcp.core.records.sessions import History, HistoryMessage, MessageRole
from agentapi_mcp.core.store_ports import HistoryCache
from agentapi_mcp.stores.local.histories import MAX_CHARACTERS, characters_of
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.keys import HISTORY


class RedisHistories:
    """The histories of the sessions used last, shared by all replicas; `here` spares the one that wrote it the reading.

    A large one is not worth its memory.
    """

    def __init__(self, here: HistoryCache, client: RedisClient) -> None:
        self._here = here
        self._client = client

    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        """Find what is kept, if it ends with this message."""
        history = await self._here.find(session_id, last_message_id)
        if history is not None:
            return history
        key = self._client.key(HISTORY, session_id)
        text = await self._client.read(lambda redis: redis.get(key), None)
        history = None if text is None else _history(str(text))
        return history if history is not None and history.last_message_id == last_message_id else None

    async def keep(self, session_id: SessionId, history: History) -> None:
        """Keep it for an hour; what was there is forgotten even where the new one is too large."""
        if characters_of(history) > MAX_CHARACTERS:
            await self.forget(session_id)
            return
        await self._here.keep(session_id, history)
        key, text = self._client.key(HISTORY, session_id), _text(history)
        await self._client.write(lambda redis: redis.set(key, text, ex=HISTORY.lifetime))

    async def forget(self, session_id: SessionId) -> None:
        """Keep it no longer."""
        await self._here.forget(session_id)
        key = self._client.key(HISTORY, session_id)
        await self._client.write(lambda redis: redis.delete(key))


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
