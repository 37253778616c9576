"""A client of this server for Python programs: `async with agentapi_mcp.connect() as agents`, see `connect`."""

from agentapi_mcp.client.answers import Answer
from agentapi_mcp.client.connections import AgentClient, connect
from agentapi_mcp.client.errors import BudgetExceededError, ClientError, ConnectionLostError, RefusedError, TurnError
from agentapi_mcp.client.turns import BudgetLeft, BudgetState, Estimate, Turn, Usage
from agentapi_mcp.presentation.models import AgentOut as Agent
from agentapi_mcp.presentation.models import BudgetOut as Budget
from agentapi_mcp.presentation.models import CancelOut as Cancelled
from agentapi_mcp.presentation.models import ModelOut as Model
from agentapi_mcp.presentation.models import RatingOut as Rated
from agentapi_mcp.presentation.models import RecordedOut as Recorded
from agentapi_mcp.presentation.models import SessionOut as Session

__all__ = [
    "Agent",
    "AgentClient",
    "Answer",
    "Budget",
    "BudgetExceededError",
    "BudgetLeft",
    "BudgetState",
    "Cancelled",
    "ClientError",
    "ConnectionLostError",
    "Estimate",
    "Model",
    "Rated",
    "Recorded",
    "RefusedError",
    "Session",
    "Turn",
    "TurnError",
    "Usage",
    "connect",
]
