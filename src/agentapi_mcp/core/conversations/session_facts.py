"""What users say of their conversations and turns, and of conversations that they had elsewhere."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from agentapi_mcp.base.ids import SessionId, TurnId


class SessionStatus(StrEnum):
    """Whether a conversation goes on; one that is archived is left out of lists."""

    ACTIVE = "active"
    COMPLETED = "completed"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What a user says of a session or a turn: 1 to 5, and a note; a turn has no `usefulness`.

    In a request, None leaves what is there.
    """

    rating: int | None = None
    usefulness: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a user says of a conversation elsewhere; tokens and cost in US dollars are as they say, None is unknown.

    `external_id` tells such conversations apart; without one, `external_link` does.
    """

    external_link: str | None = None
    external_id: str | None = None
    agent: str | None = None
    model: str | None = None
    provider: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: Decimal | None = None
    content_preview: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """What is said of a session; `report` is None for a conversation of this program."""

    status: SessionStatus = SessionStatus.ACTIVE
    interaction_type: str | None = None
    tags: tuple[str, ...] = ()
    rating: Rating = Rating()
    report: Report | None = None


NOTHING_SAID = SessionFacts()


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRating:
    """The rating of a turn, with the session that it is in."""

    turn_id: TurnId
    session_id: SessionId
    rating: Rating


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagging:
    """A change of a session's tags and kind; None leaves the kind."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    interaction_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInteraction:
    """A conversation elsewhere that is to be recorded."""

    title: str
    report: Report
    interaction_type: str | None = None
    tags: tuple[str, ...] = ()
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Which sessions a list has; `query` searches titles and openings: the first 500 characters of first messages.

    Those that are archived are left out, unless `archived`.
    """

    agent: str | None = None
    query: str | None = None
    tag: str | None = None
    archived: bool = False


NOT_ARCHIVED = SessionFilter()
EVERY_SESSION = SessionFilter(archived=True)
