"""Session states of one process: nobody outside can read its memory, so there is nobody to tell."""

from agentapi_mcp.core.records.ids import SessionId
from agentapi_mcp.core.records.sessions import SessionState


class LocalSessionStates:
    """Tells nobody."""

    async def tell(self, session_id: SessionId, state: SessionState) -> None:
        """Tell nobody."""

    async def forget(self, session_id: SessionId) -> None:
        """Forget nothing."""
