"""Finding a session by the beginning or the end of its id, and reading all of it."""

from collections.abc import Awaitable, Callable

from agentapi_mcp.base.errors import InvalidRequestError, NotFoundError
from agentapi_mcp.base.paging import Page, read_all
from agentapi_mcp.base.text import number_of
from agentapi_mcp.core.conversations.sessions import Transcript
from agentapi_mcp.core.services import Services

_MIN_LENGTH = 6
_ID_LENGTH = 36  # of a UUID as text


async def find_session(read: Callable[[str | None], Awaitable[Page[str]]], text: str) -> str:
    """Return the full id of the session whose id begins or ends with a text; `read` reads the ids, page by page.

    Raises:
        InvalidRequestError: the text is too short.
        NotFoundError: no session fits, or more than one.
    """
    if len(text) >= _ID_LENGTH:
        return text
    if len(text) < _MIN_LENGTH:
        raise InvalidRequestError(
            f"{text} is too short: give at least six characters of a session's id, best its last."
        )
    # Ids are UUIDs of version 7, which begin with the time: those of one day share a prefix, not an end.
    part = text.lower()
    found = [id_ for id_ in await read_all(read) if id_.startswith(part) or id_.endswith(part)]
    if len(found) != 1:
        raise NotFoundError(
            f"{number_of(len(found), 'session')} begin or end with {text}; `agentapi-mcp sessions list` shows them. "
            "Ids begin with the time: their ends differ most."
        )
    return found[0]


async def session_ids(services: Services, cursor: str | None) -> Page[str]:
    """Read a page of the ids of the principal's sessions."""
    page = await services.sessions.list_(services.principal, cursor=cursor, limit=200)
    return Page(tuple(str(session.id) for session in page.items), page.next_cursor)


async def whole_transcript(services: Services, session_id: str) -> Transcript:
    """Read a whole transcript, page by page."""
    transcript = await services.sessions.transcript(services.principal, session_id)
    while transcript.older is not None:
        part = await services.sessions.transcript(services.principal, session_id, cursor=transcript.older)
        transcript = Transcript(transcript.session, (*part.messages, *transcript.messages), part.older)
    return transcript
