"""Recent history of sessions, kept for an hour in one process."""

from dataclasses import dataclass
from datetime import timedelta

from cachetools import TTLCache

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import MessageId, SessionId
from agentapi_mcp.core.backends.models import HistoryMessage
from agentapi_mcp.core.conversations.models import History, SessionState

_LIFETIME = timedelta(hours=1)
_MAX_SIZE = 4_000_000  # characters of one
_MAX_TOTAL_SIZE = 32_000_000  # characters of all together
_MESSAGE_OVERHEAD = 100  # characters' worth of room that a message takes beside its text


@dataclass(frozen=True, slots=True)
class _CachedHistory:
    history: History
    size: int


class LocalSessionCache:
    """The histories of the sessions used last; a large one is not worth its memory, nor are all of them together."""

    def __init__(self, clock: Clock) -> None:
        self._cache = TTLCache[SessionId, _CachedHistory](
            _MAX_TOTAL_SIZE, _LIFETIME.total_seconds(), timer=clock.monotonic, getsizeof=lambda cached: cached.size
        )

    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        """Find the history, if it ends with this message."""
        cached = self._cache.get(session_id)
        if cached is None:
            return None
        if cached.history.last_message_id != last_message_id:
            self._drop(session_id)
            return None
        return cached.history

    async def keep(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
        """Keep the history for an hour; nobody outside could read the state here."""
        del state
        if history is None:
            self._drop(session_id)
        else:
            self.put(session_id, history)

    async def forget(self, session_id: SessionId) -> None:
        """Keep it no longer."""
        self._drop(session_id)

    def find_predecessor(self, session_id: SessionId, history: History) -> History | None:
        """Return the one that is kept, if this one goes on from it."""
        cached = self._cache.get(session_id)
        if cached is None or cached.history.dropped != history.dropped:
            return None
        previous = cached.history.messages
        return cached.history if history.messages[: len(previous)] == previous else None

    def put(self, session_id: SessionId, history: History) -> bool:
        """Keep it; False when it is too large."""
        previous, cached = self.find_predecessor(session_id, history), self._cache.get(session_id)
        size = 0 if previous is None or cached is None else cached.size
        size += sum(len(message.text) + _MESSAGE_OVERHEAD for message in new_messages(previous, history))
        self._drop(session_id)
        if size > _MAX_SIZE:
            return False
        self._cache[session_id] = _CachedHistory(history, size)
        return True

    def _drop(self, session_id: SessionId) -> None:
        self._cache.pop(session_id, None)


def new_messages(previous: History | None, history: History) -> tuple[HistoryMessage, ...]:
    """Return what the history says beyond the one that it goes on from."""
    return history.messages[len(previous.messages) if previous else 0 :]
