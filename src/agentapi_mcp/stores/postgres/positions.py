"""Cursor positions in lists ordered by time, newest first."""

from datetime import UTC, datetime
from uuid import UUID

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.core.identity.cursors import decode_cursor
from agentapi_mcp.core.identity.principals import Principal

# After every row, so that the first page needs no statement of its own.
_NEWEST = ("9999-12-31T00:00:00+00:00", "ffffffff-ffff-ffff-ffff-ffffffffffff")


def read_position(cursor: str | None, scope: str, principal: Principal) -> tuple[datetime, UUID]:
    """Return the time and id before which a page begins; without a cursor, the newest.

    Raises:
        InvalidRequestError: the cursor is not one of this list.
    """
    position = _NEWEST if cursor is None else decode_cursor(cursor, scope, principal)
    try:
        at, id_ = position
        return datetime.fromisoformat(at).astimezone(UTC), UUID(id_)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequestError(
            "The cursor is not one of this list; leave it out to start at the first page."
        ) from exc
