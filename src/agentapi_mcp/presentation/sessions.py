"""Sessions as JSON and as lines of a list."""

import json

from agentapi_mcp.base.text import one_line, quoted
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.core.conversations.session_facts import SessionStatus
from agentapi_mcp.presentation.models import SessionOut
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
        usage=session_usage(session),
        created_at=moment(session.created_at),
        last_message_at=session.last_message_at and moment(session.last_message_at),
        status=str(session.facts.status),
        interaction_type=session.facts.interaction_type,
        tags=list(session.facts.tags),
        rating=session.facts.rating.rating,
        external_link=session.facts.report and session.facts.report.external_link,
        transcript_uri=transcript_uri(session.id),
    )


def session_usage(session: Session) -> dict[str, object]:
    """Serialize what the turns of a session that have ended cost; null is unknown, and `unpriced` are missing in it.

    `reported` is what its user says of a conversation elsewhere, which is in none of the others; null for any other.
    """
    totals, report = session.totals, session.facts.report
    said = report and {
        "input_tokens": report.input_tokens,
        "output_tokens": report.output_tokens,
        "cost_usd": number(report.cost_usd),
    }
    return {
        "turns": totals.turns,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "cost_usd": number(totals.cost_usd),
        "unpriced": totals.unpriced,
        "reported": said,
    }


def session_line(session: SessionOut) -> str:
    """Describe a session in one line of a list; its title is in quotes, since it may read like another line."""
    title = "Untitled" if not session.title else json.dumps(one_line(session.title), ensure_ascii=False)
    agent = "no agent" if session.agent is None else quoted(session.agent)
    said = ", ".join(facts_of(session))
    return f"- {title} ({agent}, {session.last_message_at}{said and f'; {said}'}): {session.session_id}"


def facts_of(session: SessionOut) -> list[str]:
    """List what is said of a session; of one of which nothing is said, nothing."""
    return [
        *([session.status] if session.status != SessionStatus.ACTIVE else []),
        *([] if session.interaction_type is None else [session.interaction_type]),
        *([] if session.rating is None else [f"rating {session.rating}"]),
        *([f"tags {', '.join(session.tags)}"] if session.tags else []),
        *([] if session.external_link is None else [session.external_link]),
    ]
