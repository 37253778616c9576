"""A turn as a tool's answer: the reply and a one-line bill for the model, everything for programs."""

import math

from mcp_types import CallToolResult, TextContent

from agentapi_mcp.core.errors import sentences
from agentapi_mcp.core.records.turns import Turn, TurnStatus
from agentapi_mcp.core.transcripts import bill_json, describe_bill, fault_json, transcript_uri
from agentapi_mcp.mcp.texts import clean, cut
from agentapi_mcp.mcp.tool_models import FaultOut, TurnOut


def turn_result(turn: Turn) -> CallToolResult:
    """Answer with a turn, whatever became of it; a failed one is an error that names its next step."""
    reply, left_out = cut(turn.reply)
    return CallToolResult(
        # No resource link beside it: adapters hand that to the model as a file at a URL, which providers refuse.
        content=[TextContent(type="text", text=_text(turn, reply, left_out))],
        structured_content=turn_out(turn, reply, truncated=left_out > 0).model_dump(mode="json"),
        is_error=turn.status is TurnStatus.FAILED,
    )


def turn_out(turn: Turn, reply: str, *, truncated: bool) -> TurnOut:
    """Say all of a turn."""
    return TurnOut.model_validate(
        {
            "session_id": str(turn.session_id),
            "turn_id": str(turn.id),
            "status": str(turn.status),
            "reply": reply,
            "reply_truncated": truncated,
            "agent": turn.agent,
            "backend": turn.backend,
            "model": turn.model,
            **bill_json(turn.bill),
            "history_dropped": turn.history_dropped,
            "warning": turn.warning,
            "end_reason": turn.end_reason and str(turn.end_reason),
            "saved": turn.saved,
            "transcript_uri": transcript_uri(turn.session_id),
            "next_step": next_step(turn),
            "error": None if turn.error is None else FaultOut.model_validate(fault_json(turn.error)),
        }
    )


def next_step(turn: Turn) -> str | None:
    """Say what to do now; None when the turn is answered and there is nothing to do."""
    match turn.status:
        case TurnStatus.RUNNING:
            return f"Call get_turn with turn_id {turn.id} to wait for the answer, or cancel_turn to stop it."
        case TurnStatus.FAILED if turn.error is not None:
            wait = turn.error.retry_after
            return sentences(turn.error.next_step, f"Try again in {math.ceil(wait.total_seconds())} s." if wait else "")
        case TurnStatus.FAILED | TurnStatus.INTERRUPTED:
            return f"Send the message again with session_id {turn.session_id}."
        case TurnStatus.CANCELLED:
            return f"Send the message again with session_id {turn.session_id} if it is still wanted."
        case _:
            return None


def _text(turn: Turn, reply: str, left_out: int) -> str:
    if left_out:
        reply += (
            f"\n\n[The reply is cut here: {left_out:,} more bytes. All of it: {transcript_uri(turn.session_id)} "
            f"or get_transcript with session_id {turn.session_id}]"
        )
    parts = [_state(turn, reply), _facts(turn)]
    return clean("\n\n".join(part for part in parts if part))


def _state(turn: Turn, reply: str) -> str:
    match turn.status:
        case TurnStatus.COMPLETED:
            return reply or "(The agent answered nothing.)"
        case TurnStatus.RUNNING:
            return f"Still running, {len(turn.reply):,} characters so far. {next_step(turn)}"
        case _:
            return "\n\n".join(part for part in (_ending(turn), reply and f"It said before:\n{reply}") if part)


def _ending(turn: Turn) -> str:
    what = turn.error.message if turn.error is not None else f"The turn is {turn.status.replace('_', ' ')}."
    return " ".join(part for part in (what, next_step(turn)) if part)


def _facts(turn: Turn) -> str:
    facts = [describe_bill(turn), f"session_id {turn.session_id}", f"turn_id {turn.id}"]
    if turn.warning:
        facts.append(turn.warning)
    if turn.status.is_final and not turn.saved:
        facts.append("not saved yet")
    return f"[{' · '.join(facts)}]"
