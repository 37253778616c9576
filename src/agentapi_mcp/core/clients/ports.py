"""Storage ports of MCP clients (table `mcp_sessions`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agentapi_mcp.core.clients.models import ClientState, McpSession, State
from agentapi_mcp.core.identity.principals import Principal


class ClientStore(Protocol):
    """The MCP clients of a user, each with its `mcp_state`; unknown keys of it are preserved."""

    async def record(self, principal: Principal, client: str, state: State) -> None:
        """Record that a client connected, with its state, for thirty days."""
        ...

    async def find(self, principal: Principal, client: str) -> ClientState:
        """Read the state of a client; its own is empty if it is unknown."""
        ...

    async def list_(self, principal: Principal) -> Sequence[tuple[str, ClientState]]:
        """List the user's clients by name."""
        ...

    async def change(self, principal: Principal, client: str, edit: Callable[[State], State]) -> ClientState:
        """Apply `edit` to the client's own state under lock, and store it; an exception from it rolls back."""
        ...


class TransportSessionStore(Protocol):
    """Transport sessions of clients with the 2025 protocol; sessions of other users are treated as absent."""

    async def open_(self, principal: Principal, session: McpSession) -> None:
        """Store a new session; it expires a day after its last use."""
        ...

    async def find(self, principal: Principal, session_id: str) -> McpSession | None:
        """Find a session that has not ended."""
        ...

    async def watch(self, principal: Principal, session_id: str, uri: str, *, most: int, most_of_user: int) -> bool:
        """Subscribe the client to a resource; False when it is subscribed to `most` others already.

        Raises:
            LimitExceededError: all sessions of the user together are subscribed to `most_of_user` already.
        """
        ...

    async def unwatch(self, principal: Principal, session_id: str, uri: str) -> None:
        """End the subscription to a resource."""
        ...

    async def close(self, principal: Principal, session_id: str) -> bool:
        """End a session; False when there is none."""
        ...

    async def notify_cancelled(self, principal: Principal, session_id: str, request_id: str, departure: str) -> None:
        """Notify all processes that the client cancelled a request, and how it left."""
        ...


class ElicitationStore(Protocol):
    """Elicitations of clients with the 2025 protocol, shared by all processes."""

    async def create(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        """Record an elicitation; only then is an answer to it accepted."""
        ...

    async def answer(
        self, principal: Principal, session_id: str, elicitation_id: str, answer: Mapping[str, object]
    ) -> bool:
        """Store the answer and notify all processes; False if the elicitation is unknown or answered."""
        ...

    async def find_answer(
        self, principal: Principal, session_id: str, elicitation_id: str
    ) -> Mapping[str, object] | None:
        """Find the client's answer."""
        ...

    async def withdraw(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        """Delete an elicitation with its answer."""
        ...
