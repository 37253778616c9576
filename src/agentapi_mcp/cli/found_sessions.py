"""Finding a session by the beginning or the end of its id, and reading all of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.base.paging import Page, read_all
from agentapi_mcp.cli.ids import SESSION, check_part, find_id, whole_id

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.conversations import sessions
    from agentapi_mcp.core.services import Services
else:
    sessions = LazyModule("agentapi_mcp.core.conversations.sessions")


async def find_session(read: Callable[[str | None], Awaitable[Page[str]]], text: str) -> str:
    """Return the full id of the session whose id begins or ends with a text; `read` reads the ids, page by page.

    Raises:
        InvalidRequestError: the text is too short.
        NotFoundError: no session fits, or more than one.
    """
    whole = whole_id(text)
    if whole is not None:
        return whole
    check_part(text, SESSION)
    return find_id(await read_all(read), text, SESSION)


async def session_ids(services: Services, cursor: str | None) -> Page[str]:
    """Read a page of the ids of the principal's sessions."""
    page = await services.sessions.list_(services.principal, cursor=cursor, limit=200)
    return Page(tuple(str(session.id) for session in page.items), page.next_cursor)


async def whole_transcript(services: Services, session_id: str) -> sessions.Transcript:
    """Read a whole transcript, page by page."""
    transcript = await services.sessions.transcript(services.principal, session_id)
    while transcript.older is not None:
        part = await services.sessions.transcript(services.principal, session_id, cursor=transcript.older)
        transcript = sessions.Transcript(transcript.session, (*part.messages, *transcript.messages), part.older)
    return transcript
