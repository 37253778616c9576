"""What the edge says that tools and methods need is what the use cases behind them ask for, and no more."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.extension import advertise
from mcp.shared.exceptions import MCPError
from mcp_types import EmptyResult, NotificationParams, PromptReference, RequestParams

from agentapi_mcp.base.ids import SessionId, new_id
from agentapi_mcp.core.identity.principals import Action, Exceptions
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import EdgeServer, create_server
from agentapi_mcp.edges.mcp.tasks.messages import EXTENSION
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names
from agentapi_mcp.edges.mcp.transports.scope_step_up import METHODS
from agentapi_mcp.presentation.uris import transcript_uri
from tests.support.connect import ask_of_task, call, connect, open_edge, subscribe_resource, text_of
from tests.support.edges import OpenServices
from tests.support.peers.openai import OpenAIPeer

EVERY_TOOL = McpOptions(toolsets=frozenset(toolset_names()))
ARGUMENTS: Mapping[str, object] = {  # that may not be any text, of every tool that must be given one of them
    "turn_id": str(new_id()),
    "session_id": str(new_id()),
    "budget_id": str(new_id()),
    "name": "default_agent",
    "limit_usd": 1,
}
# Of which one is needed; and what lets no budget stay, which would refuse what other tests ask in this home.
EITHER: Mapping[str, Mapping[str, object]] = {
    "rate": {"session_id": str(new_id()), "rating": 3},
    "set_budget": {"scope": "agent", "subject": "an agent that there is not"},
}
TRANSCRIPT = transcript_uri(SessionId(new_id()))
TASK = "A" * 32


async def listen(client: Client) -> None:
    """Listen to a transcript."""
    async with client.listen(resource_subscriptions=[TRANSCRIPT]):
        pass


async def list_resources(client: Client) -> None:
    """List resources."""
    await client.list_resources()


async def read(client: Client) -> None:
    """Read a transcript."""
    await client.read_resource(TRANSCRIPT)


async def subscribe(client: Client) -> None:
    """Subscribe to a transcript."""
    await subscribe_resource(client, TRANSCRIPT)


async def complete(client: Client) -> None:
    """Complete the id of a session."""
    await client.complete(PromptReference(name="continue_session"), {"name": "session_id", "value": ""})


REQUESTS: Mapping[str, Callable[[Client], Awaitable[None]]] = {
    "resources/list": list_resources,
    "resources/read": read,
    "resources/subscribe": subscribe,
    "subscriptions/listen": listen,
    "completion/complete": complete,
    "tasks/get": lambda client: ask_of_task(client, "tasks/get", TASK),
    "tasks/update": lambda client: ask_of_task(client, "tasks/update", TASK),
    "tasks/cancel": lambda client: ask_of_task(client, "tasks/cancel", TASK),
}
OPEN_TO_ALL: Mapping[str, str] = {
    "ping": "returns nothing",
    "server/discover": "returns nothing of a user",
    "prompts/get": "returns the text of the program, with the arguments given",
    "prompts/list": "returns the texts of the program",
    "resources/templates/list": "returns the templates of the program",
    "resources/unsubscribe": "ends the caller's own subscription",
    "tools/call": "needs what the tool declares, as the first test shows",
    "tools/list": "returns the declarations of the program",
}
NOTIFICATIONS: Mapping[str, str] = {
    "notifications/initialized": "starts notifications that a list has changed, which tell nothing of its content",
}


def methods_of(server: EdgeServer) -> set[str]:
    """List the methods of requests that a server answers, those of no specification too."""
    return set(server._request_handlers)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # no public API lists them


def notifications_of(server: EdgeServer) -> set[str]:
    """List the notifications that a server handles."""
    return set(server._notification_handlers)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # no public API lists them


@asynccontextmanager
async def client_without(services: Services, denied: frozenset[Action], era: str) -> AsyncGenerator[Client]:
    """Connect as the local user, who is denied these actions; no HTTP stands between, which would refuse earlier."""
    principal = replace(services.principal, exceptions=Exceptions(denied=denied))
    server = create_server(OpenServices(replace(services, principal=principal)), EVERY_TOOL)
    link = "stdio-2025" if era == "2025" else "stdio-2026"
    async with connect(server, link, extensions=[advertise(EXTENSION)]) as client:
        yield client


async def refused_tools(services: Services, denied: frozenset[Action]) -> dict[str, str]:
    """Call every tool, and return what those say that refuse it for want of a right."""
    refusals: dict[str, str] = {}
    async with client_without(services, denied, "2026") as client:
        for tool in (await client.list_tools()).tools:
            needed = {name: ARGUMENTS.get(name, "hello") for name in tool.input_schema.get("required", ())}
            text = text_of(await call(client, tool.name, **needed, **EITHER.get(tool.name, {})))
            if "You may not do this here" in text:
                refusals[tool.name] = text
    return refusals


async def refusal_of(method: str, services: Services, denied: frozenset[Action]) -> str:
    """Send a request, and return how it is refused."""
    async with client_without(services, denied, "2025" if method == "resources/subscribe" else "2026") as client:
        try:
            await REQUESTS[method](client)
        except MCPError as exc:
            return exc.error.message
    return "not at all"


async def test_each_tool_is_refused_for_want_of_its_action_and_of_no_other(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        server = create_server(OpenServices(edge.services), EVERY_TOOL)
        async with connect(server, "stdio-2026") as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
        actions = {name: server.parts.tools.action(name) for name in names}
        for action in Action:
            refusals = await refused_tools(edge.services, frozenset({action}))
            declared = {name for name, needed in actions.items() if needed is action}
            assert declared - set(refusals) == set(), (
                f"these tools declare {action}, but no use case that they call asks `require` for it; "
                "the declaration alone checks no right"
            )
            assert set(refusals) - declared == set(), f"these tools need {action}: declare it as their `action`"
            assert [text for text in refusals.values() if f"({action})" not in text] == []


def test_every_method_with_an_action_is_tried() -> None:
    assert set(METHODS) == set(REQUESTS)


async def test_every_method_that_the_server_answers_has_an_action_or_a_reason_to_need_none(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        server = create_server(OpenServices(edge.services), EVERY_TOOL)
    assert methods_of(server) == set(METHODS) | set(OPEN_TO_ALL)
    assert set(METHODS) & set(OPEN_TO_ALL) == set()
    assert notifications_of(server) == set(NOTIFICATIONS)


async def test_handlers_of_no_specification_are_compared_too(edge_home: Path) -> None:
    async def answer(_context: object, _params: object) -> EmptyResult:
        return EmptyResult()

    async def ignore(_context: object, _params: object) -> None:
        return None

    async with open_edge(edge_home, OpenAIPeer()) as edge:
        server = create_server(OpenServices(edge.services), EVERY_TOOL)
    server.add_request_handler("agentapi/own", RequestParams, answer)
    server.add_notification_handler("notifications/agentapi/own", NotificationParams, ignore)
    assert "agentapi/own" in methods_of(server)
    assert "notifications/agentapi/own" in notifications_of(server)


@pytest.mark.parametrize("method", REQUESTS)
async def test_a_method_is_refused_for_want_of_its_action_and_of_no_other(method: str, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        alone = frozenset({METHODS[method]})
        assert f"({METHODS[method]})" in await refusal_of(method, edge.services, alone)
        assert "You may not" not in await refusal_of(method, edge.services, frozenset(Action) - alone)
