"""What strict chat templates and APIs demand of the messages that they are sent."""

from collections.abc import Mapping, Sequence
from typing import cast

_TURNS = ("user", "assistant")


def complaint_about(body: Mapping[str, object]) -> str | None:
    """Say what is wrong with plain messages; those with parts or tool calls, as agents send them, are let through."""
    messages = cast("Sequence[Mapping[str, object]]", body.get("messages") or [])
    contents = [message.get("content") for message in messages]
    roles = [message.get("role") for message in messages]
    if not all(isinstance(content, str) for content in contents) or "tool" in roles:
        return None
    if not all(str(content).strip() for content in contents):
        return "messages: text content blocks must contain non-whitespace text"
    spoken = roles[1:] if roles[:1] in (["system"], ["developer"]) else roles
    if any(role != _TURNS[place % 2] for place, role in enumerate(spoken)):
        return "Conversation roles must alternate user/assistant/user/assistant/..."
    return None
