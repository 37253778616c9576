"""The MCP server, assembled on the SDK's low-level server."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp_types import (
    SERVER_INFO_META_KEY,
    CallToolRequestParams,
    DiscoverResult,
    Icon,
    NotificationParams,
    PromptsCapability,
    RequestParams,
    ServerCapabilities,
    ToolsCapability,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from typing_extensions import override

from agentapi_mcp.base.concurrency import TaskSupervisor
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.edges.mcp.callers import Callers, Context
from agentapi_mcp.edges.mcp.cancellations import Cancellations
from agentapi_mcp.edges.mcp.client.key_elicitation import KeyElicitation
from agentapi_mcp.edges.mcp.error_middleware import ErrorMiddleware
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.completions import Completions
from agentapi_mcp.edges.mcp.server.prompts import get_prompt, list_prompts
from agentapi_mcp.edges.mcp.server.resources import Resources
from agentapi_mcp.edges.mcp.server.subscriptions import Subscriptions
from agentapi_mcp.edges.mcp.tasks.messages import EXTENSION, TaskParams, UpdateTaskParams
from agentapi_mcp.edges.mcp.tasks.stream import TaskStream
from agentapi_mcp.edges.mcp.tasks.tasks import McpTasks
from agentapi_mcp.edges.mcp.tasks.views import TurnViews
from agentapi_mcp.edges.mcp.tools.declarations import ToolEdge
from agentapi_mcp.edges.mcp.tools.registry import Tools
from agentapi_mcp.edges.mcp.tools.turn_results import task_message, turn_result
from agentapi_mcp.web.tracing import records_spans

INSTRUCTIONS = (
    "Talk to agents through this server: call list_agents to see whom you can ask, then chat. "
    "Every conversation is a session: pass the session_id of an answer to go on with it, today or later. "
    "When chat answers status running, call get_turn with the turn_id instead of sending the message again. "
    "When something fails, the answer names the next step; get_health tells what works."
)

_ABOUT = "Talk to all agents of an organisation through one server."
# Within the answer: a client may not reach anything else of this server, and fetches nothing from elsewhere.
_ICON = Icon(
    src="data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHZpZXdCb3g9IjAgMCAxNiAxNiI+"
    "PHBhdGggZmlsbD0iIzI1NjNlYiIgZD0iTTIgMmgxMnY5SDhsLTQgM3YtM0gyeiIvPjwvc3ZnPg==",
    mime_type="image/svg+xml",
    sizes=["any"],
)

# Lists that are the same for every user are public; what depends on the user is private.
_MINUTES_5 = CacheHint(300_000, "public")
_CACHE_HINTS: dict[CacheableMethod, CacheHint] = {
    "server/discover": CacheHint(3_600_000, "public"),
    "tools/list": _MINUTES_5,
    "prompts/list": _MINUTES_5,
    "resources/templates/list": _MINUTES_5,
    "resources/list": CacheHint(0, "private"),
    "resources/read": CacheHint(0, "private"),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """Components that our transports share with the server's handlers."""

    services_provider: ServicesProvider
    tools: Tools
    callers: Callers
    cancellations: Cancellations
    subscriptions: Subscriptions
    tasks: McpTasks


class EdgeServer(Server[TaskSupervisor]):
    """The SDK's server; of all lists, it declares `listChanged` only for resources."""

    parts: Parts
    host_extensions: Mapping[str, dict[str, object]]

    @cached_property
    def _identity(self) -> dict[str, str]:
        # All of it is told to who asks what the server is, and not repeated by every result.
        about = {"name", "title", "version"}
        return self.server_info.model_dump(by_alias=True, mode="json", exclude_none=True, include=about)

    @property
    @override
    def server_info_stamp(self) -> dict[str, Any]:
        """What every result says of the server: a copy, which need not be deep since all of it is texts."""
        return dict(self._identity)

    async def discover(self, context: Context, _params: RequestParams) -> DiscoverResult:
        """Serve `server/discover`."""
        return DiscoverResult(
            supported_versions=list(MODERN_PROTOCOL_VERSIONS),
            capabilities=self.get_capabilities(protocol_version=context.protocol_version),
            instructions=self.instructions,
            _meta={SERVER_INFO_META_KEY: self.server_info.model_dump(by_alias=True, mode="json", exclude_none=True)},
        )

    @override
    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> ServerCapabilities:
        """Return the server's capabilities."""
        extensions = {**(self.extensions if extensions is None else extensions), **self.host_extensions}
        # The SDK declares `listChanged` for every list once `subscriptions/listen` has a handler; ours are static.
        capabilities = super().get_capabilities(
            notification_options, experimental_capabilities, extensions, protocol_version=protocol_version
        )
        capabilities.tools = ToolsCapability(list_changed=False)
        capabilities.prompts = PromptsCapability(list_changed=False)
        return capabilities

    @override
    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """Return the options of the result of `initialize`."""
        notifications = notification_options or NotificationOptions(resources_changed=True)
        return super().create_initialization_options(notifications, experimental_capabilities, extensions)


def create_server(services_provider: ServicesProvider, options: McpOptions) -> EdgeServer:
    """Build the server; it answers `initialize`, `server/discover` and the static lists before the stores are up."""
    callers, cancellations = Callers(services_provider, options), Cancellations()
    tasks = McpTasks(callers, TurnViews(turn_result, task_message))
    tools = Tools(ToolEdge(callers, cancellations, options, tasks), KeyElicitation(callers))
    resources = Resources(callers)
    subscriptions = Subscriptions(callers, resources, TaskStream(tasks), options)
    server = EdgeServer(
        "agentapi-mcp",
        title="AgentAPI",
        version=options.version,
        description=_ABOUT,
        icons=[_ICON],
        instructions=_instructions(options.tool_prefix),
        cache_hints=_CACHE_HINTS,
        lifespan=_background,
        get_tool_input_schema=_no_argument_is_a_header,
        on_list_tools=tools.list_,
        on_list_resources=resources.list_,
        on_list_resource_templates=resources.templates,
        on_read_resource=resources.read,
        on_subscribe_resource=subscriptions.subscribe,
        on_unsubscribe_resource=subscriptions.unsubscribe,
        on_subscriptions_listen=subscriptions.listen,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=Completions(callers).complete,
    )
    server.add_notification_handler("notifications/initialized", NotificationParams, subscriptions.on_initialized)
    server.add_request_handler("tools/call", CallToolRequestParams, tools.call)  # whose results may be the extension's
    server.add_request_handler("server/discover", RequestParams, server.discover)
    server.extensions[EXTENSION] = {}
    server.add_request_handler("tasks/get", TaskParams, tasks.get)
    server.add_request_handler("tasks/update", UpdateTaskParams, tasks.update)
    server.add_request_handler("tasks/cancel", TaskParams, tasks.cancel)
    spans_are_recorded = records_spans()
    if not spans_are_recorded:
        server.middleware.clear()  # the SDK's one, which would describe each request for nobody
    # The outermost layer, so that no exception passes it.
    server.middleware.append(ErrorMiddleware(cancellations, callers, continues_traces=not spans_are_recorded))
    server.host_extensions = options.extensions
    server.parts = Parts(services_provider, tools, callers, cancellations, subscriptions, tasks)
    return server


def _instructions(prefix: str) -> str:
    """Return the instructions; they and all answers name the tools without the prefix."""
    about = f" Here the name of every tool begins with {prefix}, as in {prefix}chat." if prefix else ""
    return INSTRUCTIONS + about


def _no_argument_is_a_header(_tool: str) -> None:
    """Return no schema: with one, the SDK walks all of it for headers to compare; without the function, it lists."""


@asynccontextmanager
async def _background(_server: Server[TaskSupervisor]) -> AsyncGenerator[TaskSupervisor]:
    """Open the background tasks of the server's lifespan; they end with it."""
    async with asyncio.TaskGroup() as group:
        background = TaskSupervisor(group)
        try:
            yield background
        finally:
            background.stop()
