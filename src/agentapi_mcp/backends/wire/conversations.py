"""A turn as language models are shown it: instructions, then user and assistant by turns."""

from agentapi_mcp.core.backends.models import BackendTurn, HistoryMessage, MessageRole


def instructions_of(turn: BackendTurn) -> str:
    """Join the turn's instructions and the system messages of its history; empty where there are none."""
    system = [turn.system or "", *(message.text for message in turn.history if message.role is MessageRole.SYSTEM)]
    return "\n\n".join(part for part in system if part.strip())


def spoken_of(turn: BackendTurn) -> list[dict[str, str]]:
    """List what was said, the new message last; what one side said in a row is one message."""
    spoken = [message for message in turn.history if message.role is not MessageRole.SYSTEM and message.text.strip()]
    merged: list[dict[str, str]] = []
    for message in (*spoken, HistoryMessage(MessageRole.USER, turn.message)):
        # A tool's output without the call it answers is refused by providers; it is part of what the agent said.
        role = "user" if message.role is MessageRole.USER else "assistant"
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += f"\n\n{message.text}"
        else:
            merged.append({"role": role, "content": message.text})
    return merged
