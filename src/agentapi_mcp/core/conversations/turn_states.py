"""The states of a turn in the process that runs it, and what may happen in each."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from agentapi_mcp.core.conversations.models import OPEN, TurnStatus


class TurnState(StrEnum):
    """Where a turn is on its way from the caller's message to the end of its bookkeeping.

    - `QUEUED`: nothing is stored yet.
    - `ACCEPTED`: stored, with a lease; the agent was not asked yet.
    - `RUNNING`: the agent is asked, or answers.
    - `INPUT_REQUIRED`: the agent waits for an answer of the user.
    - `ANSWERED`: the outcome is known, and not stored yet.
    - `SAVED`: the outcome is stored, or somebody else has ended the turn.
    - `SETTLED`: its callers have been told, and its bookkeeping is done.
    """

    QUEUED = "queued"
    ACCEPTED = "accepted"
    RUNNING = "running"
    INPUT_REQUIRED = "input_required"
    ANSWERED = "answered"
    SAVED = "saved"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class StateRule:
    """What may happen in a state: what follows, the statuses of the row, and whether the turn can be stopped."""

    then: frozenset[TurnState]
    stored: frozenset[TurnStatus] = frozenset()
    may_stop: bool = False


_ENDED = frozenset(TurnStatus) - OPEN
RULES: Mapping[TurnState, StateRule] = {
    TurnState.QUEUED: StateRule(frozenset({TurnState.ACCEPTED})),
    TurnState.ACCEPTED: StateRule(
        frozenset({TurnState.RUNNING, TurnState.ANSWERED}), frozenset({TurnStatus.RUNNING}), may_stop=True
    ),
    TurnState.RUNNING: StateRule(
        frozenset({TurnState.INPUT_REQUIRED, TurnState.ANSWERED}), frozenset({TurnStatus.RUNNING}), may_stop=True
    ),
    TurnState.INPUT_REQUIRED: StateRule(
        frozenset({TurnState.RUNNING, TurnState.ANSWERED}), frozenset({TurnStatus.INPUT_REQUIRED}), may_stop=True
    ),
    TurnState.ANSWERED: StateRule(frozenset({TurnState.SAVED}), OPEN),
    TurnState.SAVED: StateRule(frozenset({TurnState.SETTLED}), _ENDED),
    TurnState.SETTLED: StateRule(frozenset(), _ENDED),
}
