"""The options of the chat."""

from dataclasses import dataclass, field
from decimal import Decimal

from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.requests import ChatRequest


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
    parameters: Parameters = field(default_factory=Parameters)

    def request(self, message: str) -> ChatRequest:
        """Build the request for one message."""
        return ChatRequest(
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
