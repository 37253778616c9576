"""Decide what a request gets where an earlier turn stands in its way: never twice, unless asked for."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from agentapi_mcp.core.conversations.models import EndReason, FoundTurn, Turn, TurnStatus

# Parallel samples of one request come together; a retry comes after a time-out.
SAMPLES_WITHIN = timedelta(seconds=1)


class Decision(StrEnum):
    """What a request gets.

    - `JOIN`: that turn.
    - `ASK_AGAIN`: a new turn in its place, with the same message.
    - `BEGIN`: a new turn beside it.
    - `AWAIT_NEWS`: look again after a moment: whether its answer has arrived, or its caller left, is on its way here.
    - `SETTLE`: settle it, since its owner does not renew its lease, and look again.
    - `REFUSE_BUSY`: an error, since the session is answering another message.
    - `REFUSE_KEY`: an error, since the key belongs to another request.
    - `REFUSE_RETRY`: an error, since it was neither interrupted nor given up.
    """

    JOIN = "join"
    ASK_AGAIN = "ask_again"
    BEGIN = "begin"
    AWAIT_NEWS = "await_news"
    SETTLE = "settle"
    REFUSE_BUSY = "refuse_busy"
    REFUSE_KEY = "refuse_key"
    REFUSE_RETRY = "refuse_retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asked: its fingerprint, whether it has a key and continues a session, `retry` and `new`.

    `late` says that its own turn may have been lost on the way to the store: who sent it may have sent it again since.
    """

    fingerprint: bytes
    has_key: bool
    in_session: bool
    retry: bool = False
    new: bool = False
    late: bool = False


def decide_keyed(found: FoundTurn, asked: Asked) -> Decision:
    """Decide about the turn of the request's key."""
    if found.fingerprint != asked.fingerprint:
        return Decision.REFUSE_KEY
    return _decide_interrupted(found, asked) or Decision.JOIN


def decide_same(found: FoundTurn, asked: Asked, *, has_waited: bool) -> Decision:
    """Decide about a turn of the same request without a key, whose answer is not known to have arrived."""
    decision = _decide_interrupted(found, asked)
    if decision is not None:
        return decision
    if found.turn.status is TurnStatus.INTERRUPTED or found.caller_left or found.owner_gone or asked.retry:
        return Decision.JOIN
    is_open = not found.turn.status.is_final
    if is_open and asked.in_session:
        return Decision.JOIN
    # Whether the answer of an ended turn has arrived is written a moment after its last byte.
    is_sample = found.age < SAMPLES_WITHIN and not asked.late
    if not has_waited and (not is_open or is_sample):
        return Decision.AWAIT_NEWS
    return Decision.BEGIN if is_sample and not asked.in_session else Decision.JOIN


def decide_open(found: FoundTurn, asked: Asked) -> Decision:
    """Decide about the open turn of the session."""
    if found.turn.status.is_final:  # it ended meanwhile
        return Decision.BEGIN
    if found.fingerprint == asked.fingerprint and not asked.has_key and not asked.new:
        return _decide_interrupted(found, asked) or Decision.JOIN
    return Decision.SETTLE if found.lease_is_over else Decision.REFUSE_BUSY


def _decide_interrupted(found: FoundTurn, asked: Asked) -> Decision | None:
    """Decide where the turn was interrupted, or its owner died, or a retry was asked for."""
    if not found.turn.status.is_final and found.lease_is_over:
        return Decision.SETTLE
    is_interrupted = found.turn.status is TurnStatus.INTERRUPTED
    if asked.retry and not is_interrupted and not was_given_up(found.turn):
        # A retry that is repeated finds the turn that it began, and joins it as any other request does.
        return None if found.replaces else Decision.REFUSE_RETRY
    # Before it was asked, nothing can have been billed.
    if asked.retry or (is_interrupted and found.turn.asked_at is None):
        return Decision.ASK_AGAIN
    return None


def was_given_up(turn: Turn) -> bool:
    """Whether a turn was stopped because nobody waited for it any more."""
    return turn.end_reason is EndReason.ABANDONED
