"""The listener for the way back from a provider: for one answer with the right state, and for nothing else."""

import asyncio
import socket
from urllib.parse import urlsplit

import httpx2
import pytest

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.cli.loopback import open_loopback


async def test_the_answer_with_the_state_is_taken_once() -> None:
    async with open_loopback(None) as loopback, httpx2.AsyncClient() as http:
        waiting = asyncio.ensure_future(loopback.wait("right"))
        await asyncio.sleep(0)  # noqa: TID251  # it waits now
        address = loopback.redirect_uri
        assert address.startswith("http://127.0.0.1:")
        assert urlsplit(address).path == "/accounts/callback"
        for wrong in (f"{address}?state=wrong&code=c", address, address.replace("callback", "else") + "?state=right"):
            assert (await http.get(wrong)).status_code == 404
        assert (await http.post(f"{address}?state=right&code=c")).status_code == 404
        rebound = await http.get(f"{address}?state=right&code=c", headers={"host": "evil.example"})
        assert (rebound.status_code, waiting.done()) == (404, False)
        assert (await http.get(f"{address}?state=right&code=c&iss=https://v.example")).status_code == 200
        answer = await waiting
        assert (answer.code, answer.state, answer.issuer, answer.error) == ("c", "right", "https://v.example", None)
        assert (await http.get(f"{address}?state=right&code=another")).status_code == 404


async def test_a_flow_without_a_state_has_the_first_answer() -> None:
    async with open_loopback(None) as loopback, httpx2.AsyncClient() as http:
        said = await http.get(f"{loopback.redirect_uri}?error=access_denied")
        assert (said.status_code, said.text[:42]) == (200, "The provider refused: nothing is connected")
        assert (await loopback.wait("")).error == "access_denied"


async def test_what_is_no_request_is_dropped() -> None:
    async with open_loopback(None) as loopback, httpx2.AsyncClient() as http:
        port = urlsplit(loopback.redirect_uri).port
        for sent in (b"\r\n\r\n", b"x" * 20_000, b"GET /accounts/callback"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.write_eof()
            assert b"200" not in await reader.read()
            writer.close()
        said = await http.get(f"{loopback.redirect_uri}?code=c")
        # Whether the code is taken is known only when the command has sent it.
        assert (said.status_code, "whether it worked" in said.text) == (200, True)


async def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="name another"):
            async with open_loopback(taken.getsockname()[1]):
                pass
