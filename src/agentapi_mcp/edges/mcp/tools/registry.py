"""The tools: how a model sees them, and what each call runs."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel

from agentapi_mcp.base.errors import AgentApiError, PermissionDeniedError
from agentapi_mcp.base.log_context import internal_message, log_unexpected
from agentapi_mcp.core.audit.models import AuditTarget
from agentapi_mcp.core.identity.principals import Action
from agentapi_mcp.edges.mcp.callers import Callers, Context
from agentapi_mcp.edges.mcp.client.key_elicitation import KeyElicitation
from agentapi_mcp.edges.mcp.errors import failed_result, tool_error
from agentapi_mcp.edges.mcp.options import LONGEST_WAIT
from agentapi_mcp.edges.mcp.tools.arguments import Argument, ToolArguments, check_arguments, input_schema
from agentapi_mcp.edges.mcp.tools.list_tools import ListTools
from agentapi_mcp.edges.mcp.tools.schemas import output_schema
from agentapi_mcp.edges.mcp.tools.turn_tools import TurnTools
from agentapi_mcp.presentation.models import AgentsOut, HealthOut, ModelsOut, SessionsOut, TranscriptOut, TurnOut
from agentapi_mcp.presentation.text import shown

Run = Callable[[Context, ToolArguments], Awaitable[CallToolResult]]

_WAIT = Argument(
    name="wait_seconds",
    kind="integer",
    about="How long to wait for the answer; 0 returns at once",
    least=0,
    most=int(LONGEST_WAIT.total_seconds()),
)
_TURN = Argument(name="turn_id", about="From chat", required=True)
_QUERY = Argument(name="query", about="Only what contains this text")
_CURSOR = Argument(name="cursor", about="next_cursor of the page before")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool: how it is described, and what a call runs."""

    name: str
    title: str
    about: str
    arguments: tuple[Argument, ...]
    answers: type[BaseModel]
    run: Run
    action: Action
    reads_only: bool = True
    destructive: bool = False
    idempotent: bool = True
    open_world: bool = False

    def listed(self) -> Tool:
        """Return the tool as clients see it."""
        return Tool(
            name=self.name,
            title=self.title,
            description=self.about,
            input_schema=input_schema(self.arguments),
            output_schema=output_schema(self.answers),
            annotations=ToolAnnotations(
                read_only_hint=self.reads_only,
                destructive_hint=self.destructive,
                idempotent_hint=self.idempotent,
                open_world_hint=self.open_world,
            ),
        )


class Tools:
    """Lists the tools, always in the same order, and calls them."""

    def __init__(self, callers: Callers, specs: Sequence[ToolSpec], questions: KeyElicitation) -> None:
        self._callers = callers
        self._questions = questions
        self._specs = {spec.name: spec for spec in specs}
        self._listed = [spec.listed() for spec in self._specs.values()]

    async def list_(self, _context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        """List them, in one page."""
        refuse_cursor(params)
        return ListToolsResult(tools=self._listed)

    def schema(self, name: str) -> dict[str, object] | None:
        """Return a tool's input schema, None when there is no such tool."""
        spec = self._specs.get(name)
        return None if spec is None else input_schema(spec.arguments)

    def action(self, name: str) -> Action | None:
        """Return what calling a tool needs leave for, None when there is no such tool."""
        spec = self._specs.get(name)
        return None if spec is None else spec.action

    async def call(self, context: Context, params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
        """Call one; what the model can mend is a result, what its user can is asked, an unknown tool is a fault."""
        spec = self._specs.get(params.name)
        if spec is None:
            raise MCPError(
                INVALID_PARAMS, f"There is no tool {shown(params.name)!r}; there are {', '.join(self._specs)}."
            )
        try:
            return await spec.run(context, check_arguments(spec.name, spec.arguments, params.arguments))
        except AgentApiError as exc:
            if isinstance(exc, PermissionDeniedError):
                await self._callers.denied(context, exc, AuditTarget("tool", spec.name))
            return await self._questions.elicit(context, params, exc) or tool_error(exc)
        except MCPError:
            raise
        except Exception as exc:  # noqa: BLE001  # the outermost point of a call: it is logged, and tells nothing
            return failed_result(internal_message(log_unexpected("tool_failed", exc, what=spec.name)))


def refuse_cursor(params: PaginatedRequestParams | None) -> None:
    """Refuse a cursor for a list of one page."""
    if params is not None and params.cursor is not None:
        raise MCPError(INVALID_PARAMS, "This list has one page; leave the cursor out.")


def core_specs(turns: TurnTools, lists: ListTools) -> tuple[ToolSpec, ...]:
    """List the eight tools that there are without further ado."""
    return (*_turn_specs(turns), *_list_specs(lists))


def _turn_specs(tools: TurnTools) -> tuple[ToolSpec, ...]:
    return (
        ToolSpec(
            name="chat",
            title="Chat with an agent",
            about=(
                "Send a message to an agent and get its reply. Without session_id a new session begins; pass the "
                "session_id of an earlier answer to go on, and the agent sees the messages before. If the answer takes "
                "longer than wait_seconds, status is running: call get_turn with the turn_id, do not send it again."
            ),
            arguments=(
                Argument(name="message", about="What to say to the agent", required=True),
                Argument(name="agent", about="A name from list_agents; default: the session's, else the server's"),
                Argument(name="model", about="A name from list_models; default: the agent's"),
                Argument(name="session_id", about="The session to go on with"),
                Argument(
                    name="idempotency_key", about="The same key and message within 24 h: the same turn, not a new one"
                ),
                _WAIT,
                Argument(name="system_prompt", about="Instructions for this turn"),
                Argument(name="temperature", kind="number", about="Randomness", least=0, most=2),
                Argument(name="max_tokens", kind="integer", about="Longest answer in tokens", least=1),
            ),
            answers=TurnOut,
            run=tools.chat,
            action=Action.CHAT,
            reads_only=False,
            idempotent=False,
            open_world=True,
        ),
        ToolSpec(
            name="get_turn",
            title="Get a turn",
            about="Wait for a turn that chat left running, or read one again: status, reply, cost, error.",
            arguments=(_TURN, _WAIT),
            answers=TurnOut,
            run=tools.get_turn,
            action=Action.READ_SESSIONS,
        ),
        ToolSpec(
            name="cancel_turn",
            title="Cancel a turn",
            about="Stop a running turn; what it said so far is kept. One that has ended stays as it is.",
            arguments=(_TURN,),
            answers=TurnOut,
            run=tools.cancel_turn,
            action=Action.CHAT,
            reads_only=False,
            destructive=True,
        ),
    )


def _list_specs(tools: ListTools) -> tuple[ToolSpec, ...]:
    return (
        ToolSpec(
            name="list_agents",
            title="List agents",
            about="List the agents to chat with: what each is for, how it is now, its models, what it lacks.",
            arguments=(_QUERY, _CURSOR),
            answers=AgentsOut,
            run=tools.list_agents,
            action=Action.READ_CATALOGUE,
        ),
        ToolSpec(
            name="list_models",
            title="List models",
            about="List the models of the agents, with context window and prices in USD per million tokens.",
            arguments=(Argument(name="agent", about="Only this agent's"), _QUERY, _CURSOR),
            answers=ModelsOut,
            run=tools.list_models,
            action=Action.READ_CATALOGUE,
        ),
        ToolSpec(
            name="list_sessions",
            title="List chat sessions",
            about="List your chat sessions, newest first; query searches titles and first messages.",
            arguments=(Argument(name="agent", about="Only with this agent"), _QUERY, _CURSOR),
            answers=SessionsOut,
            run=tools.list_sessions,
            action=Action.READ_SESSIONS,
        ),
        ToolSpec(
            name="get_transcript",
            title="Get a transcript",
            about="Read a session's messages, the newest part first; the cursor leads to earlier ones.",
            arguments=(
                Argument(name="session_id", about="From chat or list_sessions", required=True),
                Argument(name="cursor", about="next_cursor of the part after"),
                Argument(name="format", about="Default: markdown", one_of=("markdown", "json")),
            ),
            answers=TranscriptOut,
            run=tools.get_transcript,
            action=Action.READ_SESSIONS,
        ),
        ToolSpec(
            name="get_health",
            title="Get health",
            about="Check whether the server and its agents work: status, last check, failures, latency.",
            arguments=(Argument(name="agent", about="Only this agent"),),
            answers=HealthOut,
            run=tools.get_health,
            action=Action.READ_CATALOGUE,
        ),
    )
