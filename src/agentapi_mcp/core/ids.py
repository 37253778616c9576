"""New ids, in the order of their making (RFC 9562, version 7), and ids as callers write them."""

import contextlib
import sys
from uuid import UUID

from agentapi_mcp.core.errors import InvalidRequestError

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils.compat import uuid7

_LENGTHS = frozenset({32, 36})


def new_id() -> UUID:
    """Make an id that sorts after the earlier ones of this process."""
    return uuid7()


def parse_id(text: str, name: str) -> UUID:
    """Read an id that a caller wrote.

    Raises:
        InvalidRequestError: it is no UUID; `name` says which argument it was.
    """
    if len(text) in _LENGTHS:
        with contextlib.suppress(ValueError):
            return UUID(text)
    raise InvalidRequestError("is not an id; pass it exactly as it was given.", argument=name)
