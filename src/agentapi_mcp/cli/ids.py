"""Find what an id is of by its beginning or its end: the ids themselves are longer than anybody types."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from agentapi_mcp.base.errors import InvalidRequestError, NotFoundError
from agentapi_mcp.base.text import listed, one_line

_LEAST = 6
_SHORT = 8  # characters that tell ids apart
_LENGTHS = frozenset({32, 36})  # of a UUID as text
_SHOWN = 64


@dataclass(frozen=True, slots=True)
class IdKind:
    """What an id is of, and the command that lists those there are."""

    what: str
    command: str

    @property
    def where(self) -> str:
        """Say which command lists them."""
        return f"`agentapi-mcp {self.command}` shows those there are."


SESSION = IdKind("session", "sessions list")
TURN = IdKind("turn", "turns list")
TOKEN = IdKind("token", "tokens list")
KEY = IdKind("key", "keys list")
MEMBER = IdKind("member", "members list")
BUDGET = IdKind("budget", "budgets list")


def short_id(id_: str) -> str:
    """Return the end of an id, which is enough to find it; ids begin with the time, and so alike."""
    return id_[-_SHORT:]


def whole_id(text: str) -> str | None:
    """Return the id that a text is, as it is listed; None if it is not a whole one."""
    if len(text.strip()) in _LENGTHS:
        with suppress(ValueError):
            return str(UUID(text.strip()))
    return None


def check_part(text: str, kind: IdKind) -> None:
    """Refuse a part of an id that is too short to mean one.

    Raises:
        InvalidRequestError: it is too short.
    """
    if len(text.strip()) < _LEAST:
        raise InvalidRequestError(
            f"{one_line(text, _SHOWN) or 'That'} is too short for the id of a {kind.what}: say {_LEAST} characters of "
            f"it, best its last. {kind.where}"
        )


def find_id(ids: Iterable[str], text: str, kind: IdKind) -> str:
    """Return the one of these ids that begins or ends with a text, or is that text.

    Raises:
        InvalidRequestError: the text is too short.
        NotFoundError: no id fits, or more than one.
    """
    check_part(text, kind)
    # Ids are UUIDs of version 7, which begin with the time: those of one day share a prefix, not an end.
    part = whole_id(text) or text.strip().lower()
    found = [id_ for id_ in dict.fromkeys(ids) if id_.startswith(part) or id_.endswith(part)]
    if not found:
        raise NotFoundError(f"There is no {kind.what} {one_line(text, _SHOWN)}; {kind.where}")
    if len(found) > 1:
        raise NotFoundError(
            f"{len(found)} ids of a {kind.what} begin or end with {one_line(text, _SHOWN)}: {listed(found)}. "
            "Say more of the one that you mean."
        )
    return found[0]
