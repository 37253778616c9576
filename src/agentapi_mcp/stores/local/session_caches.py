"""In-process cache of recent session history, for an hour."""

from datetime import timedelta

from cachetools import TTLCache
from typing_extensions import override

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import MessageId, SessionId
from agentapi_mcp.core.backends.models import HistoryMessage
from agentapi_mcp.core.conversations.models import History, SessionState
from agentapi_mcp.core.conversations.ports import SessionCache

_LIFETIME = timedelta(hours=1)
_MAX_SIZE = 4_000_000  # bytes of one history
_MAX_TOTAL_SIZE = 32_000_000  # bytes of all histories together
_MESSAGE_OVERHEAD = 100  # size of a message beside its text


class LocalSessionCache(SessionCache):
    """Bounded cache of the most recently used histories; a very large history is not cached."""

    def __init__(self, clock: Clock) -> None:
        self._cache = TTLCache[SessionId, History](
            _MAX_TOTAL_SIZE, _LIFETIME.total_seconds(), timer=clock.monotonic, getsizeof=_size
        )

    @override
    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        cached = self._cache.get(session_id)
        if cached is None:
            return None
        # Another process has written to the session since.
        if cached.last_message_id != last_message_id:
            self._drop(session_id)
            return None
        return cached

    @override
    async def save(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
        """Cache the history for an hour; the state is not stored, since no other process could read it here."""
        del state
        if history is None:
            self._drop(session_id)
        else:
            self.put(session_id, history)

    @override
    async def remove(self, session_id: SessionId) -> None:
        self._drop(session_id)

    def find_predecessor(self, session_id: SessionId, history: History) -> History | None:
        """Return the cached history if the given one extends it."""
        cached = self._cache.get(session_id)
        if cached is None or cached.dropped != history.dropped:
            return None
        previous = cached.messages
        return cached if history.messages[: len(previous)] == previous else None

    def put(self, session_id: SessionId, history: History) -> bool:
        """Cache the history; return False when it is too large."""
        self._drop(session_id)
        if _size(history) > _MAX_SIZE:
            return False
        self._cache[session_id] = history
        return True

    def _drop(self, session_id: SessionId) -> None:
        self._cache.pop(session_id, None)


def _size(history: History) -> int:
    return history.size + _MESSAGE_OVERHEAD * len(history.messages)


def new_messages(previous: History | None, history: History) -> tuple[HistoryMessage, ...]:
    """Return the messages that the history adds to its predecessor."""
    return history.messages[len(previous.messages) if previous else 0 :]
