"""What a message may get where earlier turns of it stand, as docs/turns.md promises it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from agentapi_mcp.core.conversations.models import TurnStatus

STOPPED = frozenset({TurnStatus.CANCELLED, TurnStatus.FAILED})


class Ask(StrEnum):
    """How a message is sent: as it is, with `retry` or with `new`."""

    PLAINLY = "plainly"
    AGAIN = "again"
    ANEW = "anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A turn of a message as it was stored at some moment.

    `given_up` says that it was stopped because nobody waited for it, `recent` that it has not ended ten minutes before.
    """

    id: UUID
    status: TurnStatus
    given_up: bool
    created_at: datetime
    asked: bool
    delivered: bool
    recent: bool
    replaced: bool
    replaces: bool
    followed_at: datetime | None
    lease_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What a message may get: one of these turns, one of its own, or a refusal."""

    joins: frozenset[UUID] = frozenset()
    own: bool = False
    refused: bool = False

    def __or__(self, other: "Outcomes") -> "Outcomes":
        """Return what either allows."""
        return Outcomes(
            joins=self.joins | other.joins, own=self.own or other.own, refused=self.refused or other.refused
        )


def outcomes(turns: Iterable[Stored], ask: Ask, *, keyed: bool, until: datetime) -> Outcomes:
    """Return what a message may get that is sent, and answered until then, where these turns of it stand.

    All callers who wait have waited for a second or longer. Which of several turns it gets is not promised.
    """
    if ask is Ask.ANEW:
        return Outcomes(own=True)
    in_the_way = [turn for turn in turns if not turn.replaced and (keyed or _is_found(turn, ask))]
    if not in_the_way:
        return Outcomes(own=True)
    allowed = Outcomes()
    for turn in in_the_way:
        allowed |= _outcomes(turn, ask, until)
    return allowed


def _is_found(turn: Stored, ask: Ask) -> bool:
    """Tell whether a message without a key finds a turn."""
    is_owed = not turn.delivered or turn.status is TurnStatus.INTERRUPTED or ask is Ask.AGAIN
    return is_owed and turn.recent and turn.status not in STOPPED


def _outcomes(turn: Stored, ask: Ask, until: datetime) -> Outcomes:
    join = Outcomes(joins=frozenset({turn.id}))
    is_interrupted = turn.status is TurnStatus.INTERRUPTED
    if (ask is Ask.AGAIN and (is_interrupted or turn.given_up)) or (is_interrupted and not turn.asked):
        return Outcomes(own=True)
    if ask is Ask.PLAINLY or turn.replaces:
        return join
    # Whether its owner lives is not known then; the retry waits for its end.
    may_be_orphan = turn.lease_until is not None and turn.lease_until < until
    return join | Outcomes(refused=True) if may_be_orphan else Outcomes(refused=True)
