"""How a toolset declares its tools, each beside the function that a call runs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mcp_types import CallToolResult, Tool, ToolAnnotations
from pydantic import BaseModel

from agentapi_mcp.core.identity.principals import Action
from agentapi_mcp.edges.mcp.callers import Caller, Callers, Context
from agentapi_mcp.edges.mcp.cancellations import Cancellations
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.tasks.messages import CreateTaskResult
from agentapi_mcp.edges.mcp.tasks.tasks import McpTasks
from agentapi_mcp.edges.mcp.tools.arguments import Argument, ToolArguments, input_schema
from agentapi_mcp.edges.mcp.tools.schemas import output_schema

# Claude Code puts a result of more than 50,000 characters, or 25,000 tokens, into a file, unless the tool says so.
_LONG_RESULTS = {"anthropic/maxResultSizeChars": 500_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """How a tool is described to clients, and what calling it needs leave for.

    One with `long_results` asks clients to give their model the whole of it: what an agent said.
    """

    name: str
    title: str
    about: str
    arguments: tuple[Argument, ...]
    answers: type[BaseModel]
    action: Action
    reads_only: bool = True
    destructive: bool = False
    idempotent: bool = True
    open_world: bool = False
    long_results: bool = False

    def listed(self, prefix: str = "") -> Tool:
        """Return the tool as clients see it."""
        return Tool(
            name=prefix + self.name,
            title=self.title,
            description=self.about,
            input_schema=input_schema(self.arguments),
            output_schema=output_schema(self.answers),
            annotations=ToolAnnotations(
                read_only_hint=self.reads_only,
                destructive_hint=self.destructive,
                # It says something of tools that change something, by the specification.
                idempotent_hint=None if self.reads_only else self.idempotent,
                open_world_hint=self.open_world,
            ),
            _meta=dict(_LONG_RESULTS) if self.long_results else None,
        )


@dataclass(frozen=True, slots=True)
class ToolEdge:
    """The parts of the MCP edge that tools use."""

    callers: Callers
    cancellations: Cancellations
    options: McpOptions
    tasks: McpTasks


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool, its arguments checked."""

    edge: ToolEdge
    context: Context
    given: ToolArguments

    async def identify(self) -> Caller:
        """Wait for the stores, and return who calls.

        Raises:
            StoreUnavailableError: the stores do not come up; the message says why.
        """
        return await self.edge.callers.identify(self.context)


Run = Callable[[ToolCall], Awaitable[CallToolResult | CreateTaskResult]]


@dataclass(frozen=True, slots=True)
class DeclaredTool:
    """A tool's description with the function that a call runs."""

    spec: ToolSpec
    run: Run


class Toolset:
    """The tools that one module declares, in the order in which they are listed."""

    def __init__(self) -> None:
        self.tools: list[DeclaredTool] = []

    def tool(self, spec: ToolSpec) -> Callable[[Run], Run]:
        """Declare a tool: the decorated function runs its calls."""

        def declare(run: Run) -> Run:
            self.tools.append(DeclaredTool(spec, run))
            return run

        return declare
