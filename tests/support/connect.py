"""MCP clients of a whole program: real stores, real backends, a peer instead of a provider. Open them in the test."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast
from uuid import uuid4

import httpx2
from mcp import Client
from mcp.client import Transport
from mcp.client.extension import ClientExtension
from mcp.client.session import MessageHandlerFnT
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CallToolResult,
    EmptyResult,
    Implementation,
    Request,
    RequestParams,
    Result,
    SubscribeRequest,
    SubscribeRequestParams,
    TextContent,
    UnsubscribeRequest,
    UnsubscribeRequestParams,
)

from agentapi_mcp.app.services import AppOptions
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import EdgeServer, create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.web.application import WebOptions
from tests.support.edges import mcp_application, piped, serve_app
from tests.support.peers.openai import OpenAIPeer

Link = Literal["stdio-2025", "stdio-2026", "http-2025", "http-2026", "sse-2025", "sse-2026"]
LINKS: tuple[Link, ...] = ("stdio-2025", "stdio-2026", "http-2025", "http-2026", "sse-2025", "sse-2026")


@dataclass(frozen=True)
class Edge:
    """A server with what stands behind it; `tag` is in every message of this test and in no other."""

    server: EdgeServer
    services: Services
    peer: OpenAIPeer
    tag: str = field(default_factory=lambda: f"t{uuid4().hex[:10]}")


@asynccontextmanager
async def open_edge(
    home: Path,
    peer: OpenAIPeer,
    options: McpOptions | None = None,
    capacities: Mapping[Resource, int] | None = None,
) -> AsyncGenerator[Edge]:
    """Open the program on this home, its agent `droid` speaking to the peer, which is opened, too."""
    async with peer, open_edge_to(home, peer, options, capacities) as edge:
        yield edge


@asynccontextmanager
async def open_edge_to(
    home: Path,
    peer: OpenAIPeer,
    options: McpOptions | None = None,
    capacities: Mapping[Resource, int] | None = None,
) -> AsyncGenerator[Edge]:
    """Open the program on this home, its agent `droid` speaking to a peer that is open."""
    settings = Settings(home=home, postgres_linger_seconds=20, abandon_grace_seconds=0, shutdown_grace_seconds=0)
    environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
    async with open_app(settings, environ, options=AppOptions(capacities=capacities or {})) as app:
        services = await app.services_provider.services()
        yield Edge(create_server(app.services_provider, options or McpOptions()), services, peer)


@asynccontextmanager
async def connect(
    server: EdgeServer,
    link: Link,
    *,
    name: str = "tests",
    version: str = "1.0",
    message_handler: MessageHandlerFnT | None = None,
    extensions: Sequence[ClientExtension] = (),
) -> AsyncGenerator[Client]:
    """Open a client of this transport and era; what serves it lasts as long."""
    transport, era = link.split("-")
    async with AsyncExitStack() as stack:
        if transport == "stdio":
            target: str | Transport = piped(server)
        else:
            served = await stack.enter_async_context(serve_app(mcp_application(server, WebOptions())))
            target = served.mcp if transport == "http" else sse_client(served.sse)
        yield await stack.enter_async_context(
            Client(
                target,
                mode="legacy" if era == "2025" else "auto",
                client_info=Implementation(name=name, version=version),
                message_handler=message_handler,
                extensions=extensions,
                cache=None,
            )
        )


@asynccontextmanager
async def connect_with(base: str, token: str, link: str) -> AsyncGenerator[Client]:
    """Open a client of a server that is served already, as whoever has the token."""
    headers = {"authorization": f"Bearer {token}"}
    transport, era = link.split("-")
    async with httpx2.AsyncClient(headers=headers, timeout=25) as http:
        target: Transport = (
            streamable_http_client(f"{base}/mcp", http_client=http)
            if transport == "http"
            else sse_client(f"{base}/sse", headers=headers)
        )
        async with Client(target, mode="legacy" if era == "2025" else "auto") as client:
            yield client


def blocks_of(result: CallToolResult) -> list[str]:
    """Return the blocks of text of an answer."""
    assert all(isinstance(block, TextContent) for block in result.content)
    return [block.text for block in result.content if isinstance(block, TextContent)]


def text_of(result: CallToolResult) -> str:
    """Return the text of an answer, as a model reads it."""
    return "\n\n".join(blocks_of(result))


def fields_of(result: CallToolResult) -> dict[str, object]:
    """Return the structured part of an answer."""
    assert isinstance(result.structured_content, dict), text_of(result)
    return cast("dict[str, object]", result.structured_content)


async def call(client: Client, tool: str, /, **arguments: object) -> CallToolResult:
    """Call a tool."""
    return await client.call_tool(tool, arguments)


async def subscribe_resource(client: Client, uri: str) -> None:
    """Subscribe as a 2025-era client does."""
    request = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
    await client.session.send_request(request, EmptyResult)


class _TaskParams(RequestParams):
    task_id: str
    input_responses: dict[str, object] | None = None


async def ask_of_task(client: Client, method: str, task_id: str, **responses: object) -> None:
    """Send a request of the extension for tasks; with responses it answers the questions of those keys."""
    params = _TaskParams(task_id=task_id, input_responses=responses if method == "tasks/update" else None)
    await client.session.send_request(Request[_TaskParams, str](method=method, params=params), Result)


async def unsubscribe_resource(client: Client, uri: str) -> None:
    """Unsubscribe as a 2025-era client does."""
    request = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri))
    await client.session.send_request(request, EmptyResult)


async def listed_agents(client: Client) -> tuple[dict[str, dict[str, object]], str]:
    """List all agents by their names, and what is said of them, page by page: other tests may have left some."""
    agents: dict[str, dict[str, object]] = {}
    texts: list[str] = []
    arguments: dict[str, object] = {}
    while True:
        result = await call(client, "list_agents", **arguments)
        fields = fields_of(result)
        agents |= {str(agent["name"]): agent for agent in cast("list[dict[str, object]]", fields["agents"])}
        texts.append(text_of(result))
        if fields["next_cursor"] is None:
            return agents, "\n".join(texts)
        arguments = {"cursor": fields["next_cursor"]}
