"""Replicas that are restarted one after the other while clients ask them, without a balancer that knows of it."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from agentapi_mcp.testing.http import Steps
from agentapi_mcp.testing.waiting import expect_soon
from tests.acceptance.test_processes import environ
from tests.acceptance.test_serve import Serving, serving
from tests.edges.mcp.test_http import ACCEPT, META, MODERN, begin, message
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.acceptance
CHATS = MODERN | {"mcp-method": "tools/call", "mcp-name": "chat"}
REPLICAS = 3


@dataclass
class Replica:
    """One of several servers, which is stopped and started again at its address."""

    env: Mapping[str, str]
    stack: AsyncExitStack
    process: Serving
    refused: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base(self) -> str:
        """Its address, which stays."""
        return self.process.base

    async def restart(self) -> None:
        """Start it again once it has ended."""
        port = self.base.rpartition(":")[2]
        self.process = await self.stack.enter_async_context(serving(self.env, "--port", port))


@dataclass
class Asker:
    """A client that goes on to the next replica where one refuses with 503 and Retry-After, or does not listen."""

    replicas: list[Replica]
    headers: Mapping[str, str]
    http: httpx2.AsyncClient = field(default_factory=lambda: httpx2.AsyncClient(timeout=60))
    statuses: list[object] = field(default_factory=list[object])

    async def ask_until(self, done: asyncio.Event) -> None:
        """Ask one message after the other, and note how each ended."""
        async with self.http:
            number = 0
            while not done.is_set():
                self.statuses.append(await self._ask(number))
                number += 1

    async def _ask(self, number: int) -> object:
        arguments = {"agent": "droid", "message": uuid4().hex}
        asked = message("tools/call", {"name": "chat", "arguments": arguments, "_meta": META}, number)
        while True:
            number += 1
            replica = self.replicas[number % len(self.replicas)]
            try:
                answer = await self.http.post(f"{replica.base}/mcp", json=asked, headers=self.headers)
            except httpx2.ConnectError:
                continue
            if answer.status_code == 503 and "retry-after" in answer.headers:
                replica.refused.set()
                continue
            if answer.status_code != 200 or answer.json()["result"]["isError"]:
                return answer.text
            return answer.json()["result"]["structuredContent"]["status"]


@asynccontextmanager
async def open_replicas(env: Mapping[str, str]) -> AsyncGenerator[list[Replica]]:
    """Start the replicas."""
    quiet = {**env, "AGENTAPI_LOG_LEVEL": "warning"}  # nobody reads their pipes, which a log would fill
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        starting = [group.create_task(stack.enter_async_context(serving(quiet))) for _ in range(REPLICAS)]
        yield [Replica(quiet, stack, await one) for one in starting]


async def test_no_call_fails_while_three_replicas_are_restarted_under_load(edge_home: Path) -> None:
    steps, done = Steps(), asyncio.Event()
    async with OpenAIPeer(pace=steps) as peer, open_replicas(environ(edge_home, peer)) as replicas:
        async with httpx2.AsyncClient(base_url=replicas[0].base) as http:
            session = await begin(http)
        askers = [Asker(replicas, headers) for headers in (session, CHATS, ACCEPT)]
        async with httpx2.AsyncClient(timeout=60) as http, asyncio.TaskGroup() as group:
            for asker in askers:
                group.create_task(asker.ask_until(done))
            for replica in replicas:
                held = f"[[slow]] [[chunks3]] {uuid4().hex}"
                arguments = {"agent": "droid", "message": held}
                asked = message("tools/call", {"name": "chat", "arguments": arguments, "_meta": META})
                chat = group.create_task(http.post(f"{replica.base}/mcp", json=asked, headers=CHATS))
                await peer.received(content=held)
                replica.process.process.send_signal(signal.SIGTERM)
                await expect_soon(replica.refused.wait(), "a client is sent to another replica")
                steps.release(3)  # no more: the next one must wait too
                assert (await chat).json()["result"]["structuredContent"]["status"] == "completed"
                assert await replica.process.process.wait() == 0
                await replica.restart()
            done.set()
    assert {status for asker in askers for status in asker.statuses} == {"completed"}
