"""What a turn is to the call that waits for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mcp_types import CallToolResult, ElicitRequest, ElicitResult, ErrorData

from agentapi_mcp.core.conversations.models import Sent, Task, Turn
from agentapi_mcp.edges.mcp.callers import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnView:
    """What a call would be answered now, whether or not its turn has ended, and what the agent asks meanwhile.

    `outcome` is an error only where the call itself fails, by JSON-RPC; a turn that fails is a result. A result has the
    structured content that the tool declares, for clients check it, that of a call that ends with a question, too.
    `questions` have keys that no other question of the turn ever has. `message` says how far it is.
    """

    outcome: CallToolResult | ErrorData
    message: str | None = None
    questions: Mapping[str, ElicitRequest] = field(default_factory=dict[str, ElicitRequest])


class TurnViews:
    """Views of turns, and the way of an answer back to the agent that asked.

    Results are those of the tool that was called. No backend asks its user yet, so there are no questions.
    """

    def __init__(self, result: Callable[[Turn, Sent], CallToolResult], message: Callable[[Turn], str | None]) -> None:
        self._result = result
        self._message = message

    async def view(self, caller: Caller, task: Task) -> TurnView:
        """Look at the turn of a task."""
        del caller
        return TurnView(outcome=self._result(task.turn, task.sent), message=self._message(task.turn))

    async def answer(self, caller: Caller, task: Task, key: str, answer: ElicitResult) -> None:
        """Answer a question with what its user accepted or declined; one that is no longer open stays as it is."""
