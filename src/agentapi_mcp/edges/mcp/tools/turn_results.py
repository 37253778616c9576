"""A turn as a tool's answer: the reply, then what the server says of it, and everything for programs."""

import math
from dataclasses import replace
from decimal import Decimal

from mcp_types import Annotations, CallToolResult

from agentapi_mcp.base.errors import sentences
from agentapi_mcp.base.text import number_of, one_line
from agentapi_mcp.core.conversations.joining import was_given_up
from agentapi_mcp.core.conversations.models import ChatEstimate, Sent, Turn, TurnStatus
from agentapi_mcp.edges.mcp.tools.answers import text_block
from agentapi_mcp.presentation.models import CancelOut
from agentapi_mcp.presentation.text import cut
from agentapi_mcp.presentation.turns import (
    AnewWords,
    describe_joined,
    describe_turn,
    estimate_fields,
    turn_fields,
    warning_of,
)
from agentapi_mcp.presentation.uris import transcript_uri

_LONGEST_WARNING = 500
_FOR_THE_MODEL, _FOR_BOTH = Annotations(audience=["assistant"]), Annotations(audience=["user", "assistant"])
_ANEW = AnewWords(
    keyed="Pass another idempotency_key to ask it anew.",
    bare="Pass new: true to ask it anew.",
)
_NOT_ASKED = "The agent was not asked yet, so nothing was billed: send the same message again."
_ASKED = "The agent had been asked, so asking again may cost twice: to do so, send the same message with retry: true."
_GIVEN_UP = (
    "It was stopped because nobody waited for it. To ask again, which may cost twice, send the same message with "
    "retry: true."
)


def turn_result(turn: Turn, sent: Sent | None = None) -> CallToolResult:
    """Answer with a turn, whatever became of it; a failed one is an error that names its next step.

    All that the blocks say is in the fields too, for clients that give their model those alone: `text` is the last
    block without the ids. The reply is a block of its own, after what went wrong, which may quote the provider. The
    last block is the server's alone, whatever stands in the others. `sent` is how the message was sent that it
    answers, by this call or its task.
    """
    reply, left_out = cut(turn.reply)
    remarks, bill = _remarks(turn, sent, left_out), describe_turn(turn)
    said = reply if turn.status is not TurnStatus.RUNNING else ""
    # First, since some clients show the first block alone.
    trouble = _trouble(turn, has_reply=said != "")
    return CallToolResult(
        # No resource link beside it: adapters hand that to the model as a file at a URL, which providers refuse.
        content=[
            *(text_block(text) for text in (trouble, said) if text),
            text_block(_paragraphs(remarks, f"[{bill} · {_ids(turn)}]"), _annotations(turn)),
        ],
        # The fields of `TurnOut`, as the tests find: to check each answer would cost as much as to write it.
        structured_content=turn_fields(
            turn, reply, text=_paragraphs(remarks, f"[{bill}]"), truncated=left_out > 0, next_step=next_step(turn)
        ),
        is_error=turn.status is TurnStatus.FAILED,
    )


def estimate_result(chat: ChatEstimate, most: Decimal | None) -> CallToolResult:
    """Answer with what a message may cost, in the fields of a turn; nobody was asked."""
    fields = estimate_fields(chat, most)
    return CallToolResult(content=[text_block(str(fields["text"]))], structured_content=fields)


def cancel_result(turn: Turn) -> CallToolResult:
    """Answer what became of a turn that was to be cancelled: why one had failed is for `get_turn` to say."""
    if turn.status is TurnStatus.FAILED:
        turn = replace(turn, error=turn.error and replace(turn.error, message="The turn had failed before."))
    result = turn_result(turn)
    fields: dict[str, object] = result.structured_content or {}
    wanted = CancelOut.model_validate({name: fields[name] for name in CancelOut.model_fields})
    return result.model_copy(update={"structured_content": wanted.model_dump(mode="json")})


def task_message(turn: Turn) -> str | None:
    """Say how far the turn of a task is, without a word of the agent's: clients show it as the server's."""
    match turn.status:
        case TurnStatus.RUNNING | TurnStatus.INPUT_REQUIRED:
            return f"Still running, {number_of(len(turn.reply), 'character')} so far."
        case TurnStatus.CANCELLED:
            return next_step(turn)
        case _:
            return None


def _annotations(turn: Turn) -> Annotations:
    # A user who reads an answer needs no ids; that there is none, and what to do now, is for both.
    return _FOR_THE_MODEL if turn.status is TurnStatus.COMPLETED else _FOR_BOTH


def _trouble(turn: Turn, *, has_reply: bool) -> str:
    """Say why a turn has no whole answer; empty if it has one, or may still get one."""
    if turn.status in {TurnStatus.COMPLETED, TurnStatus.RUNNING}:
        return ""
    what = turn.error.message if turn.error is not None else f"The turn is {turn.status.replace('_', ' ')}."
    return sentences(what, "What it said before follows." if has_reply else "")


def _remarks(turn: Turn, sent: Sent | None, left_out: int) -> str:
    """Write what the server says of a turn: no text of the agent, and no name from outside that is not quoted."""
    joined = describe_joined(sent, turn.status, turn.end_reason, _ANEW) if sent is not None and turn.joined else ""
    cut_off = (
        f"[The reply is cut: {number_of(left_out, 'more byte')}. All of it: {transcript_uri(turn.session_id)} "
        f"or get_transcript with session_id {turn.session_id}]"
        if left_out
        else ""
    )
    return _paragraphs(joined, _state(turn), cut_off, _warning(turn), _unsaved(turn))


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _state(turn: Turn) -> str:
    match turn.status:
        case TurnStatus.COMPLETED:
            return "" if turn.reply else "(The agent answered nothing.)"
        case TurnStatus.RUNNING:
            return f"Still running, {number_of(len(turn.reply), 'character')} so far. {next_step(turn)}"
        case _:
            return next_step(turn) or ""


def _warning(turn: Turn) -> str:
    warning = one_line(warning_of(turn) or "", _LONGEST_WARNING)
    return f"(Warning: {warning})" if warning else ""


def _unsaved(turn: Turn) -> str:
    return "(The turn is not saved yet.)" if turn.status.is_final and not turn.saved else ""


def _ids(turn: Turn) -> str:
    return f"session_id {turn.session_id} · turn_id {turn.id}"


def next_step(turn: Turn) -> str | None:
    """Return the next step for the caller, in terms of tools; None if the turn is answered."""
    match turn.status:
        case TurnStatus.RUNNING | TurnStatus.INPUT_REQUIRED:
            return (
                f"Call get_turn with turn_id {turn.id} to wait for the answer, or cancel_turn to stop it: it runs on, "
                "and costs, until it ends."
            )
        case TurnStatus.FAILED if turn.error is not None:
            wait = turn.error.retry_after
            return sentences(turn.error.next_step, f"Try again in {math.ceil(wait.total_seconds())} s." if wait else "")
        case TurnStatus.FAILED:
            return f"Send the message again with session_id {turn.session_id}."
        case TurnStatus.INTERRUPTED:
            return _NOT_ASKED if turn.asked_at is None else _ASKED
        case TurnStatus.CANCELLED:
            again = f"Send the message again with session_id {turn.session_id} if it is still wanted."
            return _GIVEN_UP if turn.joined and was_given_up(turn) else again
        case _:
            return None
