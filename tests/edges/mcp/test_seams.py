"""What we use of the SDK beyond its public surface; when this fails after an update, look at `connection_of`."""

from mcp import Client
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp_types import EmptyResult, SubscribeRequestParams

from agentapi_mcp.edges.mcp.callers import Context, connection_of
from tests.support.connect import subscribe_resource


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
