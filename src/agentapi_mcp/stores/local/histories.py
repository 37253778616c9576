"""Recent history, kept for an hour in one process."""

from collections import OrderedDict
from datetime import timedelta

from agentapi_mcp.core.ports import Clock
from agentapi_mcp.core.records.ids import SessionId
from agentapi_mcp.core.records.sessions import History

_LIFETIME = timedelta(hours=1)
_MOST = 200
_MAX_BYTES = 4_000_000


class LocalHistories:
    """The histories of the sessions used last; a large one is not worth its memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[SessionId, tuple[float, History]] = OrderedDict()

    async def find(self, session_id: SessionId) -> History | None:
        """Find what is kept."""
        entry = self._kept.get(session_id)
        if entry is None:
            return None
        until, history = entry
        if until < self._clock.monotonic():
            del self._kept[session_id]
            return None
        self._kept.move_to_end(session_id)
        return history

    async def keep(self, session_id: SessionId, history: History) -> None:
        """Keep it for an hour."""
        self._kept.pop(session_id, None)
        if sum(len(message.text) for message in history.messages) > _MAX_BYTES:
            return
        self._kept[session_id] = (self._clock.monotonic() + _LIFETIME.total_seconds(), history)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    async def forget(self, session_id: SessionId) -> None:
        """Keep it no longer."""
        self._kept.pop(session_id, None)
