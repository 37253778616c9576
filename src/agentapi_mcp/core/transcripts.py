"""A session's messages, rendered for people and for programs."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from urllib.parse import quote

from agentapi_mcp.base.durations import to_milliseconds
from agentapi_mcp.core.errors import sentences
from agentapi_mcp.core.records.ids import SessionId
from agentapi_mcp.core.records.sessions import Message, MessageRole, Session
from agentapi_mcp.core.records.turns import Bill, Turn, TurnFault, TurnStatus
from agentapi_mcp.core.texts import one_line

_ROOT = "agentapi://chat/sessions"


@dataclass(frozen=True, slots=True)
class Transcript:
    """A part of a session, oldest message first; `older` is the cursor of the part before it."""

    session: Session
    messages: tuple[Message, ...]
    older: str | None


def transcript_uri(session_id: SessionId, *, json: bool = False, cursor: str | None = None) -> str:
    """Return where a session's transcript is read as a resource."""
    uri = f"{_ROOT}/{session_id}/transcript{'.json' if json else ''}"
    return uri if cursor is None else f"{uri}?cursor={quote(cursor, safe='')}"


def render_markdown(transcript: Transcript, *, older_uri: str | None = None) -> str:
    """Render for people: a heading for each message, what it says in a quote, its bill below each answer."""
    session = transcript.session
    lines = [
        f"# {one_line(session.title or '') or 'Untitled session'}",
        "",
        f"Session {session.id}, {_facts(session)}.",
    ]
    if older_uri is not None:
        lines += ["", f"Earlier messages: {older_uri}"]
    for message in transcript.messages:
        lines += ["", f"## {_speaker(message)} · {_time(message.created_at)}", "", _quoted(message.content)]
        if message.turn is not None and message.role is MessageRole.ASSISTANT:
            lines += ["", f"*{describe_bill(message.turn)}{_why(message.turn)}*"]
        elif message.turn is not None and message.role is MessageRole.USER:
            lines += _unanswered(message.turn)
    return "\n".join(lines) + "\n"


def render_json(transcript: Transcript, *, older_uri: str | None = None) -> dict[str, object]:
    """Render for programs; unknown is null."""
    session = transcript.session
    return {
        "session": {
            "id": str(session.id),
            "title": session.title,
            "agent": session.agent,
            "model": session.model,
            "created_at": session.created_at.isoformat(),
            "last_message_at": session.last_message_at.isoformat() if session.last_message_at else None,
            "message_count": session.message_count,
        },
        "older": older_uri,
        "messages": [_message_json(message) for message in transcript.messages],
    }


def describe_bill(turn: Turn) -> str:
    """Say in one line who answered, how it ended, and what it cost."""
    return describe(turn.agent, turn.status, turn.bill, turn.history_dropped)


def describe(agent: str, status: TurnStatus, bill: Bill, history_dropped: int) -> str:
    """Say the same of a turn that was read elsewhere."""
    usage = bill.usage
    agent = one_line(agent)
    parts = [agent if bill.model_used is None else f"{agent} ({one_line(bill.model_used)})"]
    if status is not TurnStatus.COMPLETED:
        parts.append(status.replace("_", " "))
    if usage.input_tokens is not None or usage.output_tokens is not None:
        parts.append(f"{_count(usage.input_tokens)} tokens in, {_count(usage.output_tokens)} out")
    parts.append(_cost(usage.cost_usd, bill.cost_source))
    if bill.latency is not None:
        parts.append(f"{bill.latency.total_seconds():.1f} s")
    if bill.billing_may_go_on:
        parts.append("the provider may go on billing")
    if history_dropped:
        parts.append(f"{history_dropped} older messages not sent")
    return " · ".join(parts)


def _quoted(content: str) -> str:
    """Keep what a message says in a block quote: whatever it holds, it cannot end the quote and let others speak."""
    return "\n".join(f"> {line}" if line.strip() else ">" for line in content.rstrip().splitlines())


def _facts(session: Session) -> str:
    agent = one_line(session.agent or "no agent")
    agent = agent if session.model is None else f"{agent} with {one_line(session.model)}"
    count = "" if session.message_count is None else f", {session.message_count} messages"
    return f"{agent}, begun {_time(session.created_at)}{count}"


def _speaker(message: Message) -> str:
    if message.role is MessageRole.ASSISTANT:
        return one_line(message.turn.agent) if message.turn else "Assistant"
    return {MessageRole.USER: "You", MessageRole.SYSTEM: "System", MessageRole.TOOL: "Tool"}[message.role]


def _unanswered(turn: Turn) -> list[str]:
    if turn.status is TurnStatus.RUNNING:
        return ["", f"*Being answered (turn {turn.id}).*"]
    if turn.reply or turn.status is TurnStatus.COMPLETED:
        return []
    return ["", f"*No answer: {describe_bill(turn)}{_why(turn)}*"]


def _why(turn: Turn) -> str:
    return f": {sentences(one_line(turn.error.message, 1000), turn.error.next_step)}" if turn.error else ""


def _message_json(message: Message) -> dict[str, object]:
    turn = message.turn
    return {
        "id": str(message.id),
        "role": str(message.role),
        "content": message.content,
        "created_at": message.created_at.isoformat(),
        "turn": None if turn is None else turn_json(turn),
    }


def turn_json(turn: Turn) -> dict[str, object]:
    """Say all of a turn but its texts; unknown is null."""
    return {
        "id": str(turn.id),
        "status": str(turn.status),
        "agent": turn.agent,
        "backend": turn.backend,
        "model": turn.model,
        "end_reason": turn.end_reason and str(turn.end_reason),
        "stop_reason": turn.stop_reason and str(turn.stop_reason),
        "created_at": turn.created_at.isoformat(),
        "ended_at": turn.ended_at.isoformat() if turn.ended_at else None,
        "error": None if turn.error is None else fault_json(turn.error),
        "warning": turn.warning,
        "history_dropped": turn.history_dropped,
        **bill_json(turn.bill),
    }


def bill_json(bill: Bill) -> dict[str, object]:
    """Say what a turn cost; costs in US dollars, spans in milliseconds, unknown is null."""
    usage = bill.usage
    return {
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cached_tokens": usage.cached_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        },
        "cost_usd": None if usage.cost_usd is None else float(usage.cost_usd),
        "cost_source": bill.cost_source,
        "billing_may_go_on": bill.billing_may_go_on,
        "latency_ms": to_milliseconds(bill.latency),
        "time_to_first_token_ms": to_milliseconds(bill.time_to_first_token),
        "model_used": bill.model_used,
        "provider": bill.provider,
        "route": [
            {
                "agent": a.agent,
                "backend": a.backend,
                "model": a.model,
                "outcome": a.outcome,
                "milliseconds": a.milliseconds,
                "key": str(a.key),
            }
            for a in bill.route
        ],
    }


def fault_json(fault: TurnFault) -> dict[str, object]:
    """Say how a turn failed."""
    return {
        "code": str(fault.fault) if fault.fault else "internal",
        "message": fault.message,
        "next_step": fault.next_step,
        "retryable": fault.retryable,
        "retry_after_seconds": fault.retry_after.total_seconds() if fault.retry_after else None,
    }


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else f"{tokens:,}"


def _cost(cost: Decimal | None, source: str | None) -> str:
    if cost is None:
        return "cost unknown"
    if cost == 0:
        return "free"
    return f"${cost:.6f}".rstrip("0") + (f" ({source})" if source and source != "provider" else "")


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
