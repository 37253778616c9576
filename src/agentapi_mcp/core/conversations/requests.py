"""Chat requests: validation, and the fingerprint for idempotency."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.ids import SessionId, parse_id
from agentapi_mcp.base.validation import MAX_NAME, check_text
from agentapi_mcp.core.budgets.amounts import check_amount
from agentapi_mcp.core.catalogue.models import NO_PREFERENCES, Preferences
from agentapi_mcp.core.catalogue.parameters import Parameters, check_parameters
from agentapi_mcp.core.conversations.models import Sent
from agentapi_mcp.core.identity.principals import Principal

MAX_MESSAGE_BYTES = 1_000_000

MAX_WAIT = timedelta(hours=1)

_TITLE = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One message to an agent, not validated yet; `preferences` are the defaults for omitted arguments.

    `retry` asks again what was interrupted after the provider had been asked, `new` what an earlier turn answers.
    Beyond `max_cost_usd`, which it may cost at most, nothing is asked.
    """

    message: str
    agent: str | None = None
    model: str | None = None
    session_id: str | None = None
    idempotency_key: str | None = None
    parameters: Parameters = field(default_factory=Parameters)
    preferences: Preferences = NO_PREFERENCES
    retry: bool = False
    new: bool = False
    max_cost_usd: Decimal | None = None

    @property
    def sent(self) -> Sent:
        """How it was sent."""
        return Sent(has_key=self.idempotency_key is not None, in_session=self.session_id is not None)


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A validated request; `size` is that of its message, in bytes."""

    request: ChatRequest
    session_id: SessionId | None
    title: str
    size: int

    def fingerprint(self, principal: Principal, agent: str, model: str | None) -> bytes:
        """Return a hash of caller and request: a repeated request has the same, however its values are spelled.

        `agent` and `model` are what the request was resolved to.
        """
        request, parameters = self.request, self.request.parameters
        # Not the defaults that were taken: a changed one must not turn a retry into a new turn.
        identity = [
            str(principal.user_id),
            str(principal.org_id),
            None if self.session_id is None else str(self.session_id),
            None if request.agent is None else agent,
            None if request.model is None else model,
            request.message,
            parameters.system_prompt,
            None if parameters.temperature is None else float(parameters.temperature),
            parameters.max_tokens,
        ]
        return hashlib.sha256(json.dumps(identity).encode()).digest()


def check_request(request: ChatRequest) -> CheckedRequest:
    """Validate a request before anything is stored.

    Raises:
        InvalidRequestError: names the argument, the reason and what is allowed.
    """
    # Before the session is looked up: an invalid request costs no query.
    size = check_text(request.message, "message", MAX_MESSAGE_BYTES)
    for name, value in (
        ("agent", request.agent),
        ("model", request.model),
        ("idempotency_key", request.idempotency_key),
    ):
        if value is not None:
            check_text(value, name, MAX_NAME)
    check_parameters(request.parameters)
    if request.max_cost_usd is not None:
        check_amount(request.max_cost_usd, "max_cost_usd")
    if request.retry and request.new:
        raise InvalidRequestError(
            "asks an interrupted turn again, `new` asks anew: leave one of them out.", argument="retry"
        )
    if request.new and request.idempotency_key is not None:
        raise InvalidRequestError("asks anew, and a key finds what was asked: use a new key.", argument="new")
    session_id = None if request.session_id is None else SessionId(parse_id(request.session_id, "session_id"))
    return CheckedRequest(request, session_id, title_of(request.message), size)


def check_wait(wait: timedelta) -> None:
    """Validate the time to wait.

    Raises:
        InvalidRequestError: the wait is out of range.
    """
    if not timedelta(0) <= wait <= MAX_WAIT:
        raise InvalidRequestError(f"must be between 0 and {int(MAX_WAIT.total_seconds())}.", argument="wait_seconds")


def title_of(message: str) -> str:
    """Return the first line that is not blank, shortened."""
    line = next(line.strip() for line in message.splitlines() if line.strip())
    return line if len(line) <= _TITLE else line[: _TITLE - 1].rstrip() + "…"
