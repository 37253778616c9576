"""A turn as language models are shown it: instructions, then user and assistant by turns."""

from agentapi_mcp.core.backends.models import BackendTurn, HistoryMessage, MessageRole


def instructions_of(turn: BackendTurn) -> str:
    """Join the turn's instructions and the system messages of its history; empty where there are none."""
    system = [turn.system or "", *(said.text for said in turn.history if said.role is MessageRole.SYSTEM)]
    return "\n\n".join(part for part in system if part.strip())


def spoken_of(turn: BackendTurn) -> list[dict[str, str]]:
    """List what was said, the new message last; what one side said in a row is one message."""
    spoken = [said for said in turn.history if said.role is not MessageRole.SYSTEM and said.text.strip()]
    merged: list[dict[str, str]] = []
    for said in (*spoken, HistoryMessage(MessageRole.USER, turn.message)):
        # A tool's output without the call it answers is refused by providers; it is part of what the agent said.
        role = "user" if said.role is MessageRole.USER else "assistant"
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += f"\n\n{said.text}"
        else:
            merged.append({"role": role, "content": said.text})
    return merged
