"""What a caller may ask for, checked where it comes in, and what makes two requests the same."""

import hashlib
import json
import math
from dataclasses import dataclass, field
from datetime import timedelta

from agentapi_mcp.core.errors import InvalidRequestError
from agentapi_mcp.core.identity import Principal
from agentapi_mcp.core.ids import parse_id
from agentapi_mcp.core.records.ids import SessionId
from agentapi_mcp.core.records.preferences import NO_PREFERENCES, Preferences
from agentapi_mcp.core.records.turns import Parameters

MAX_MESSAGE_BYTES = 1_000_000
MAX_PROMPT_BYTES = 200_000
MAX_NAME = 255
MAX_WAIT = timedelta(hours=1)
_MAX_TEMPERATURE = 2.0
_MAX_TOKENS = 10_000_000
_TITLE = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One message to an agent, as the caller wrote it; `preferences` hold where it says nothing."""

    message: str
    agent: str | None = None
    model: str | None = None
    session_id: str | None = None
    idempotency_key: str | None = None
    parameters: Parameters = field(default_factory=Parameters)
    preferences: Preferences = NO_PREFERENCES


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that can be meant."""

    request: ChatRequest
    session_id: SessionId | None
    title: str

    def fingerprint(self, principal: Principal) -> bytes:
        """Name what is asked and by whom: the same request again has the same fingerprint."""
        request, parameters = self.request, self.request.parameters
        asked = [
            str(principal.user_id),
            str(principal.org_id),
            None if self.session_id is None else str(self.session_id),
            request.agent,
            request.model,
            request.message,
            parameters.system_prompt,
            parameters.temperature,
            parameters.max_tokens,
        ]
        return hashlib.sha256(json.dumps(asked).encode()).digest()


def check_request(request: ChatRequest) -> CheckedRequest:
    """Refuse what cannot be meant, before anything is written.

    Raises:
        InvalidRequestError: says which argument is wrong, why, and what is allowed.
    """
    check_text(request.message, "message", MAX_MESSAGE_BYTES)
    for name, value in (
        ("agent", request.agent),
        ("model", request.model),
        ("idempotency_key", request.idempotency_key),
    ):
        if value is not None:
            check_text(value, name, MAX_NAME)
    check_parameters(request.parameters)
    session_id = None if request.session_id is None else SessionId(parse_id(request.session_id, "session_id"))
    return CheckedRequest(request, session_id, title_of(request.message))


def check_wait(wait: timedelta) -> None:
    """Refuse to wait less than nothing, or without end.

    Raises:
        InvalidRequestError: the wait is out of range.
    """
    if not timedelta(0) <= wait <= MAX_WAIT:
        raise InvalidRequestError(f"must be between 0 and {int(MAX_WAIT.total_seconds())}.", argument="wait_seconds")


def check_text(text: str, name: str, max_bytes: int) -> None:
    """Refuse text that is blank, too long, or cannot be kept.

    Raises:
        InvalidRequestError: says which.
    """
    if not text.strip():
        raise InvalidRequestError("is blank; give it a value.", argument=name)
    if "\0" in text:
        raise InvalidRequestError("holds a NUL character, which cannot be kept; remove it.", argument=name)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidRequestError("is not valid Unicode: it holds half of a surrogate pair.", argument=name) from exc
    if size > max_bytes:
        raise InvalidRequestError(
            f"has {size:,} bytes; at most {max_bytes:,} are allowed. Shorten or split it.", argument=name
        )


def title_of(message: str) -> str:
    """Take the first line that says something, shortened."""
    line = next(line.strip() for line in message.splitlines() if line.strip())
    return line if len(line) <= _TITLE else line[: _TITLE - 1].rstrip() + "…"


def check_parameters(parameters: Parameters) -> None:
    """Refuse parameters of a turn that cannot be meant.

    Raises:
        InvalidRequestError: says which is wrong, and what is allowed.
    """
    if parameters.system_prompt is not None:
        check_text(parameters.system_prompt, "system_prompt", MAX_PROMPT_BYTES)
    temperature = parameters.temperature
    if temperature is not None and not (math.isfinite(temperature) and 0 <= temperature <= _MAX_TEMPERATURE):
        raise InvalidRequestError(f"must be between 0 and {_MAX_TEMPERATURE:g}.", argument="temperature")
    if parameters.max_tokens is not None and not 1 <= parameters.max_tokens <= _MAX_TOKENS:
        raise InvalidRequestError(f"must be between 1 and {_MAX_TOKENS:,}.", argument="max_tokens")
