"""Turns of an agent that asks its user while it runs, as the edge would show them: no backend asks yet."""

import asyncio
import json

from mcp_types import CallToolResult, ElicitRequest, ElicitRequestFormParams, ElicitResult, TextContent
from typing_extensions import override

from agentapi_mcp.core.conversations.models import Task
from agentapi_mcp.edges.mcp.callers import Caller
from agentapi_mcp.edges.mcp.tasks.views import TurnView, TurnViews
from agentapi_mcp.edges.mcp.tools.turn_results import task_message, turn_result

QUESTION = "May I?"
FORM = {"type": "object", "properties": {"choice": {"type": "string"}}, "required": ["choice"]}
ACCEPT = {"action": "accept", "content": {"choice": "yes"}}
PLAIN = f"The agent asks: {QUESTION}"


class AskingTurns(TurnViews):
    """Views with these questions: `open` are those without an answer, `answered` what came back."""

    def __init__(self, *keys: str) -> None:
        super().__init__(turn_result, task_message)
        self.open = list(keys)
        self.answered: dict[str, str] = {}
        self.has_answer = asyncio.Event()

    @override
    async def view(self, caller: Caller, task: Task) -> TurnView:
        view = await super().view(caller, task)
        form = ElicitRequestFormParams(message=QUESTION, requested_schema=FORM)
        questions = {key: ElicitRequest(params=form) for key in self.open}
        if not questions or task.turn.status.is_final:
            return view
        assert isinstance(view.outcome, CallToolResult)
        said = [TextContent(type="text", text=PLAIN), *view.outcome.content]
        plain = view.outcome.model_copy(update={"content": said})  # with the fields that clients check
        return TurnView(outcome=plain, message="It waits for you.", questions=questions)

    @override
    async def answer(self, caller: Caller, task: Task, key: str, answer: ElicitResult) -> None:
        self.open.remove(key)
        self.answered[key] = f"{answer.action} {json.dumps(answer.content)}"
        self.has_answer.set()
