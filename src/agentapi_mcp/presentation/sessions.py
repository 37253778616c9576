"""Sessions as JSON and as lines of a list."""

import json

from agentapi_mcp.base.text import one_line, quoted
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.presentation.models import SessionOut, SessionUsageOut
from agentapi_mcp.presentation.uris import transcript_uri
from agentapi_mcp.presentation.values import moment, number


def session_out(session: Session) -> SessionOut:
    """Serialize a session for tools."""
    return SessionOut(
        session_id=str(session.id),
        title=session.title,
        agent=session.agent,
        model=session.model,
        message_count=session.message_count,
        usage=session_usage_out(session),
        created_at=moment(session.created_at),
        last_message_at=session.last_message_at and moment(session.last_message_at),
        transcript_uri=transcript_uri(session.id),
    )


def session_usage_out(session: Session) -> SessionUsageOut:
    """Serialize what a session has cost."""
    return SessionUsageOut(
        turns=session.totals.turns,
        input_tokens=session.totals.input_tokens,
        output_tokens=session.totals.output_tokens,
        cost_usd=number(session.totals.cost_usd),
        unpriced=session.totals.unpriced,
    )


def session_line(session: SessionOut) -> str:
    """Describe a session in one line of a list; its title is in quotes, since it may read like another line."""
    title = "Untitled" if not session.title else json.dumps(one_line(session.title), ensure_ascii=False)
    agent = "no agent" if session.agent is None else quoted(session.agent)
    return f"- {title} ({agent}, {session.last_message_at}): {session.session_id}"
