"""Id types, generation of UUIDs in time order (RFC 9562, version 7), and parsing."""

import contextlib
import sys
from typing import NewType
from uuid import UUID

from agentapi_mcp.base.errors import ConfigurationError, InvalidRequestError

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils.compat import uuid7

_LENGTHS = frozenset({32, 36})


def check_clock(seconds: float) -> None:
    """Check that ids can be generated at this time, in seconds since 1970.

    Raises:
        ConfigurationError: the clock is before 1970.
    """
    # Ids hold the time since 1970, and uuid-utils panics before it. Python itself does not start after 2262.
    if seconds < 0:
        raise ConfigurationError("The clock of this machine is before 1970: set it right.")


def new_id() -> UUID:
    """Generate an id that sorts after all earlier ones of this process."""
    return uuid7()


def parse_id(text: str, name: str) -> UUID:
    """Parse an id from a caller.

    Raises:
        InvalidRequestError: the argument `name` is not a UUID.
    """
    # UUID() also accepts braces and URNs, which no other part of the program writes.
    if len(text) in _LENGTHS:
        with contextlib.suppress(ValueError):
            return UUID(text)
    raise InvalidRequestError("is not an id; pass it exactly as it was given.", argument=name)


UserId = NewType("UserId", UUID)

OrgId = NewType("OrgId", UUID)

AgentId = NewType("AgentId", UUID)

ModelRowId = NewType("ModelRowId", UUID)

SessionId = NewType("SessionId", UUID)

MessageId = NewType("MessageId", UUID)

TurnId = NewType("TurnId", UUID)

TaskId = NewType("TaskId", str)

ApiKeyId = NewType("ApiKeyId", UUID)
