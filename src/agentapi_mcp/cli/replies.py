"""The result of a message, read from the JSON fields of a turn: the same in process and through the MCP server."""

import math
from dataclasses import dataclass
from typing import Any

from agentapi_mcp.base.errors import sentences
from agentapi_mcp.base.text import one_line
from agentapi_mcp.core.conversations.models import EndReason, Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.presentation import turns
from agentapi_mcp.presentation.costs import read_cost
from agentapi_mcp.presentation.turns import AnewWords, describe_cost, describe_joined

Fields = dict[str, Any]
_GIVEN_UP = "It was stopped because nobody waited for it: sending the same message with --retry may cost twice."
_ANEW = AnewWords(keyed="Another --idempotency-key asks it anew.", bare="--new asks it anew.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """The printed parts of a turn; `turn` has all its fields."""

    session_id: str
    completed: bool
    cancelled: bool
    text: str
    bill: str
    error: str | None
    warning: str | None
    joined: str | None
    turn: Fields


def turn_fields(turn: Turn) -> Fields:
    """Serialize a turn as the MCP tools do, with its whole reply."""
    return in_commands(turns.turn_fields(turn, turn.reply, text="", truncated=False, next_step=None))


def in_commands(turn: Fields) -> Fields:
    """Replace the words of the server, which name tools, with those that name commands."""
    step = _next_step(turn)
    parts = (step or "", turn["warning"] or "", f"[{_bill(turn)}]")
    return turn | {"text": "\n\n".join(part for part in parts if part), "next_step": step}


def _bill(turn: Fields) -> str:
    return describe_cost(turn["agent"], TurnStatus(turn["status"]), read_cost(turn), turn["history_dropped"])


def to_reply(turn: Fields, request: ChatRequest) -> ChatReply:
    """Build the printed reply from the fields of the turn that answers a request."""
    status = TurnStatus(turn["status"])
    completed = status is TurnStatus.COMPLETED
    return ChatReply(
        session_id=turn["session_id"],
        completed=completed,
        cancelled=turn["end_reason"] == EndReason.CANCEL_TURN,
        text=turn["reply"],
        bill=_bill(turn),
        error=None if completed else _failure(turn),
        warning=turn["warning"] and one_line(turn["warning"], 1000),
        joined=describe_joined(request.sent, status, turn["end_reason"], _ANEW) if turn["joined"] else None,
        turn=turn,
    )


def _next_step(turn: Fields) -> str | None:
    match TurnStatus(turn["status"]):
        case TurnStatus.RUNNING | TurnStatus.INPUT_REQUIRED:
            id_ = turn["turn_id"]
            return (
                f"It runs on, and costs, until it ends: `agentapi-mcp turns show {id_}` shows how far it is, "
                f"`agentapi-mcp turns cancel {id_}` ends it."
            )
        case TurnStatus.FAILED if turn["error"] is not None:
            return turn["error"]["next_step"]
        case TurnStatus.INTERRUPTED if turn["asked"]:
            return "The agent had been asked: sending the same message again with --retry may cost twice."
        case TurnStatus.INTERRUPTED:
            return "The agent was not asked yet, so nothing was billed: send the same message again."
        case TurnStatus.FAILED | TurnStatus.CANCELLED:
            again = f"Send the message again with --session {turn['session_id']}, if it is still wanted."
            return _GIVEN_UP if _was_given_up(turn) else again
        case _:
            return None


def _failure(turn: Fields) -> str:
    error = turn["error"]
    if error is None:
        # A person who has cancelled a turn knows what to do; that a retry may cost twice they must be told.
        step = turn["next_step"] if turn["status"] == TurnStatus.INTERRUPTED or _was_given_up(turn) else ""
        return sentences(f"The turn was {turn['status']}.", step)
    helps = "does not help"
    if error["retryable"]:
        seconds = error["retry_after_seconds"]
        helps = "may help" if seconds is None else f"may help in {math.ceil(seconds)} s"
    return f"failed ({error['code']}; trying again {helps}): {sentences(error['message'], error['next_step'])}"


def _was_given_up(turn: Fields) -> bool:
    """Whether an earlier request had begun the turn, which was stopped because nobody waited for it."""
    return turn["joined"] and turn["end_reason"] == EndReason.ABANDONED
