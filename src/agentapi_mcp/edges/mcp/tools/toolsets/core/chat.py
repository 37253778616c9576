"""The tools that talk: chat, get_turn, cancel_turn."""

import time
from datetime import timedelta
from decimal import Decimal
from functools import partial

from mcp_types import CallToolResult

from agentapi_mcp.base.store_waits import STORE_SECONDS, answered_within
from agentapi_mcp.core.catalogue.models import Preferences
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.identity.principals import Action
from agentapi_mcp.edges.mcp.callers import client_name, preferences_of, request_key
from agentapi_mcp.edges.mcp.client.waits import default_wait
from agentapi_mcp.edges.mcp.deliveries import after_response
from agentapi_mcp.edges.mcp.options import LONGEST_WAIT
from agentapi_mcp.edges.mcp.progress import ProgressSender
from agentapi_mcp.edges.mcp.tasks.messages import CreateTaskResult, declares_tasks
from agentapi_mcp.edges.mcp.tasks.tasks import moment
from agentapi_mcp.edges.mcp.tools.arguments import Argument, ToolArguments
from agentapi_mcp.edges.mcp.tools.declarations import ToolCall, Toolset, ToolSpec
from agentapi_mcp.edges.mcp.tools.turn_results import cancel_result, estimate_result, turn_result
from agentapi_mcp.presentation.models import CancelOut, TurnOut
from agentapi_mcp.web.requests import received_at

TOOLSET = Toolset()

_WAIT = Argument(
    name="wait_seconds",
    kind="integer",
    about="0: do not wait",
    least=0,
    most=int(LONGEST_WAIT.total_seconds()),
)
_TURN = Argument(name="turn_id", about="From chat", required=True)


@TOOLSET.tool(
    ToolSpec(
        name="chat",
        title="Chat with an agent",
        about=(
            "Ask another AI model or coding agent (Claude, GPT, Gemini, Codex, Droid, n8n …) for a review, a second "
            "opinion, code, research. Pass an answer's session_id to go on with that session. If status is running, "
            "call get_turn. If a call was cut or timed out, send the same message again: it gets the same turn. Behind "
            "a proxy that may swallow answers, only an idempotency_key makes that certain."
        ),
        arguments=(
            Argument(name="message", about="What to say", required=True),
            Argument(name="agent", about="From list_agents; default: the session's or server's"),
            Argument(name="model", about="From list_models; default: the agent's"),
            Argument(name="session_id", about="Default: a new session"),
            Argument(name="idempotency_key", about="Same key and message within 24 h: same turn"),
            Argument(name="retry", kind="boolean", about="Ask again what was interrupted; may cost twice"),
            Argument(name="new", kind="boolean", about="Ask anew what was answered; costs again"),
            _WAIT,
            Argument(name="system_prompt", about="Instructions for this turn", verbatim=True),
            Argument(name="temperature", kind="number", about="Randomness", least=0, most=2),
            Argument(name="max_tokens", kind="integer", about="Longest answer", least=1),
            Argument(name="max_cost_usd", kind="number", about="Refuse what may cost more", least=0),
            Argument(name="estimate", kind="boolean", about="Only say the cost"),
        ),
        answers=TurnOut,
        action=Action.CHAT,
        reads_only=False,
        idempotent=False,
        open_world=True,
        long_results=True,
    )
)
async def chat(call: ToolCall) -> CallToolResult | CreateTaskResult:
    """Send a message and wait as long as asked; clients that take tasks get one instead, after a moment."""
    patience, progress = _Patience(call), ProgressSender.of(call.context)

    async def work() -> CallToolResult | CreateTaskResult:
        caller = await call.identify()
        preferences = await answered_within(patience.for_store(), preferences_of(caller, call.context))
        request = _request(call.given, preferences)
        if call.given.flag("estimate"):
            estimate = await caller.services.turns.estimate(caller.principal, request)
            return estimate_result(estimate, request.max_cost_usd)
        sent = request.sent
        wait = moment(patience.left()) if declares_tasks(call.context) else patience.left()
        turn = await caller.services.turns.chat(caller.principal, request, wait=wait, report=progress.report)
        later = await call.edge.tasks.answer_later(call.context, caller, turn, sent)
        if later is not None:
            return later
        await progress.finish(turn)
        after_response(partial(caller.services.turns.delivered, turn))
        return turn_result(turn, sent)

    return await call.edge.cancellations.run(request_key(call.context, call.context.request_id), work)


@TOOLSET.tool(
    ToolSpec(
        name="get_turn",
        title="Get a turn",
        about="Wait for a running turn, or read one again: status, reply, cost, error.",
        arguments=(_TURN, _WAIT),
        answers=TurnOut,
        action=Action.READ_SESSIONS,
        long_results=True,
    )
)
async def get_turn(call: ToolCall) -> CallToolResult:
    """Read a turn, and wait for its end as long as asked."""
    patience, progress = _Patience(call), ProgressSender.of(call.context)

    async def work() -> Turn:
        caller = await call.identify()
        turn = await caller.services.turns.get(
            caller.principal, call.given.text("turn_id"), wait=patience.left(), report=progress.report
        )
        await progress.finish(turn)
        after_response(partial(caller.services.turns.delivered, turn))
        return turn

    return turn_result(await call.edge.cancellations.run(request_key(call.context, call.context.request_id), work))


@TOOLSET.tool(
    ToolSpec(
        name="cancel_turn",
        title="Cancel a turn",
        about="Stop a running turn; what it said so far is kept.",
        arguments=(_TURN,),
        answers=CancelOut,
        action=Action.CHAT,
        reads_only=False,
        destructive=True,
    )
)
async def cancel_turn(call: ToolCall) -> CallToolResult:
    """End a turn."""
    caller = await call.identify()
    return cancel_result(await caller.services.turns.cancel(caller.principal, call.given.text("turn_id")))


def _request(given: ToolArguments, preferences: Preferences) -> ChatRequest:
    most = given.find_number("max_cost_usd")
    return ChatRequest(
        message=given.text("message"),
        agent=given.find_text("agent"),
        model=given.find_text("model"),
        session_id=given.find_text("session_id"),
        idempotency_key=given.find_text("idempotency_key"),
        retry=given.flag("retry"),
        new=given.flag("new"),
        preferences=preferences,
        # As it was written: 0.1 is a tenth.
        max_cost_usd=None if most is None else Decimal(str(most)),
        parameters=Parameters(
            system_prompt=given.find_text("system_prompt"),
            temperature=given.find_number("temperature"),
            max_tokens=given.find_integer("max_tokens"),
        ),
    )


def _wait(call: ToolCall) -> timedelta:
    seconds = call.given.find_integer("wait_seconds")
    if seconds is None:
        return default_wait(call.edge.options, client_name(call.context))
    return timedelta(seconds=seconds)


class _Patience:
    """The caller's patience, from when the request arrived: it also pays for the stores, which may have to come up."""

    def __init__(self, call: ToolCall) -> None:
        received = received_at(getattr(call.context.request, "scope", {}))
        self._until = received + _wait(call).total_seconds()

    def left(self) -> timedelta:
        """Return what is left of it."""
        return timedelta(seconds=max(0.0, self._until - time.monotonic()))

    def for_store(self) -> float:
        """Return for how many seconds to wait for what is read before the message is sent."""
        return max(STORE_SECONDS, self.left().total_seconds())
