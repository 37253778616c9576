"""Validation of text from callers."""

import re
from datetime import UTC, datetime

from agentapi_mcp.base.errors import InvalidRequestError

MAX_NAME = 255
# The only addresses that are taken from tokens, since look-alike letters allow spoofing; so no others are invited.
PLAIN_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+")


def check_text(text: str, name: str, max_bytes: int) -> int:
    """Validate that text is not blank, not too long, and storable; return its size in bytes.

    Raises:
        InvalidRequestError: it is not; the message says why.
    """
    if not text.strip():
        raise InvalidRequestError("is blank; give it a value.", argument=name)
    if "\0" in text:
        raise InvalidRequestError("holds a NUL character, which cannot be kept; remove it.", argument=name)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidRequestError("is not valid Unicode: it holds half of a surrogate pair.", argument=name) from exc
    if size > max_bytes:
        raise InvalidRequestError(f"has {size:,} bytes; at most {max_bytes:,} are allowed. Shorten it.", argument=name)
    return size


def parse_moment(text: str, name: str) -> datetime:
    """Parse a time from a caller; it is returned in UTC.

    Raises:
        InvalidRequestError: the argument `name` is no time in ISO 8601, or has no zone.
    """
    try:
        at = datetime.fromisoformat(text.strip())
        if at.tzinfo is None:
            raise InvalidRequestError("has no zone; put Z for UTC, or such as +02:00, at its end.", argument=name)
        return at.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequestError("is no time such as 2026-11-30T09:00:00Z.", argument=name) from exc
