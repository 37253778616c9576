"""Errors of the core as text for users: what is wrong, and the next step in the words of an edge."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentapi_mcp.base.errors import (
    AgentApiError,
    BackendError,
    BudgetExceededError,
    CallerError,
    ConflictError,
    NextStep,
    retry_after_seconds,
    sentences,
)
from agentapi_mcp.presentation.text import clean

# In the `_meta` of a failed tool result that is no turn: an object as `error_fields` returns it.
ERROR_META_KEY = "agentapi-mcp/error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorWords:
    """What an edge calls things.

    `next_steps` may name `{turn_id}`. `steps_of_codes` has the next step of errors, by their code, whose own message
    names none. `arguments` has the edge's names of arguments that are called otherwise in the core.
    """

    next_steps: Mapping[NextStep, str]
    steps_of_codes: Mapping[str, str] = field(default_factory=dict[str, str])
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])


def explain_error(error: AgentApiError, words: ErrorWords) -> str:
    """Describe an error and its next step in one paragraph."""
    parts = [_what(error, words), _next_step(error, words)]
    seconds = retry_after_seconds(error)
    if seconds is not None:
        parts.append(f"Try again in {seconds} s.")
    return clean(sentences(*parts))


def error_fields(error: AgentApiError) -> dict[str, object]:
    """Return an error for programs: its stable code, whether to repeat it, and what its kind has more."""
    is_agents = isinstance(error, BackendError)
    fields: dict[str, object] = {
        "code": error.code,
        "retryable": error.may_retry if is_agents else error.retryable,
    }
    if is_agents:
        fields["fault"] = str(error.fault)
    if isinstance(error, BudgetExceededError):
        fields |= error.details
    seconds = retry_after_seconds(error)
    if seconds is not None:
        fields["retry_after_seconds"] = seconds
    return fields


def _what(error: AgentApiError, words: ErrorWords) -> str:
    name = words.arguments.get(error.argument or "") if isinstance(error, CallerError) else None
    return f"{name} {error.message}" if isinstance(error, CallerError) and name else str(error)


def _next_step(error: AgentApiError, words: ErrorWords) -> str:
    if isinstance(error, BackendError):
        return error.next_step
    if isinstance(error, CallerError) and error.next_step is not None:
        turn_id = error.turn_id if isinstance(error, ConflictError) else None
        return words.next_steps[error.next_step].format(turn_id=turn_id)
    return words.steps_of_codes.get(error.code, "")
