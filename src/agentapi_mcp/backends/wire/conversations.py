"""A turn as model input: instructions, then alternating user and assistant messages."""

from agentapi_mcp.core.backends.models import BackendTurn, HistoryMessage, MessageRole


def instructions_of(turn: BackendTurn) -> str:
    """Join the turn's instructions and the system messages of its history; may be empty."""
    system = [turn.system or "", *(message.text for message in turn.history if message.role is MessageRole.SYSTEM)]
    return "\n\n".join(part for part in system if part.strip())


def spoken_of(turn: BackendTurn) -> list[dict[str, str]]:
    """List the messages, the new one last; consecutive messages of one role are merged."""
    spoken = [message for message in turn.history if message.role is not MessageRole.SYSTEM and message.text.strip()]
    merged: list[dict[str, str]] = []
    for message in (*spoken, HistoryMessage(MessageRole.USER, turn.message)):
        # Providers reject tool output without its tool call, so it becomes part of the assistant's message.
        role = "user" if message.role is MessageRole.USER else "assistant"
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += f"\n\n{message.text}"
        else:
            merged.append({"role": role, "content": message.text})
    return merged
