"""Errors of the core as text for users: what is wrong, and the next step."""

from agentapi_mcp.base.errors import AgentApiError, BackendError, CallerError, NextStep, retry_after_seconds, sentences
from agentapi_mcp.presentation.text import clean

# The next step for errors whose own message names none.
STEPS_OF_CODES: dict[str, str] = {
    "internal": "Try again; the server's log says more.",
    "not_authenticated": "Sign in, then try again.",
    "configuration": "The operator of this server has to mend it.",
    "issuer_unavailable": "Try again in half a minute; the server's log says more.",
    "store": "Try again; if it stays, the operator finds the reason in the server's log.",
    "store_mismatch": "The operator of this server has to mend it.",
}

NEXT_STEPS: dict[NextStep, str] = {
    NextStep.FIND_SESSION: "Call list_sessions, or leave session_id out to start one.",
    NextStep.FIND_TURN: "Call list_sessions and read the session's transcript.",
    NextStep.WAIT_OR_CANCEL: "Wait for it with get_turn, or end it with cancel_turn, then try again.",
}


def explain(error: AgentApiError) -> str:
    """Describe an error and its next step in one paragraph."""
    parts = [str(error), _next_step(error)]
    seconds = retry_after_seconds(error)
    if seconds is not None:
        parts.append(f"Try again in {seconds} s.")
    return clean(sentences(*parts))


def _next_step(error: AgentApiError) -> str:
    if isinstance(error, BackendError):
        return error.next_step
    if isinstance(error, CallerError) and error.next_step is not None:
        return NEXT_STEPS[error.next_step]
    return STEPS_OF_CODES.get(error.code, "")
