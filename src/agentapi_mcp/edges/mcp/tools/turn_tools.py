"""The tools that talk: chat, get_turn, cancel_turn."""

import time
from dataclasses import dataclass, replace
from datetime import timedelta

from mcp_types import CallToolResult

from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.edges.mcp.callers import Callers, Context, client_name, preferences_of, request_key
from agentapi_mcp.edges.mcp.cancellations import Cancellations
from agentapi_mcp.edges.mcp.options import McpOptions, default_wait
from agentapi_mcp.edges.mcp.progress import reporter
from agentapi_mcp.edges.mcp.tools.arguments import ToolArguments
from agentapi_mcp.edges.mcp.tools.turn_results import turn_result


@dataclass(frozen=True, slots=True)
class TurnTools:
    """What the three tools need."""

    callers: Callers
    cancellations: Cancellations
    options: McpOptions

    async def chat(self, context: Context, given: ToolArguments) -> CallToolResult:
        """Send a message and wait as long as asked."""
        request = ChatRequest(
            message=given.text("message"),
            agent=given.find_text("agent"),
            model=given.find_text("model"),
            session_id=given.find_text("session_id"),
            idempotency_key=given.find_text("idempotency_key"),
            parameters=Parameters(
                system_prompt=given.find_text("system_prompt"),
                temperature=given.find_number("temperature"),
                max_tokens=given.find_integer("max_tokens"),
            ),
        )
        patience = _Patience(self._wait(context, given))

        async def work() -> Turn:
            caller = await self.callers.identify(context)
            asked = replace(request, preferences=await preferences_of(caller, context))
            return await caller.services.turns.chat(
                caller.principal, asked, wait=patience.left(), report=reporter(context)
            )

        return turn_result(await self.cancellations.run(request_key(context, context.request_id), work))

    async def get_turn(self, context: Context, given: ToolArguments) -> CallToolResult:
        """Read a turn, and wait for its end as long as asked."""
        patience = _Patience(self._wait(context, given))

        async def work() -> Turn:
            caller = await self.callers.identify(context)
            return await caller.services.turns.get(
                caller.principal, given.text("turn_id"), wait=patience.left(), report=reporter(context)
            )

        return turn_result(await self.cancellations.run(request_key(context, context.request_id), work))

    async def cancel_turn(self, context: Context, given: ToolArguments) -> CallToolResult:
        """End a turn."""
        caller = await self.callers.identify(context)
        return turn_result(await caller.services.turns.cancel(caller.principal, given.text("turn_id")))

    def _wait(self, context: Context, given: ToolArguments) -> timedelta:
        seconds = given.find_integer("wait_seconds")
        if seconds is None:
            return default_wait(self.options, client_name(context))
        return timedelta(seconds=seconds)


class _Patience:
    """The caller's patience, which also pays for the time that the stores need to come up."""

    def __init__(self, wait: timedelta) -> None:
        self._until = time.monotonic() + wait.total_seconds()

    def left(self) -> timedelta:
        """Return what is left of it."""
        return timedelta(seconds=max(0.0, self._until - time.monotonic()))
