"""A turn as model input: instructions, then what user and assistant said by turns, as strict templates want it."""

from agentapi_mcp.core.backends.models import BackendTurn, HistoryMessage, MessageRole

# Looked up once: as an attribute of its class, a member costs as much as all else that is done for a message.
_USER, _SYSTEM = MessageRole.USER, MessageRole.SYSTEM
# A history that was cut, or that another program began, may begin with what the assistant said.
_BEGINNING = "(The conversation so far, or the end of it.)"


def instructions_of(turn: BackendTurn) -> str:
    """Join the turn's instructions and the system messages of its history; may be empty."""
    system = [turn.system or "", *[message.text for message in turn.history if message.role is _SYSTEM]]
    return "\n\n".join(part for part in system if part.strip())


def spoken_of(turn: BackendTurn) -> list[dict[str, str]]:
    """List the messages, the new one last; the first is the user's, none is empty, and those of one role are merged."""
    merged: list[dict[str, str]] = []
    last = ""
    new = HistoryMessage(_USER, turn.message)
    for message in (*turn.history, new):
        said, text = message.role, message.text
        if message is not new and (said is _SYSTEM or not text or text.isspace()):
            continue
        # Providers reject tool output without its tool call, so it becomes part of the assistant's message.
        role = "user" if said is _USER else "assistant"
        if role != last:
            merged.append({"role": role, "content": text})
            last = role
        else:
            merged[-1]["content"] += f"\n\n{text}"
    if merged[0]["role"] != "user":
        merged.insert(0, {"role": "user", "content": _BEGINNING})
    return merged


def folded(instructions: str, spoken: list[dict[str, str]]) -> list[dict[str, str]]:
    """Put the instructions before the first message of the user, for models that know no other place for them."""
    if not instructions:
        return spoken
    return [{"role": "user", "content": f"{instructions}\n\n{spoken[0]['content']}"}, *spoken[1:]]
