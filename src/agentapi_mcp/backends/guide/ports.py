"""The guide's additional port: the live state of the server."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from agentapi_mcp.core.backends.ports import BackendHost

TYPE_CHECKING = False  # type checkers take it for true; a host that opens no services needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.catalogue.health import PartHealth
    from agentapi_mcp.core.catalogue.models import AgentView
    from agentapi_mcp.core.conversations.models import Session, Turn
    from agentapi_mcp.core.identity.principals import Principal
    from agentapi_mcp.core.usage.models import UsageSums


class ServerView(Protocol):
    """Read-only live state of the server, as visible to a principal."""

    async def agents(self, principal: Principal) -> tuple[AgentView, ...]:
        """List the agents with their current state."""
        ...

    async def parts(self, principal: Principal) -> tuple[PartHealth, ...]:
        """Ask the parts of the server, such as its database, how they are."""
        ...

    async def recent_turns(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        """List the principal's recent turns, newest first, without the running one."""
        ...

    async def spent(self, principal: Principal, since: datetime, until: datetime) -> UsageSums:
        """Sum up what the principal's ended turns of a period have cost; `until` is not in it."""
        ...

    async def sessions(self, principal: Principal, limit: int) -> tuple[Session, ...]:
        """List the principal's sessions, newest first."""
        ...


class GuideHost(BackendHost, Protocol):
    """A backend host that also provides the server's live state."""

    @property
    def view(self) -> ServerView:
        """The server's live state."""
        ...
