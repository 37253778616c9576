"""Read, rename and delete sessions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.ids import SessionId, parse_id
from agentapi_mcp.base.paging import Page
from agentapi_mcp.base.validation import MAX_NAME, check_text
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditTarget
from agentapi_mcp.core.conversations.models import Message, Session
from agentapi_mcp.core.conversations.ports import SessionCache, SessionStore
from agentapi_mcp.core.conversations.session_facts import NOT_ARCHIVED, SessionFilter
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.identity.shares import Resource, Shares, holder_of

_MAX_PAGE = 200

_MAX_QUERY = 500

_MAX_TITLE = 255


@dataclass(frozen=True, slots=True)
class Transcript:
    """A page of a session, oldest message first; `older` is the cursor of the page before it."""

    session: Session
    messages: tuple[Message, ...]
    older: str | None


class Sessions:
    """The caller's own sessions; those of other users are reported as not found."""

    def __init__(self, store: SessionStore, cache: SessionCache, audit: AuditLog, shares: Shares) -> None:
        self._store = store
        self._cache = cache
        self._audit = audit
        self._shares = shares

    async def list_(
        self,
        principal: Principal,
        wanted: SessionFilter = NOT_ARCHIVED,
        *,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Session]:
        """Page through the sessions that the caller may read, newest first.

        Raises:
            PermissionDeniedError: the principal may not read sessions.
            InvalidRequestError: an argument is invalid.
            LimitExceededError: the caller searches more often than their share.
        """
        require(principal, Action.READ_SESSIONS)
        for name, value, most in (
            ("agent", wanted.agent, MAX_NAME),
            ("query", wanted.query, _MAX_QUERY),
            ("tag", wanted.tag, MAX_NAME),
        ):
            if value is not None:
                check_text(value, name, most)
        if not 1 <= limit <= _MAX_PAGE:
            raise InvalidRequestError(f"must be between 1 and {_MAX_PAGE}.", argument="limit")
        if wanted.query is not None or wanted.tag is not None:
            self._shares.use(Resource.SEARCHES, holder_of(principal))
        return await self._store.list_(principal, wanted, cursor=cursor, limit=limit)

    async def sizes(self, principal: Principal, sessions: Sequence[Session]) -> Mapping[SessionId, int]:
        """Return how many bytes the messages of each of these sessions have, in UTF-8.

        Raises:
            PermissionDeniedError: the principal may not read sessions.
        """
        require(principal, Action.READ_SESSIONS)
        return await self._store.sizes(principal, [session.id for session in sessions])

    async def get(self, principal: Principal, session_id: str) -> Session:
        """Read a session without its messages."""
        require(principal, Action.READ_SESSIONS)
        return await self._store.get(principal, SessionId(parse_id(session_id, "session_id")))

    async def transcript(
        self,
        principal: Principal,
        session_id: str,
        *,
        cursor: str | None = None,
        max_bytes: int = 1_000_000,
        limit: int = 500,
    ) -> Transcript:
        """Read the newest page of a session, or the page before a cursor; messages are never truncated."""
        require(principal, Action.READ_SESSIONS)
        parsed = SessionId(parse_id(session_id, "session_id"))
        session = await self._store.get(principal, parsed)
        page = await self._store.messages(principal, parsed, cursor=cursor, limit=limit, max_bytes=max_bytes)
        return Transcript(session, page.items, page.next_cursor)

    async def rename(self, principal: Principal, session_id: str, title: str) -> None:
        """Change the title to one line of text, and record it in the audit log; needs the right to edit sessions."""
        require(principal, Action.EDIT_SESSIONS)
        check_title(title)
        parsed = SessionId(parse_id(session_id, "session_id"))
        await self._store.rename(principal, parsed, title.strip())
        await self._audit.record(principal, AuditAction.SESSION_RENAMED, target=AuditTarget("session", str(parsed)))

    async def delete(self, principal: Principal, session_id: str) -> None:
        """Delete a session, also from the cache, and record it in the audit log.

        Raises:
            PermissionDeniedError: the principal may not edit sessions.
            NotFoundError: there is no such session.
            ConflictError: a turn is running in it.
        """
        require(principal, Action.EDIT_SESSIONS)
        parsed = SessionId(parse_id(session_id, "session_id"))
        await self._store.delete(principal, parsed)
        await self._audit.record(principal, AuditAction.SESSION_DELETED, target=AuditTarget("session", str(parsed)))
        # Last: if it fails, the history expires, and no session refers to it.
        await self._cache.remove(parsed)


def check_title(title: str) -> None:
    """Check that a title is one line of text, and not too long.

    Raises:
        InvalidRequestError: it is not.
    """
    check_text(title, "title", _MAX_TITLE)
    if len(title.splitlines()) > 1:
        raise InvalidRequestError("must be one line.", argument="title")
