"""What clients hear before their server is there: at once, once, and the same as from the server."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from agentapi_mcp.edges.mcp.front import answers
from agentapi_mcp.resident.before import AnswersBefore
from tests.support.residents import clients, environ, place_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
MODERN = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
}
LISTS = ("tools/list", "prompts/list", "resources/templates/list", "ping")


def test_what_is_owed_for_a_short_list_is_what_the_answers_say() -> None:
    before = AnswersBefore("", "")
    before.wait(at_once=True)
    for line in (
        (
            b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
            b'"clientInfo":{"name":"t","version":"1"}}}\n'
        ),
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n',
        b'{"jsonrpc":"2.0","id":1,"method":"resources/list"}\n',
    ):
        before.answer(line)
    assert [line + b"\n" for line in before.end()] == [answers.CHANGED]
    assert before.answer(b'{"jsonrpc":"2.0","id":2,"method":"tools/list"}\n') is None


async def test_a_client_is_answered_before_its_server_reads_and_once(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        pid = await here.frozen(env)
        client = await here.start(env)
        early = [await client.shake_hands()]
        early += [await client.ask(method, {}, number) for number, method in enumerate(LISTS, 1)]
        resources = await client.ask("resources/list", {}, 7)
        client.call(8, "list_agents")
        os.kill(pid, signal.SIGCONT)
        await client.result(8)
        changed = [each for each in client.heard if each.get("method") == "notifications/resources/list_changed"]
        assert len(changed) == 1
        late = [await (other := await here.start(env)).shake_hands()]
        late += [await other.ask(method, {}, number) for number, method in enumerate(LISTS, 1)]
        assert early == late
        assert len(resources["result"]["resources"]) <= len(
            (await client.ask("resources/list", {}, 9))["result"]["resources"]
        )
        ids = [each["id"] for each in client.heard if "id" in each]
        assert ids == [0, 1, 2, 3, 4, 7, 8, 9]


async def test_a_client_of_the_newest_revision_is_answered_before_its_server_reads(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        pid = await here.frozen(env)
        client = await here.start(env)
        early = [
            await client.ask(method, MODERN, number) for number, method in enumerate(("server/discover", *LISTS[:3]))
        ]
        client.say("subscriptions/listen", MODERN | {"notifications": {"resourcesListChanged": True}}, "l")
        resources = await client.ask("resources/list", MODERN, 8)
        acknowledged = await client.told("notifications/subscriptions/acknowledged")
        assert acknowledged["params"]["notifications"] == {"resourcesListChanged": True}
        client.say("tools/call", {"name": "list_agents", "arguments": {}} | MODERN, 9)
        os.kill(pid, signal.SIGCONT)
        assert (await client.result(9))["structuredContent"]["agents"]
        changed = await client.told("notifications/resources/list_changed")
        assert changed["params"]["_meta"] == acknowledged["params"]["_meta"]
        assert [each for each in client.heard if each.get("method") == acknowledged["method"]] == [acknowledged]
        assert resources["result"]["resources"]
        other = await here.start(env)
        late = [
            await other.ask(method, MODERN, number) for number, method in enumerate(("server/discover", *LISTS[:3]))
        ]
        assert early == late


async def test_a_wrong_setting_is_told_in_each_call_of_a_client_that_was_answered(edge_home: Path) -> None:
    env = environ(edge_home, AGENTAPI_WAIT_SECONDS="soon")
    async with clients(env) as here:
        client = await here.start(env)
        await client.shake_hands()
        for number in (1, 2):
            refused: dict[str, Any] = await client.called(number, "list_agents")
            assert refused["isError"] is True
            assert refused["content"][0]["text"] == (
                "The server of agentapi-mcp does not start: A setting is wrong: "
                "AGENTAPI_WAIT_SECONDS must be a whole number."
            )


async def test_a_file_that_is_mended_is_read_without_a_new_client(edge_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "agentapi.toml"
    config.write_text("nonsense")
    env = environ(edge_home, AGENTAPI_CONFIG=str(config))
    async with clients(env) as here:
        client = await here.greeted(env)
        refused = await client.called(1, "list_agents")
        assert str(config) in refused["content"][0]["text"]
        config.write_text("")
        assert (await client.called(2, "list_agents"))["structuredContent"]["agents"]


async def test_a_server_of_another_version_is_told_in_each_call(edge_home: Path) -> None:
    env = environ(edge_home)
    async with clients(env) as here:
        place = place_of(env)
        # A server that was killed may have it for a moment more.
        lock = await asyncio.to_thread(wait_until, lambda: place.try_lock() or 0)
        assert lock
        place.remove_socket()  # of a server that another test has killed
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(place.socket)
            listener.listen()
            client = await here.start(env)
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                await client.shake_hands()
                connection.sendall(b"ok 999 7.0 1\n")
        words = "another version of agentapi-mcp was installed meanwhile. Restart this client."
        assert words in (await client.called(1, "list_agents"))["content"][0]["text"]
        os.close(lock)
        place.remove_socket()
