"""Turns as a store is given them."""

from datetime import timedelta

from agentapi_mcp.base.ids import AgentId, SessionId, TurnId, new_id
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.models import NewTurn


def new_turn(
    agent_id: AgentId,
    text: str,
    session_id: SessionId | None = None,
    key: str | None = None,
    lease: timedelta = timedelta(minutes=5),
) -> NewTurn:
    """Make a message to the agent `guide`, whose row this is."""
    return NewTurn(
        id=TurnId(new_id()),
        session_id=session_id,
        agent="guide",
        agent_id=agent_id,
        backend="guide",
        model=None,
        model_row_id=None,
        message=text,
        title=text,
        parameters=Parameters(),
        fingerprint=text.encode(),
        idempotency_key=key,
        lease_owner=new_id(),
        lease=lease,
    )
