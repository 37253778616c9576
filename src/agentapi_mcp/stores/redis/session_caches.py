"""Session cache in Redis: history for an hour, state for a day; safe to lose."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast
from uuid import UUID

from cachetools import LRUCache
from redis.asyncio import Redis
from typing_extensions import override

from agentapi_mcp.base.ids import MessageId, SessionId
from agentapi_mcp.base.json_texts import json_text
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.conversations.models import History, SessionState
from agentapi_mcp.core.conversations.ports import SessionCache
from agentapi_mcp.stores.local.session_caches import LocalSessionCache, new_messages
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.gathered import Batch, Command, GatheredWrites, Source
from agentapi_mcp.stores.redis.keys import HISTORY, SESSION

# Of what is used longest ago it is forgotten how much is stored: such a history is written whole, which costs no more.
_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class _Save:
    """What is to be written of a session; a `history` that does not extend the stored one replaces it."""

    state: SessionState
    stored: History | None
    history: History | None

    def followed_by(self, state: SessionState, history: History | None, *, extends: bool) -> "_Save":
        """Return what makes up for both."""
        return _Save(state, self.stored if extends else None, history)


class RedisSessionCache(SessionCache, Source):
    """Session cache shared by all replicas; `local` is read first, so the writing replica skips the round trip.

    A history is a list: the first entry holds the messages so far, each later one those of a batch, with the id of the
    message before it. A turn therefore costs the same in a long session as in a new one, and entries interleaved by
    concurrent writers are detected as a gap. The state is for other programs; this one reads it from Postgres.

    A history is only added to while it is known to have as many entries as this process has seen: one of which a write
    was lost, or that somebody else has written to, would otherwise have a gap for as long as its session lasts.
    """

    def __init__(self, local: LocalSessionCache, client: RedisClient, gathered: GatheredWrites) -> None:
        self._local = local
        self._client = client
        self._gathered = gathered
        self._saves: dict[SessionId, _Save] = {}
        self._entries = LRUCache[SessionId, int](_MOST_KNOWN)
        gathered.add(self)

    @override
    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        history = await self._local.find(session_id, last_message_id)
        # What Redis has is older than what waits to be written.
        if history is not None or session_id in self._saves:
            return history
        key = self._client.key(HISTORY, session_id)
        texts = await self._client.read(lambda redis: redis.lrange(key, 0, -1), [])
        history = _history(cast("list[str]", texts))
        if history is None or history.last_message_id != last_message_id:
            return None
        self._entries[session_id] = len(texts)
        # The next turn of this session in this process needs no round trip.
        self._local.put(session_id, history)
        return history

    @override
    async def save(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
        """Store both, in Redis a moment later; a history that is too large only removes the old one."""
        previous = None if history is None else self._local.find_predecessor(session_id, history)
        if history is None:
            await self._local.remove(session_id)
        elif not self._local.put(session_id, history):
            history = None  # too large to cache
        waiting = self._saves.get(session_id, _Save(state, previous, previous))
        self._saves[session_id] = waiting.followed_by(state, history, extends=previous is not None)
        self._gathered.note()

    @override
    async def remove(self, session_id: SessionId) -> None:
        """Remove both, and what waits to be written or is on its way."""
        await self._local.remove(session_id)
        self._saves.pop(session_id, None)
        keys = [self._client.key(kind, session_id) for kind in (SESSION, HISTORY)]

        async def remove() -> None:
            self._saves.pop(session_id, None)  # again: the answer to what was on its way may have asked for more
            await self._client.write(partial(_delete, keys))

        await self._gathered.after_flight(remove)

    @override
    def take(self) -> Batch:
        saves, self._saves = self._saves, {}
        commands, pushed = list[Command](), list[tuple[int, SessionId, int]]()
        for session_id, save in saves.items():
            # Until the answer nothing is known, so that of a write without one the next is whole.
            known = self._entries.pop(session_id, 0)
            if save.history is not None:
                added = known > 0 and save.stored is not None
                pushed.append((len(commands) + (not added), session_id, known + 1 if added else 1))
            commands += self._commands(session_id, save if known else replace(save, stored=None))

        def heard(results: Sequence[object]) -> None:
            for at, session_id, entries in pushed:
                if results[at] == entries:
                    self._entries[session_id] = entries
                elif entries > 1 and isinstance(results[at], int):  # evicted, flushed, or written to by somebody else
                    self._write_whole(session_id, saves[session_id])

        return Batch(commands, heard)

    def _commands(self, session_id: SessionId, save: _Save) -> list[Command]:
        key, stored, history = self._client.key(HISTORY, session_id), save.stored, save.history
        state: Command = ("SET", self._client.key(SESSION, session_id), _state_text(save.state), "EX", SESSION.seconds)
        if history is None:
            return [("DEL", key), state]
        expire: Command = ("EXPIRE", key, HISTORY.seconds)
        if stored is None:
            return [("DEL", key), ("RPUSH", key, _text(None, history)), expire, state]
        # RPUSHX, not RPUSH: without the list, the messages of this turn alone would look like a whole history.
        return [("RPUSHX", key, _text(stored, history)), expire, state]

    def _write_whole(self, session_id: SessionId, save: _Save) -> None:
        newer = self._saves.get(session_id, save)
        self._saves[session_id] = newer.followed_by(newer.state, newer.history, extends=False)
        self._gathered.note()


async def _delete(keys: Sequence[str], redis: Redis) -> None:
    # Not by one command, since in a cluster they are in different slots.
    async with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.delete(key)
        await pipe.execute()


def _state_text(state: SessionState) -> str:
    return json_text(
        {
            "user_id": state.user_id,
            "org_id": state.org_id,
            "agent": state.agent,
            "model": state.model,
            "metadata": dict(state.metadata),
        }
    )


def _text(previous: History | None, history: History) -> str:
    return json_text(
        {
            "after": previous and previous.last_message_id,
            "last_message_id": history.last_message_id,
            "dropped": history.dropped,
            "unfinished": history.unfinished,
            "messages": [
                {"role": message.role, "content": message.text} for message in new_messages(previous, history)
            ],
        }
    )


def _history(texts: list[str]) -> History | None:
    """Parse the stored entries; None for an unknown format or a gap."""
    messages: list[HistoryMessage] = []
    last, dropped, unfinished = None, 0, 0
    try:
        for text in texts:
            entry = json.loads(text)
            # A gap: concurrent writers interleaved their entries.
            if entry["after"] != last:
                return None
            last, dropped = str(entry["last_message_id"]), int(entry["dropped"])
            unfinished = int(entry["unfinished"])
            messages += (
                HistoryMessage(MessageRole(message["role"]), str(message["content"])) for message in entry["messages"]
            )
        return None if last is None else History(tuple(messages), dropped, MessageId(UUID(last)), unfinished)
    except (ValueError, KeyError, TypeError):
        return None
