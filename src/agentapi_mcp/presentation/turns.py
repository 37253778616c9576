"""Turns, their cost and their errors, as JSON and as one line."""

from dataclasses import dataclass
from decimal import Decimal

from agentapi_mcp.base.errors import BudgetExceededError, sentences
from agentapi_mcp.base.text import number_of, quoted
from agentapi_mcp.core.backends.events import StopReason, Usage
from agentapi_mcp.core.conversations.models import ChatEstimate, EndReason, Sent, Turn, TurnCost, TurnFault, TurnStatus
from agentapi_mcp.presentation.budgets import budget_warning, describe_estimate, left_of, refusal_of
from agentapi_mcp.presentation.costs import cost_json
from agentapi_mcp.presentation.uris import transcript_uri
from agentapi_mcp.presentation.values import dollars, moment

# What an answer that is not whole lacks, and what to do, in words that fit the tools and the commands.
_STOPS: dict[StopReason, str] = {
    StopReason.END: "",
    StopReason.LENGTH: "The answer was cut at its greatest length{after}: ask it to go on, or raise max_tokens.",
    StopReason.TOOL_CALLS: "The answer ends in a call of a tool, and none is run here: ask for one without tools.",
    StopReason.CONTENT_FILTER: (
        "The model or its provider refused to say the rest: reword the message, or ask another model. Later messages "
        "of this conversation are sent without this one and its answer."
    ),
    StopReason.PAUSED: "The agent paused before its answer was whole: ask it to go on.",
    StopReason.OTHER: "The answer ended for a reason that this server does not know, so it may not be whole.",
}


def warning_of(turn: Turn) -> str | None:
    """Return what to know of an answer beside it.

    That is the warning of the backend, why a completed one is not whole, and which soft budget is used up.
    """
    budget, stop = budget_warning(turn.bill.budget), ""
    if turn.status is TurnStatus.COMPLETED and turn.stop_reason is not None:
        tokens = turn.bill.usage.output_tokens
        stop = _STOPS[turn.stop_reason].format(after="" if tokens is None else f", after {number_of(tokens, 'token')}")
    return sentences(turn.warning or "", stop, budget) or None if stop or budget else turn.warning


def describe_turn(turn: Turn) -> str:
    """Describe a turn in one line: agent, status and cost."""
    return describe_cost(turn.agent, turn.status, turn.bill, turn.history_dropped)


def describe_cost(agent: str, status: TurnStatus, bill: TurnCost, history_dropped: int) -> str:
    """Describe a turn in one line by its parts, for a caller that has no `Turn`.

    Names from outside are quoted, so that none of them can add a part.
    """
    usage = bill.usage
    agent = quoted(agent)
    parts = [agent if bill.model_used is None else f"{agent} ({quoted(bill.model_used)})"]
    if status is not TurnStatus.COMPLETED:
        parts.append(status.replace("_", " "))
    if usage.input_tokens or usage.output_tokens:  # without a model there are none, and nothing to say
        parts.append(f"{_tokens(usage.input_tokens)} in, {_count(usage.output_tokens)} out")
    parts.append(_cost(usage.cost_usd, bill.cost_source))
    if bill.latency is not None:
        parts.append(f"{bill.latency.total_seconds():.1f} s")
    if bill.billing_may_go_on:
        parts.append("the provider may go on billing")
    if bill.budget is not None:
        parts.append(left_of(bill.budget))
    if history_dropped:
        parts.append(f"{number_of(history_dropped, 'older message')} not sent")
    return " · ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnewWords:
    """How an edge says to ask a message anew: one with a key, and one without."""

    keyed: str
    bare: str


def describe_joined(sent: Sent, status: TurnStatus, end_reason: str | None, words: AnewWords) -> str:
    """Say that an earlier request began the turn, and how to ask anew where that is not refused."""
    # The next step of one that was interrupted or given up is to retry it; a session that answers takes nothing else.
    retries = status is TurnStatus.INTERRUPTED or end_reason == EndReason.ABANDONED
    is_busy = sent.in_session and not status.is_final
    anew = words.keyed if sent.has_key else words.bare
    what = "This message was sent before, and this is the turn that answers it."
    return f"({sentences(what, '' if retries or is_busy else anew)})"


def turn_json(turn: Turn) -> dict[str, object]:
    """Serialize a turn without its texts; unknown values are null."""
    return {
        "id": str(turn.id),
        "status": str(turn.status),
        "agent": turn.agent,
        "backend": turn.backend,
        "model": turn.model,
        "end_reason": turn.end_reason and str(turn.end_reason),
        "stop_reason": turn.stop_reason and str(turn.stop_reason),
        "created_at": moment(turn.created_at),
        "ended_at": turn.ended_at and moment(turn.ended_at),
        "error": None if turn.error is None else _fault_json(turn.error),
        "warning": warning_of(turn),
        "history_dropped": turn.history_dropped,
        **cost_json(turn.bill),
    }


def turn_fields(turn: Turn, reply: str, *, text: str, truncated: bool, next_step: str | None) -> dict[str, object]:
    """Serialize a turn with its reply, and what the edge says of it in its own words: the fields of `TurnOut`."""
    return {
        "text": text,
        "session_id": str(turn.session_id),
        "turn_id": str(turn.id),
        "status": str(turn.status),
        "stop_reason": turn.stop_reason and str(turn.stop_reason),
        "joined": turn.joined,
        "asked": turn.asked_at is not None,
        "reply": reply,
        "reply_truncated": truncated,
        "agent": turn.agent,
        "backend": turn.backend,
        "model": turn.model,
        **cost_json(turn.bill),
        "estimated_cost_usd": None,
        "history_dropped": turn.history_dropped,
        "warning": warning_of(turn),
        "end_reason": turn.end_reason and str(turn.end_reason),
        "saved": turn.saved,
        "transcript_uri": transcript_uri(turn.session_id),
        "next_step": next_step,
        "error": None if turn.error is None else _fault_json(turn.error),
    }


def estimate_fields(chat: ChatEstimate, most: Decimal | None) -> dict[str, object]:
    """Serialize an estimate by the fields of `TurnOut`: there is no turn, and nothing was billed.

    `error` says why the message would be refused; `most` is what its caller allows.
    """
    estimate, refusal = chat.estimate, refusal_of(chat.estimate, most)
    error = TurnFault(None, refusal, "Lower max_tokens, choose a cheaper model, or allow more.") if refusal else None
    return {
        "text": describe_estimate(estimate, quoted(chat.agent), most),
        "session_id": str(chat.session_id or ""),
        "turn_id": "",
        "status": "estimated",
        "stop_reason": None,
        "joined": False,
        "asked": False,
        "reply": "",
        "reply_truncated": False,
        "agent": chat.agent,
        "backend": chat.backend,
        "model": chat.model,
        **cost_json(TurnCost(usage=Usage(cost_usd=Decimal(0)), budget=estimate.budget)),
        "estimated_cost_usd": None if estimate.cost_usd is None else float(estimate.cost_usd),
        "history_dropped": 0,
        "warning": None,
        "end_reason": None,
        "saved": False,
        "transcript_uri": "",
        "next_step": None,
        "error": error and {**_fault_json(error), "code": BudgetExceededError.code},
    }


def _fault_json(fault: TurnFault) -> dict[str, object]:
    return {
        "code": str(fault.fault) if fault.fault else "internal",
        "message": fault.message,
        "next_step": fault.next_step,
        "retryable": fault.retryable,
        "retry_after_seconds": fault.retry_after.total_seconds() if fault.retry_after else None,
    }


def _tokens(count: int | None) -> str:
    return "unknown tokens" if count is None else number_of(count, "token")


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else f"{tokens:,}"


def _cost(cost: Decimal | None, source: str | None) -> str:
    if cost is None:
        return "cost unknown"
    if cost == 0:
        return "free"
    return dollars(cost) + (f" ({source})" if source and source != "provider" else "")
