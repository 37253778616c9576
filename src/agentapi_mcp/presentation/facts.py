"""What users say of conversations, as JSON and as lines."""

from agentapi_mcp.base.text import number_of
from agentapi_mcp.core.conversations.facts import Recorded
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.core.conversations.session_facts import Report, TurnRating
from agentapi_mcp.presentation.models import RatingOut, RecordedOut, SessionOut
from agentapi_mcp.presentation.sessions import facts_of
from agentapi_mcp.presentation.values import number

_REPORTED = "reported by the user"


def rating_out(rated: Session | TurnRating) -> RatingOut:
    """Serialize the rating of a session or a turn."""
    is_turn = isinstance(rated, TurnRating)
    rating = rated.rating if is_turn else rated.facts.rating
    return RatingOut(
        session_id=str(rated.session_id if is_turn else rated.id),
        turn_id=str(rated.turn_id) if is_turn else None,
        rating=rating.rating,
        usefulness=rating.usefulness,
        note=rating.note,
    )


def rating_line(out: RatingOut) -> str:
    """Say how something is rated."""
    what = f"session {out.session_id}" if out.turn_id is None else f"turn {out.turn_id}"
    said = [f"{name} {value}" for name, value in (("rating", out.rating), ("usefulness", out.usefulness)) if value]
    said += ["a note"] if out.note is not None else []
    return f"The {what}: {', '.join(said) or 'no rating'}."


def recorded_out(recorded: Recorded) -> RecordedOut:
    """Serialize a conversation that happened elsewhere."""
    session = recorded.session
    report = session.facts.report or Report()
    return RecordedOut(
        session_id=str(session.id),
        is_new=recorded.is_new,
        title=session.title,
        agent=session.agent,
        model=session.model,
        provider=report.provider,
        interaction_type=session.facts.interaction_type,
        tags=list(session.facts.tags),
        external_link=report.external_link,
        external_id=report.external_id,
        content_preview=report.content_preview,
        input_tokens=report.input_tokens,
        output_tokens=report.output_tokens,
        cost_usd=number(report.cost_usd),
        cost_source=_REPORTED,
    )


def recorded_line(out: RecordedOut) -> str:
    """Say what was recorded, and whose word its cost is."""
    done = "Recorded as" if out.is_new else "It was recorded before, as"
    said = [
        number_of(count, f"token {way}", f"tokens {way}")
        for count, way in ((out.input_tokens, "in"), (out.output_tokens, "out"))
        if count is not None
    ]
    said.append("cost unknown" if out.cost_usd is None else f"${out.cost_usd:g}")
    return f"{done} the session {out.session_id}: {', '.join(said)}, {out.cost_source}, and counted apart from bills."


def session_said(session: SessionOut) -> str:
    """Say what is now said of a session."""
    return f"The session {session.session_id}: {'; '.join(facts_of(session)) or 'active, and nothing more'}."
