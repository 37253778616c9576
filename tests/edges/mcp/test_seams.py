"""What we use of the SDK beyond its public surface; when this fails after an update, look at `connection_of`."""

import pytest
from mcp import Client
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp_types import EmptyResult, SubscribeRequestParams
from opentelemetry import trace

from agentapi_mcp.edges.mcp.callers import Context, connection_of
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from tests.support.connect import subscribe_resource
from tests.web.test_turnstile import NoServices


async def test_a_2025_connection_has_state_an_end_and_a_channel_and_is_the_same_for_all_its_requests() -> None:
    seen = list[Connection]()
    ended = list[str]()

    async def subscribe(context: Context, params: SubscribeRequestParams) -> EmptyResult:
        connection = connection_of(context)
        seen.append(connection)
        connection.state[params.uri] = True
        connection.exit_stack.callback(ended.append, params.uri)
        return EmptyResult()

    server = Server("seam", on_subscribe_resource=subscribe)
    async with Client(server, mode="legacy") as client:
        for uri in ("a://1", "a://2"):
            await subscribe_resource(client, uri)
    assert seen[0] is seen[1]
    assert seen[0].has_standalone_channel
    assert set(seen[0].state) == {"a://1", "a://2"}
    assert ended == ["a://2", "a://1"]


@pytest.mark.parametrize("recorded", [False, True])
def test_the_sdk_describes_requests_only_where_spans_are_recorded(
    recorded: bool,  # noqa: FBT001  # a parameter
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = trace.NoOpTracerProvider() if recorded else trace.ProxyTracerProvider()
    # A provider can be set once in a process, and never taken back.
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    names = [type(each).__name__ for each in create_server(NoServices(), McpOptions()).middleware]
    assert names == ["OpenTelemetryMiddleware"] * recorded + ["ErrorMiddleware"]


def test_what_a_result_says_of_the_server_is_flat_and_a_copy() -> None:
    server = create_server(NoServices(), McpOptions())
    stamp = server.server_info_stamp
    assert stamp == server.server_info.model_dump(
        by_alias=True, mode="json", exclude_none=True, exclude={"description", "icons"}
    )
    assert {type(value) for value in stamp.values()} == {str}
    stamp["name"] = "another"
    assert server.server_info_stamp["name"] == "agentapi-mcp"
