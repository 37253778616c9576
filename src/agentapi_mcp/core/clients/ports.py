"""What the database keeps of MCP clients (`mcp_sessions`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.identity.principals import Principal

State = Mapping[str, object]


class ClientStore(Protocol):
    """The MCP clients of a user, each with its `mcp_state`: what nobody here knows of it stays as it is."""

    async def record(self, principal: Principal, client: str, state: State) -> None:
        """Keep that a client is here, for thirty days, and what is known of it."""
        ...

    async def find(self, principal: Principal, client: str) -> State:
        """Read what is kept of one; nothing where there is none."""
        ...

    async def list_(self, principal: Principal) -> Sequence[tuple[str, State]]:
        """List the user's clients by name."""
        ...

    async def change(self, principal: Principal, client: str, edit: Callable[[State], State]) -> State:
        """Write and return what `edit` makes of it, which nobody else changes meanwhile; what it raises undoes all."""
        ...


class TransportSessionStore(Protocol):
    """The transport sessions of 2025-era clients; another user's is as if it were not there."""

    async def open_(self, principal: Principal, session: McpSession) -> None:
        """Keep a new one; it lives for a day after its last use."""
        ...

    async def find(self, principal: Principal, session_id: str) -> McpSession | None:
        """Find one that has not ended."""
        ...

    async def watch(self, principal: Principal, session_id: str, uri: str, *, most: int) -> bool:
        """Note that its client watches a resource; False when it watches `most` others already."""
        ...

    async def unwatch(self, principal: Principal, session_id: str, uri: str) -> None:
        """Note that it no longer does."""
        ...

    async def close(self, principal: Principal, session_id: str) -> bool:
        """End it; False when there is none."""
        ...

    async def tell_cancelled(self, principal: Principal, session_id: str, request_id: str, reason: str) -> None:
        """Tell every process that the client takes a request back."""
        ...


class ElicitationStore(Protocol):
    """What 2025-era clients are being asked, so that their answer reaches who asked through any process."""

    async def ask(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        """Note that the client is being asked; only then an answer is kept."""
        ...

    async def answer(
        self, principal: Principal, session_id: str, elicitation_id: str, answer: Mapping[str, object]
    ) -> bool:
        """Keep the client's answer, and tell every process; False when nothing is asked, or it is answered."""
        ...

    async def find_answer(
        self, principal: Principal, session_id: str, elicitation_id: str
    ) -> Mapping[str, object] | None:
        """Find the client's answer."""
        ...

    async def withdraw(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        """Forget the question, and its answer."""
        ...
