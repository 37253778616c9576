"""Session cache in Redis: history for an hour, state for a day; safe to lose."""

import json
from typing import cast
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from typing_extensions import override

from agentapi_mcp.base.ids import MessageId, SessionId
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.conversations.models import History, SessionState
from agentapi_mcp.core.conversations.ports import SessionCache
from agentapi_mcp.stores.local.session_caches import LocalSessionCache, new_messages
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.keys import HISTORY, SESSION


class RedisSessionCache(SessionCache):
    """Session cache shared by all replicas; `local` is read first, so the writing replica skips the round trip.

    A history is a list: the first entry holds the messages so far, each later one those of a turn, with the id of the
    message before it. A turn therefore costs the same in a long session as in a new one, and entries interleaved by
    concurrent writers are detected as a gap. The state is for other programs; this one reads it from Postgres.
    """

    def __init__(self, local: LocalSessionCache, client: RedisClient) -> None:
        self._local = local
        self._client = client

    @override
    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        history = await self._local.find(session_id, last_message_id)
        if history is not None:
            return history
        key = self._client.key(HISTORY, session_id)
        texts = await self._client.read(lambda redis: redis.lrange(key, 0, -1), [])
        history = _history(cast("list[str]", texts))
        if history is None or history.last_message_id != last_message_id:
            return None
        # The next turn of this session in this process needs no round trip.
        self._local.put(session_id, history)
        return history

    @override
    async def save(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
        """Store both; a history that is too large only removes the old one."""
        previous = None if history is None else self._local.find_predecessor(session_id, history)
        await self._local.save(session_id, state, history)
        if history is not None and self._local.find_predecessor(session_id, history) is None:
            history = None  # too large to cache
        state_key, state_text = self._client.key(SESSION, session_id), _state_text(state)
        key = self._client.key(HISTORY, session_id)

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.set(state_key, state_text, ex=SESSION.lifetime)
                if history is None:
                    pipe.delete(key)
                elif previous is None:
                    _begin(pipe, key, history)
                else:
                    # RPUSHX, not RPUSH: without the list, the messages of this turn alone would look like a whole
                    # history.
                    pipe.rpushx(key, _text(previous, history))
                    pipe.expire(key, HISTORY.lifetime)
                done = cast("list[int]", await pipe.execute())
                if (
                    previous is not None and history is not None and done[1] == 0
                ):  # the list was evicted, flushed, or never written
                    _begin(pipe, key, history)
                    await pipe.execute()

        await self._client.write(write)

    @override
    async def remove(self, session_id: SessionId) -> None:
        await self._local.remove(session_id)
        keys = [self._client.key(kind, session_id) for kind in (SESSION, HISTORY)]
        await self._client.write(lambda redis: redis.delete(*keys))


def _begin(pipe: Pipeline, key: str, history: History) -> None:
    pipe.delete(key)
    pipe.rpush(key, _text(None, history))
    pipe.expire(key, HISTORY.lifetime)


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


def _text(previous: History | None, history: History) -> str:
    return json.dumps(
        {
            "after": previous and str(previous.last_message_id),
            "last_message_id": str(history.last_message_id),
            "dropped": history.dropped,
            "messages": [
                {"role": str(message.role), "content": message.text} for message in new_messages(previous, history)
            ],
        }
    )


def _history(texts: list[str]) -> History | None:
    """Parse the stored entries; None for an unknown format or a gap."""
    messages: list[HistoryMessage] = []
    last, dropped = None, 0
    try:
        for text in texts:
            entry = json.loads(text)
            # A gap: concurrent writers interleaved their entries.
            if entry["after"] != last:
                return None
            last, dropped = str(entry["last_message_id"]), int(entry["dropped"])
            messages += (
                HistoryMessage(MessageRole(message["role"]), str(message["content"])) for message in entry["messages"]
            )
        return None if last is None else History(tuple(messages), dropped, MessageId(UUID(last)))
    except (ValueError, KeyError, TypeError):
        return None
