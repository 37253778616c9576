"""Conversations: sessions, their messages, and the history that a model sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from agentapi_mcp.core.identity import OrgId, UserId
from agentapi_mcp.core.records.ids import MessageId, SessionId
from agentapi_mcp.core.records.turns import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One conversation of one user in one organisation."""

    id: SessionId
    title: str | None
    agent: str | None
    model: str | None
    metadata: Mapping[str, object]
    created_at: datetime
    last_message_at: datetime | None
    message_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a message takes where it names nothing: what its session last used, and its organisation's settings."""

    settings: Mapping[str, object]
    agent: str | None = None
    model: str | None = None
    metadata: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """What a session is about now."""

    user_id: UserId
    org_id: OrgId
    agent: str
    model: str | None
    metadata: Mapping[str, object]


class MessageRole(StrEnum):
    """Who says a message."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One utterance; `turn` is the turn it belongs to, None for messages written by other programs."""

    id: MessageId
    session_id: SessionId
    role: MessageRole
    content: str
    created_at: datetime
    tokens_in: int | None
    tokens_out: int | None
    metadata: Mapping[str, object]
    turn: Turn | None = None


@dataclass(frozen=True, slots=True)
class HistoryMessage:
    """What the model sees of an earlier message."""

    role: MessageRole
    text: str


@dataclass(frozen=True, slots=True)
class History:
    """The newest messages of a session, oldest first, and how many older ones there are."""

    messages: tuple[HistoryMessage, ...]
    dropped: int = 0
    last_message_id: MessageId | None = None
