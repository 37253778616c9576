"""Turns, and how they end, as a store is given them."""

from datetime import timedelta
from uuid import UUID

from agentapi_mcp.base.ids import AgentId, MessageId, SessionId, TurnId, new_id
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.models import Ending, NewTurn


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
        message_id=MessageId(new_id()),
        session_id=session_id,
        new_session_id=SessionId(new_id()),
        agent="guide",
        agent_id=agent_id,
        backend="guide",
        model=None,
        model_row_id=None,
        model_row_name=None,
        message=text,
        title=text,
        parameters=Parameters(),
        fingerprint=text.encode(),
        client="tests 1.0",
        idempotency_key=key,
        lease_owner=new_id(),
        lease=lease,
    )


def ending(owner: UUID, *, reply: bool = True, **state: str) -> Ending:
    """End a turn that was asked, with or without a reply."""
    message_id = MessageId(new_id()) if reply else None
    return Ending(lease_owner=owner, message_id=message_id, caller_gone=False, asked=True, state=state)
