"""Metrics of turns, where no other program could read them."""

from typing_extensions import override

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.conversations.ports import TurnMetrics


class NoTurnMetrics(TurnMetrics):
    """Counts nothing: the ledger has it all."""

    @override
    def note(self, agent_id: AgentId, turn: Turn) -> None:
        return None
