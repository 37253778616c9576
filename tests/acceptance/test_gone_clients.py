"""Clients that stop reading: the process that served them notices, ends, and says so in one line."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from agentapi_mcp.testing.http import Steps
from tests.support.peers.openai import OpenAIPeer
from tests.support.residents import COMPLETIONS, Clients, LineClient, clients, environ

pytestmark = pytest.mark.acceptance
WAYS = ["0", "1"]  # of AGENTAPI_RESIDENT: a server of its own, and a shared one behind a bridge


@asynccontextmanager
async def reading(given: Clients, env: dict[str, str]) -> AsyncGenerator[tuple[LineClient, int]]:
    """Start a server whose answers are read from a pipe, and give it with the end to read from."""
    ours, theirs = os.pipe()
    client = await given.start(env, stdout=theirs)
    os.close(theirs)
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    client.say("initialize", hello, 0)
    client.say("notifications/initialized")
    client.call("there", "list_agents")  # it is there, and not only what answers before
    found = b""
    while b'"id":"there"' not in found:
        found += await asyncio.to_thread(os.read, ours, 65_536)
    yield client, ours


@pytest.mark.parametrize("resident", WAYS)
async def test_a_process_that_nobody_reads_from_ends_though_it_has_nothing_to_say(
    resident: str, edge_home: Path
) -> None:
    env = environ(edge_home, AGENTAPI_RESIDENT=resident)
    async with clients(env) as given, reading(given, env) as (client, ours):
        os.close(ours)  # and its input stays open
        assert await client.process.wait() == 0
        assert client.process.stderr is not None
        lines = (await client.process.stderr.read()).splitlines()
        assert [b"event=client_gone" in line for line in lines] == ([True] if resident == "0" else [])


@pytest.mark.parametrize("resident", WAYS)
async def test_a_turn_of_a_client_that_reads_no_more_runs_on_and_is_joined(resident: str, edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        env = environ(edge_home, peer, AGENTAPI_RESIDENT=resident, AGENTAPI_ABANDON_GRACE_SECONDS="0")
        asked = {"agent": "droid", "message": f"{uuid4()} [[slow]] [[chunks2]]"}
        async with clients(env) as given:
            async with reading(given, env) as (client, ours):
                client.call(1, "chat", **asked)
                await peer.received(1, path=COMPLETIONS)
                os.close(ours)
                other = await given.greeted(env)
                other.call(1, "chat", **asked)
                steps.release(20)
                turn = await other.turn(1)
                assert (turn["status"], turn["joined"]) == ("completed", True)
                assert await client.process.wait() == 0
                assert client.process.stderr is not None
                assert len((await client.process.stderr.read()).splitlines()) == (1 if resident == "0" else 0)
            assert len([each for each in peer.exchanges if each.path == COMPLETIONS]) == 1


@pytest.mark.parametrize("resident", WAYS)
async def test_blank_lines_are_silence(resident: str, edge_home: Path) -> None:
    env = environ(edge_home, AGENTAPI_RESIDENT=resident)
    async with clients(env) as given:
        client = await given.start(env)
        for blank in ("", "\r", "  \t", "\n\n"):
            client.write(blank)
        await client.shake_hands()
        client.write("\n\r\n")
        await client.called("there", "list_agents")
        for blank in ("", "\r", " "):
            client.write(blank)
        await client.ask("ping", {}, 2)
        assert [read.get("id") for read in client.heard if "error" in read or "method" not in read] == [0, "there", 2]
