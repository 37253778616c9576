"""Sessions as JSON."""

from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.presentation.models import SessionOut
from agentapi_mcp.presentation.uris import transcript_uri
from agentapi_mcp.presentation.values import moment


def session_json(session: Session) -> dict[str, object]:
    """Serialize a session for the command line."""
    return {
        "session_id": str(session.id),
        "title": session.title,
        "agent": session.agent,
        "model": session.model,
        "messages": session.message_count,
        "created_at": session.created_at.isoformat(),
        "last_message_at": session.last_message_at and session.last_message_at.isoformat(),
    }


def session_out(session: Session) -> SessionOut:
    """Serialize a session for tools."""
    return SessionOut(
        session_id=str(session.id),
        title=session.title,
        agent=session.agent,
        model=session.model,
        message_count=session.message_count,
        created_at=session.created_at.isoformat(),
        last_message_at=moment(session.last_message_at),
        transcript_uri=transcript_uri(session.id),
    )
