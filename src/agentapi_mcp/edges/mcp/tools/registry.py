"""The tools: found in the package of toolsets, listed, and called."""

import pkgutil
from collections.abc import Collection, Iterator
from importlib import import_module
from types import ModuleType

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
)

from agentapi_mcp.base.errors import AgentApiError, LimitExceededError, PermissionDeniedError
from agentapi_mcp.base.log_context import internal_message, log_unexpected
from agentapi_mcp.core.audit.models import AuditTarget
from agentapi_mcp.core.identity.principals import Action
from agentapi_mcp.edges.mcp.callers import Context
from agentapi_mcp.edges.mcp.client.key_elicitation import KeyElicitation
from agentapi_mcp.edges.mcp.errors import internal_result, tool_error
from agentapi_mcp.edges.mcp.tasks.messages import CreateTaskResult
from agentapi_mcp.edges.mcp.tools import toolsets
from agentapi_mcp.edges.mcp.tools.arguments import check_arguments
from agentapi_mcp.edges.mcp.tools.chosen_toolsets import chosen_toolsets
from agentapi_mcp.edges.mcp.tools.declarations import DeclaredTool, ToolCall, ToolEdge, Toolset
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names
from agentapi_mcp.presentation.text import shown
from agentapi_mcp.web.stopping import note_no_room


def find_tools(enabled: Collection[str]) -> tuple[DeclaredTool, ...]:
    """Return the tools of these toolsets, always in the same order; no other toolset is imported.

    Raises:
        ValueError: no toolset has one of these names.
    """
    names = toolset_names()
    unknown = sorted(set(enabled) - set(names))
    if unknown:
        raise ValueError(f"there is no toolset {', '.join(unknown)}; there are {', '.join(names)}")
    modules = (module for name in names if name in enabled for module in _modules(f"{toolsets.__name__}.{name}"))
    return tuple(tool for module in modules for tool in _toolset(module).tools)


def _modules(name: str) -> Iterator[ModuleType]:
    """Import a toolset: a module, or the modules of a package by name."""
    module = import_module(name)
    if not hasattr(module, "__path__"):
        yield module
        return
    for part in sorted(found.name for found in pkgutil.iter_modules(module.__path__)):
        yield import_module(f"{name}.{part}")


def _toolset(module: ModuleType) -> Toolset:
    toolset: Toolset = module.TOOLSET
    return toolset


class _Offer:
    """The tools of some toolsets, by the names that clients see."""

    def __init__(self, toolsets: frozenset[str], prefix: str) -> None:
        self.tools = {f"{prefix}{tool.spec.name}": tool for tool in find_tools(toolsets)}
        self.listed = [tool.spec.listed(prefix) for tool in self.tools.values()]
        self._prefix = prefix

    def find(self, name: str) -> DeclaredTool | None:
        """Return a tool by its name, also without the prefix, as descriptions and next steps have it."""
        return self.tools.get(name) or self.tools.get(f"{self._prefix}{name}")


class Tools:
    """Lists the tools that a caller has chosen, always in the same order, and calls them.

    The choice is no right: what a caller may do is decided by role and scopes, at each call.
    """

    def __init__(self, edge: ToolEdge, elicitation: KeyElicitation) -> None:
        self._edge = edge
        self._elicitation = elicitation
        self._offers = dict[frozenset[str], _Offer]()
        self._usual = self._offer(edge.options.toolsets)

    async def list_(self, context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        """List them, in one page."""
        refuse_cursor(params)
        offer = self._offered(context)
        if offer is self._usual:
            return ListToolsResult(tools=offer.listed)
        return ListToolsResult(tools=offer.listed, cache_scope="private")  # it depends on the token or the address

    def action(self, name: str) -> Action | None:
        """Return what calling a tool of any toolset needs leave for, None when there is no such tool."""
        tool = self._usual.find(name) or self._offer(frozenset(toolset_names())).find(name)
        return None if tool is None else tool.spec.action

    def _no_tool(self, name: str, offer: _Offer) -> str:
        said = f"There is no tool {shown(name)!r}; there are {', '.join(offer.tools)}."
        toolset = next((each for each in toolset_names() if self._offer(frozenset({each})).find(name)), None)
        if toolset is None:
            return said
        chosen = ",".join(dict.fromkeys(("core", toolset)))
        return f"{said} The toolset {toolset} has it, which is not chosen here: AGENTAPI_TOOLSETS={chosen} does so."

    def _offered(self, context: Context) -> _Offer:
        chosen = chosen_toolsets(getattr(context.request, "scope", {}))
        return self._usual if chosen is None else self._offer(chosen)

    def _offer(self, toolsets: frozenset[str]) -> _Offer:
        offer = self._offers.get(toolsets)
        if offer is None:
            offer = self._offers[toolsets] = _Offer(toolsets, self._edge.options.tool_prefix)
        return offer

    async def call(
        self, context: Context, params: CallToolRequestParams
    ) -> CallToolResult | CreateTaskResult | InputRequiredResult:
        """Call one; what the model can mend is a result, what its user can is asked, an unknown tool is a fault."""
        offer = self._offered(context)
        tool = offer.find(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, self._no_tool(params.name, offer))
        spec = tool.spec
        try:
            given = check_arguments(spec.name, spec.arguments, params.arguments)
            return await tool.run(ToolCall(self._edge, context, given))
        except AgentApiError as exc:
            if isinstance(exc, PermissionDeniedError):
                await self._edge.callers.denied(context, exc, AuditTarget("tool", spec.name))
            if isinstance(exc, LimitExceededError):
                note_no_room(getattr(context.request, "scope", {}))
            return await self._elicitation.elicit(context, params, exc) or tool_error(exc)
        except MCPError:
            raise
        except Exception as exc:  # noqa: BLE001  # the outermost point of a call: it is logged, and tells nothing
            return internal_result(internal_message(log_unexpected("tool_failed", exc, what=spec.name)))


def refuse_cursor(params: PaginatedRequestParams | None) -> None:
    """Refuse a cursor for a list of one page."""
    if params is not None and params.cursor is not None:
        raise MCPError(INVALID_PARAMS, "This list has one page; leave the cursor out.")
