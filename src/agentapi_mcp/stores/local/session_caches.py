"""Recent history of sessions, kept for an hour in one process."""

from dataclasses import dataclass
from datetime import timedelta

from cachetools import TTLCache

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import MessageId, SessionId
from agentapi_mcp.core.backends.models import HistoryMessage
from agentapi_mcp.core.conversations.models import History, SessionState

_LIFETIME = timedelta(hours=1)
_LARGEST = 4_000_000  # characters of one
_LARGEST_ALL = 32_000_000  # characters of all together
_OF_A_MESSAGE = 100  # characters' worth of room that a message takes beside its text


@dataclass(frozen=True, slots=True)
class _Kept:
    history: History
    size: int


class LocalSessionCache:
    """The histories of the sessions used last; a large one is not worth its memory, nor are all of them together."""

    def __init__(self, clock: Clock) -> None:
        self._kept = TTLCache[SessionId, _Kept](
            _LARGEST_ALL, _LIFETIME.total_seconds(), timer=clock.monotonic, getsizeof=lambda kept: kept.size
        )

    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        """Find the history, if it ends with this message."""
        kept = self._kept.get(session_id)
        if kept is None:
            return None
        if kept.history.last_message_id != last_message_id:
            self._drop(session_id)
            return None
        return kept.history

    async def save(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
        """Keep the history for an hour; nobody outside could read the state here."""
        del state
        if history is None:
            self._drop(session_id)
        else:
            self.put(session_id, history)

    async def remove(self, session_id: SessionId) -> None:
        """Keep it no longer."""
        self._drop(session_id)

    def continued(self, session_id: SessionId, history: History) -> History | None:
        """Return the one that is kept, if this one goes on from it."""
        kept = self._kept.get(session_id)
        if kept is None or kept.history.dropped != history.dropped:
            return None
        before = kept.history.messages
        return kept.history if history.messages[: len(before)] == before else None

    def put(self, session_id: SessionId, history: History) -> bool:
        """Keep it; False when it is too large."""
        before, kept = self.continued(session_id, history), self._kept.get(session_id)
        size = 0 if before is None or kept is None else kept.size
        size += sum(len(message.text) + _OF_A_MESSAGE for message in new_messages(before, history))
        self._drop(session_id)
        if size > _LARGEST:
            return False
        self._kept[session_id] = _Kept(history, size)
        return True

    def _drop(self, session_id: SessionId) -> None:
        self._kept.pop(session_id, None)


def new_messages(before: History | None, history: History) -> tuple[HistoryMessage, ...]:
    """Return what the history says beyond the one that it goes on from."""
    return history.messages[len(before.messages) if before else 0 :]
