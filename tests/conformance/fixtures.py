"""What the suite wants to find on a server, beside the product's own; registered round its handlers, by tests alone."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, cast

from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    EmptyResult,
    GetPromptRequestParams,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    PromptMessage,
    PromptReference,
    ReadResourceRequestParams,
    ReadResourceResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    Tool,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel

from agentapi_mcp.edges.mcp.callers import Context
from agentapi_mcp.edges.mcp.server.server import EdgeServer
from tests.conformance import asking, content
from tests.conformance.jobs import Chat, Jobs

Handler = Callable[[Context, Any], Awaitable[Any]]
Json = dict[str, object]

_EMPTY: Json = {"type": "object", "properties": {}, "additionalProperties": False}


def _strings(*names: str) -> Json:
    properties = {name: {"type": "string"} for name in names}
    return {"type": "object", "properties": properties, "required": list(names), "additionalProperties": False}


_SCHEMAS: dict[str, Json] = {
    "greet": _strings("name"),
    "confirm_delete": _strings("filename"),
    "slow_compute": {
        "type": "object",
        "properties": {"seconds": {"type": "number"}, "label": {"type": "string"}},
        "required": ["seconds"],
    },
    "test_sampling": _strings("prompt"),
    "test_elicitation": _strings("message"),
    "test_x_mcp_header": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    },
    "json_schema_2020_12_tool": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
}


async def _log(context: Context, _params: CallToolRequestParams) -> BaseModel:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.session.send_log_message("info", said, related_request_id=context.request_id)  # pyright: ignore[reportDeprecated]  # the suite asks for it
    return content.answer("Said three times.")


async def _progress(context: Context, _params: CallToolRequestParams) -> BaseModel:
    for done in (0, 50, 100):
        await context.session.report_progress(done, 100, f"{done} of 100")
    return content.answer("Done.")


async def _needs_sampling(context: Context, _params: CallToolRequestParams) -> BaseModel:
    declared = context.session.client_capabilities
    if declared is None or declared.sampling is None:
        needed: Json = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "The client must be able to sample.", needed)
    return content.answer("ok")


_TOOLS: dict[str, Handler] = {
    **asking.TOOLS,
    "test_tool_with_logging": _log,
    "test_logging_tool": _log,
    "test_tool_with_progress": _progress,
    "test_missing_capability": _needs_sampling,
}
_JOBS = (
    *("greet", "slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input"),
    "test_tool_with_task",
)
_ROUNDS = [name for name in asking.ROUNDS if not name.endswith("_prompt")]
LISTED = [
    Tool(name=name, description="A tool of the suite.", input_schema=_SCHEMAS.get(name, _EMPTY))
    for name in (*content.RESULTS, *_TOOLS, *_JOBS, *_ROUNDS)
]


async def _call(jobs: Jobs, chat: Chat, context: Context, params: CallToolRequestParams) -> BaseModel:
    if params.name in _JOBS:
        return await jobs.call(chat, context, params)
    if params.name in content.RESULTS:
        return content.RESULTS[params.name]
    if params.name in _TOOLS:
        return cast("BaseModel", await _TOOLS[params.name](context, params))
    said = asking.rounds(context, params)
    return content.answer(said) if isinstance(said, str) else said


async def _get_prompt(context: Context, params: GetPromptRequestParams) -> BaseModel:
    if params.name not in asking.ROUNDS:
        return content.write_prompt(params.name, params.arguments or {})
    said = asking.rounds(context, params)
    if not isinstance(said, str):
        return said
    return content.GetPromptResult(messages=[PromptMessage(role="user", content=content.text(said))])


async def _read(_context: Context, params: ReadResourceRequestParams) -> BaseModel:
    return ReadResourceResult(contents=[content.RESOURCES[params.uri]])


async def _complete(_context: Context, _params: CompleteRequestParams) -> BaseModel:
    return CompleteResult(completion=Completion(values=[]))


async def _nothing(_context: Context, _params: BaseModel) -> BaseModel:
    return EmptyResult()


def register(server: EdgeServer, jobs: Jobs) -> EdgeServer:
    """Add what the suite looks for; what the product has of its own goes on as it was."""
    names = {tool.name: tool.input_schema for tool in LISTED}
    chat = server.get_request_handler("tools/call")
    assert chat is not None
    call = partial(_call, jobs, cast("Chat", chat.handler))
    _branch(server, "tools/call", CallToolRequestParams, lambda params: params.name in names, call)
    server.parts.tasks.views = jobs.views()
    _branch(server, "prompts/get", GetPromptRequestParams, lambda params: params.name in content.PROMPTS, _get_prompt)
    _branch(server, "resources/read", ReadResourceRequestParams, lambda params: params.uri in content.RESOURCES, _read)
    _branch(
        server,
        "completion/complete",
        CompleteRequestParams,
        lambda params: isinstance(params.ref, PromptReference) and params.ref.name in content.PROMPTS,
        _complete,
    )
    for method, kind in (
        ("resources/subscribe", SubscribeRequestParams),
        ("resources/unsubscribe", UnsubscribeRequestParams),
    ):
        _branch(server, method, kind, lambda params: params.uri in content.RESOURCES, _nothing)
    _extend(server, "tools/list", ListToolsResult, "tools", LISTED)
    _extend(server, "prompts/list", ListPromptsResult, "prompts", list(content.PROMPTS.values()))
    _extend(server, "resources/list", ListResourcesResult, "resources", content.LISTED_RESOURCES)
    _extend(server, "resources/templates/list", ListResourceTemplatesResult, "resource_templates", [content.TEMPLATE])
    server.add_request_handler("logging/setLevel", SetLevelRequestParams, _nothing)
    ours = server.get_tool_input_schema

    def schema(name: str) -> Mapping[str, Any] | None:
        return names.get(name) or (None if ours is None else ours(name))

    server.get_tool_input_schema = schema
    return server


def _branch(
    server: EdgeServer, method: str, kind: type[Any], is_theirs: Callable[[Any], bool], handler: Handler
) -> None:
    entry = server.get_request_handler(method)
    assert entry is not None

    async def branch(context: Context, params: Any) -> Any:  # noqa: ANN401  # as the SDK's handlers are
        return await (handler if is_theirs(params) else entry.handler)(context, params)

    server.add_request_handler(method, kind, branch)


def _extend(server: EdgeServer, method: str, kind: type[BaseModel], name: str, more: list[Any]) -> None:
    entry = server.get_request_handler(method)
    assert entry is not None

    async def extend(context: Context, params: PaginatedRequestParams) -> BaseModel:
        listed = await entry.handler(context, params)
        assert isinstance(listed, kind)
        return listed.model_copy(update={name: [*getattr(listed, name), *more]})

    server.add_request_handler(method, PaginatedRequestParams, extend)
