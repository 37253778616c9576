"""Cursor positions in lists ordered by time, newest first."""

from datetime import UTC, datetime
from uuid import UUID

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.far_times import LAST, FarTime
from agentapi_mcp.core.identity.cursors import decode_cursor, encode_cursor
from agentapi_mcp.core.identity.principals import Principal

# Of a time that has no form in ISO 8601: its number of microseconds.
_EXACT = "us"
_NEWEST = UUID(int=2**128 - 1)


def read_position(cursor: str | None, scope: str, principal: Principal) -> tuple[datetime, UUID]:
    """Return the time and id before which a page begins; without a cursor, the newest.

    Raises:
        InvalidRequestError: the cursor is not one of this list.
    """
    if cursor is None:
        # After every row, so that the first page needs no statement of its own.
        return LAST, _NEWEST
    try:
        at, id_ = decode_cursor(cursor, scope, principal)
        if at.endswith(_EXACT):
            return FarTime(int(at.removesuffix(_EXACT))), UUID(id_)
        return datetime.fromisoformat(at).astimezone(UTC), UUID(id_)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequestError(
            "The cursor is not one of this list; leave it out to start at the first page."
        ) from exc


def cursor_before(at: datetime, id_: UUID, scope: str, principal: Principal) -> str:
    """Return the cursor of the page that begins before this time and id."""
    exact = f"{at.microseconds}{_EXACT}" if isinstance(at, FarTime) else at.isoformat()
    return encode_cursor(scope, principal, (exact, str(id_)))
