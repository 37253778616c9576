"""Recent history of sessions, kept for an hour in one process."""

from collections import OrderedDict
from datetime import timedelta

from agentapi_mcp.core.ports import Clock
from agentapi_mcp.core.records.ids import MessageId, SessionId
from agentapi_mcp.core.records.sessions import History, SessionState

_LIFETIME = timedelta(hours=1)
MAX_CHARACTERS = 4_000_000
_ALL_CHARACTERS = 32_000_000


class LocalSessionCache:
    """The histories of the sessions used last; a large one is not worth its memory, nor are all of them together."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[SessionId, tuple[float, int, History]] = OrderedDict()
        self._characters = 0

    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        """Find the history, if it ends with this message."""
        until, _, history = self._kept.get(session_id, (0.0, 0, History(())))
        if history.last_message_id != last_message_id or until < self._clock.monotonic():
            self._drop(session_id)
            return None
        self._kept.move_to_end(session_id)
        return history

    async def keep(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
        """Keep the history for an hour; nobody outside could read the state here."""
        del state
        self._drop(session_id)
        size = 0 if history is None else characters_of(history)
        if history is None or size > MAX_CHARACTERS:
            return
        self._kept[session_id] = (self._clock.monotonic() + _LIFETIME.total_seconds(), size, history)
        self._characters += size
        while self._characters > _ALL_CHARACTERS:
            self._drop(next(iter(self._kept)))

    async def forget(self, session_id: SessionId) -> None:
        """Keep it no longer."""
        self._drop(session_id)

    def _drop(self, session_id: SessionId) -> None:
        _, size, _ = self._kept.pop(session_id, (0.0, 0, None))
        self._characters -= size


def characters_of(history: History) -> int:
    """Return how large it is; a message without text takes room as well."""
    return sum(len(message.text) + 100 for message in history.messages)
