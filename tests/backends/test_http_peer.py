"""The test kit's HTTP server ends with everything that it had accepted."""

import asyncio
import socket
from contextlib import suppress

import pytest

from agentapi_mcp.testing.http import HttpPeer


async def turn_loop(times: int) -> None:
    """Let the event loop go round."""
    loop = asyncio.get_running_loop()
    for _ in range(times):
        turned: asyncio.Future[None] = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_is_accepted_while_it_stops_is_closed(turns: int) -> None:
    async with HttpPeer() as peer:
        client = socket.create_connection(("127.0.0.1", peer.port))
        await turn_loop(turns)
    await turn_loop(2)
    with client:
        client.settimeout(5)
        with suppress(ConnectionResetError):  # another word for closed
            assert client.recv(1) == b""
