"""The tools that say something of conversations: ratings, tags, the archive, and what happened elsewhere."""

from datetime import datetime
from decimal import Decimal

from mcp_types import CallToolResult

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.validation import parse_moment
from agentapi_mcp.core.conversations.facts import LONGEST_TAG, MOST_TAGS
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.core.conversations.session_facts import NewInteraction, Rating, Report, Tagging
from agentapi_mcp.core.identity.principals import Action
from agentapi_mcp.edges.mcp.tools.answers import answer
from agentapi_mcp.edges.mcp.tools.arguments import Argument, ToolArguments
from agentapi_mcp.edges.mcp.tools.declarations import ToolCall, Toolset, ToolSpec
from agentapi_mcp.presentation.facts import rating_line, rating_out, recorded_line, recorded_out
from agentapi_mcp.presentation.models import RatingOut, RecordedOut, SessionOut
from agentapi_mcp.presentation.sessions import session_line, session_out

TOOLSET = Toolset()

_SESSION = Argument(name="session_id", about="From chat or list_sessions", required=True)
_TYPE = Argument(name="type", about="Kind of conversation, such as coding or writing")


@TOOLSET.tool(
    ToolSpec(
        name="rate",
        title="Rate a session or a turn",
        about="Keep what the user says of a session or of one answer, from 1 (bad) to 5 (good); it replaces the last.",
        arguments=(
            Argument(name="session_id", about="Of the whole session; or turn_id"),
            Argument(name="turn_id", about="Of one answer"),
            Argument(name="rating", kind="integer", about="How good", least=1, most=5),
            Argument(name="usefulness", kind="integer", about="How useful, of a session", least=1, most=5),
            Argument(name="note", about="In the user's words", verbatim=True),
            Argument(name="clear", kind="boolean", about="Take rating and note back"),
        ),
        answers=RatingOut,
        action=Action.EDIT_SESSIONS,
        reads_only=False,
    )
)
async def rate(call: ToolCall) -> CallToolResult:
    """Rate a session or a turn of the caller's."""
    caller, given = await call.identify(), call.given
    session_id, turn_id = given.find_text("session_id"), given.find_text("turn_id")
    if (session_id is None) == (turn_id is None):
        raise InvalidRequestError("Pass either session_id or turn_id: which of them is rated.")
    rating = Rating(
        rating=given.find_integer("rating"),
        usefulness=given.find_integer("usefulness"),
        note=given.find_text("note"),
    )
    facts, clear = caller.services.facts, given.flag("clear")
    if turn_id is not None:
        out = rating_out(await facts.rate_turn(caller.principal, turn_id, rating, clear=clear))
    else:
        out = rating_out(await facts.rate_session(caller.principal, session_id or "", rating, clear=clear))
    return answer(rating_line(out), out)


@TOOLSET.tool(
    ToolSpec(
        name="tag",
        title="Tag a session",
        about="Add tags to a session and remove some, or set its type; list_sessions finds sessions by tag.",
        arguments=(
            _SESSION,
            Argument(name="add", kind="array", about=f"At most {MOST_TAGS} of {LONGEST_TAG} characters"),
            Argument(name="remove", kind="array", about="Tags that it has"),
            _TYPE,
        ),
        answers=SessionOut,
        action=Action.EDIT_SESSIONS,
        reads_only=False,
    )
)
async def tag(call: ToolCall) -> CallToolResult:
    """Change the tags and the type of a session of the caller's."""
    caller, given = await call.identify(), call.given
    tagging = Tagging(
        add=given.find_texts("add") or (),
        remove=given.find_texts("remove") or (),
        interaction_type=given.find_text("type"),
    )
    return _shown(await caller.services.facts.tag(caller.principal, given.text("session_id"), tagging))


@TOOLSET.tool(
    ToolSpec(
        name="archive",
        title="Archive a session",
        about="Leave a session out of lists that do not ask for archived ones; nothing is deleted.",
        arguments=(_SESSION, Argument(name="undo", kind="boolean", about="Take it out of the archive")),
        answers=SessionOut,
        action=Action.EDIT_SESSIONS,
        reads_only=False,
    )
)
async def archive(call: ToolCall) -> CallToolResult:
    """Archive a session of the caller's, or take it out of the archive."""
    caller, given = await call.identify(), call.given
    undo = given.flag("undo")
    return _shown(await caller.services.facts.archive(caller.principal, given.text("session_id"), undo=undo))


@TOOLSET.tool(
    ToolSpec(
        name="record_interaction",
        title="Record a conversation elsewhere",
        about="Keep that the user talked to an AI elsewhere, such as at claude.ai, with what they say that it cost.",
        arguments=(
            Argument(name="title", about="What it was about, in one line", required=True, verbatim=True),
            Argument(name="external_link", about="Its address; shown, never opened"),
            Argument(name="external_id", about="The same id is recorded once; default: the link"),
            Argument(name="agent", about="Who answered, such as claude.ai", verbatim=True),
            Argument(name="model", about="Its model", verbatim=True),
            Argument(name="provider", about="Who bills it, such as anthropic", verbatim=True),
            _TYPE,
            Argument(name="tags", kind="array", about="As of tag"),
            Argument(name="content", about="How it went, in short", verbatim=True),
            Argument(name="input_tokens", kind="integer", about="As the user says", least=0),
            Argument(name="output_tokens", kind="integer", about="As the user says", least=0),
            Argument(name="cost_usd", kind="number", about="As the user says", least=0, most=1_000_000),
            Argument(name="started_at", about="ISO 8601 with a zone; default: now"),
            Argument(name="ended_at", about="The same"),
        ),
        answers=RecordedOut,
        action=Action.CHAT,
        reads_only=False,
    )
)
async def record_interaction(call: ToolCall) -> CallToolResult:
    """Record what happened elsewhere, once."""
    caller, given = await call.identify(), call.given
    cost = given.find_number("cost_usd")
    report = Report(
        external_link=given.find_text("external_link"),
        external_id=given.find_text("external_id"),
        agent=given.find_text("agent"),
        model=given.find_text("model"),
        provider=given.find_text("provider"),
        input_tokens=given.find_integer("input_tokens"),
        output_tokens=given.find_integer("output_tokens"),
        cost_usd=None if cost is None else Decimal(str(cost)),
        content_preview=given.find_text("content"),
    )
    new = NewInteraction(
        title=given.text("title"),
        report=report,
        interaction_type=given.find_text("type"),
        tags=given.find_texts("tags") or (),
        started_at=_moment(given, "started_at"),
        ended_at=_moment(given, "ended_at"),
    )
    out = recorded_out(await caller.services.facts.record(caller.principal, new))
    return answer(recorded_line(out), out)


def _moment(given: ToolArguments, name: str) -> datetime | None:
    text = given.find_text(name)
    return None if text is None else parse_moment(text, name)


def _shown(session: Session) -> CallToolResult:
    out = session_out(session)
    return answer(session_line(out), out)
