"""Transcripts of sessions as Markdown and as JSON."""

from collections.abc import Callable
from datetime import datetime

from agentapi_mcp.base.errors import sentences
from agentapi_mcp.base.text import number_of, one_line, quoted
from agentapi_mcp.core.backends.models import MessageRole
from agentapi_mcp.core.conversations.models import Message, Session, Turn, TurnStatus
from agentapi_mcp.core.conversations.sessions import Transcript
from agentapi_mcp.presentation.turns import describe_turn, turn_json, warning_of
from agentapi_mcp.presentation.usage_words import cost_words
from agentapi_mcp.presentation.values import moment, number, utc_time


def render_markdown(
    transcript: Transcript, *, older_uri: str | None = None, time: Callable[[datetime], str] = utc_time
) -> str:
    """Render Markdown: a heading for each message, its content as a quote, and the cost below each answer."""
    earlier = "" if older_uri is None else f"\nEarlier messages: {older_uri}\n"
    told = [message_markdown(message, time) for message in transcript.messages]
    return "".join([head_markdown(transcript.session, time), earlier, *told])


def head_markdown(session: Session, time: Callable[[datetime], str] = utc_time) -> str:
    """Render the title of a session and what is known of it."""
    return (
        f"# {one_line(session.title or '') or 'Untitled session'}\n\nSession {session.id}, {_facts(session, time)}.\n"
    )


def message_markdown(message: Message, time: Callable[[datetime], str] = utc_time) -> str:
    """Render one message below others: a heading, its content as a quote, and the cost of an answer."""
    lines = ["", f"## {_speaker(message)} · {time(message.created_at)}", "", _quoted(message.content)]
    if message.turn is not None and message.role is MessageRole.ASSISTANT:
        lines += ["", f"*{describe_turn(message.turn)}{_why(message.turn)}*"]
    elif message.turn is not None and message.role is MessageRole.USER:
        lines += _unanswered(message, message.turn)
    return "\n".join(lines) + "\n"


def render_json(transcript: Transcript, *, older_uri: str | None = None) -> dict[str, object]:
    """Render JSON; unknown values are null."""
    session = transcript.session
    return {
        "session": {
            "id": str(session.id),
            "title": session.title,
            "agent": session.agent,
            "model": session.model,
            "created_at": moment(session.created_at),
            "last_message_at": session.last_message_at and moment(session.last_message_at),
            "message_count": session.message_count,
            "usage": {
                "turns": session.totals.turns,
                "input_tokens": session.totals.input_tokens,
                "output_tokens": session.totals.output_tokens,
                "cost_usd": number(session.totals.cost_usd),
                "unpriced": session.totals.unpriced,
            },
        },
        "older": older_uri,
        "messages": [message_json(message) for message in transcript.messages],
    }


def _quoted(content: str) -> str:
    """Return the content as a block quote."""
    # Every line is quoted, so that a message cannot forge a heading and with it another speaker.
    return "\n".join(f"> {line}" if line.strip() else ">" for line in content.rstrip().splitlines())


def _facts(session: Session, time: Callable[[datetime], str]) -> str:
    agent = "no agent" if session.agent is None else quoted(session.agent)
    agent = agent if session.model is None else f"{agent} with {quoted(session.model)}"
    number = session.message_count
    count = "" if number is None else f", {number_of(number, 'message')}"
    cost = f", {cost_words(session.totals)}" if session.totals.turns else ""
    return f"{agent}, begun {time(session.created_at)}{count}{cost}"


def _speaker(message: Message) -> str:
    if message.role is MessageRole.ASSISTANT:
        return quoted(message.turn.agent) if message.turn else "Assistant"
    return {MessageRole.USER: "You", MessageRole.SYSTEM: "System", MessageRole.TOOL: "Tool"}[message.role]


def _unanswered(message: Message, turn: Turn) -> list[str]:
    if turn.status is TurnStatus.RUNNING:
        return ["", f"*Being answered (turn {turn.id}).*"]
    # The message of a completed answer may be in another part; without one, the question is the last of its turn.
    if turn.reply or (turn.status is TurnStatus.COMPLETED and turn.last_message_id != message.id):
        return []
    return ["", f"*No answer: {describe_turn(turn)}{_why(turn)}*"]


def _why(turn: Turn) -> str:
    if turn.error is not None:
        return f": {sentences(one_line(turn.error.message, 1000), turn.error.next_step)}"
    warning = one_line(warning_of(turn) or "", 1000)
    return f": {warning}" if warning else ""


def message_json(message: Message) -> dict[str, object]:
    """Render one message of a transcript."""
    turn = message.turn
    return {
        "id": str(message.id),
        "role": str(message.role),
        "content": message.content,
        "created_at": moment(message.created_at),
        "turn": None if turn is None else turn_json(turn),
    }
