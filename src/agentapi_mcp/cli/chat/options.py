"""The options of the chat."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.core.catalogue.parameters import Parameters

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs no request
if TYPE_CHECKING:
    from agentapi_mcp.core.conversations import requests
else:
    requests = LazyModule("agentapi_mcp.core.conversations.requests")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """Options of the command `chat`."""

    agent: str | None = None
    model: str | None = None
    session_id: str | None = None
    newest: bool = False
    as_json: bool = False
    screen_reader: bool = False
    idempotency_key: str | None = None
    retry: bool = False
    new: bool = False
    max_cost_usd: Decimal | None = None
    estimate: bool = False
    parameters: Parameters = field(default_factory=Parameters)

    def request(self, message: str) -> requests.ChatRequest:
        """Build the request for one message."""
        return requests.ChatRequest(
            message=message,
            agent=self.agent,
            model=self.model,
            session_id=self.session_id,
            idempotency_key=self.idempotency_key,
            retry=self.retry,
            new=self.new,
            max_cost_usd=self.max_cost_usd,
            parameters=self.parameters,
        )
