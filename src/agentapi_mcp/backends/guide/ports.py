"""What the guide needs beyond other backends: the live state of the server that it explains."""

from typing import Protocol

from agentapi_mcp.core.backends.ports import BackendHost
from agentapi_mcp.core.catalogue.models import AgentView
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.identity.principals import Principal


class ServerView(Protocol):
    """The server's live state, read-only, as a principal may see it."""

    async def agents(self, principal: Principal) -> tuple[AgentView, ...]:
        """List the agents as they are now."""
        ...

    async def recent_turns(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        """List the principal's newest turns, newest first, the running one left out."""
        ...


class GuideHost(BackendHost, Protocol):
    """The host of a backend, with the view of the server."""

    @property
    def view(self) -> ServerView:
        """The server's live state."""
        ...
