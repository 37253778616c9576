"""The order in which `serve` stops: the runner of turns closes after the requests that were let in."""

import asyncio
import signal
from pathlib import Path

import pytest
from anyio.lowlevel import checkpoint
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from agentapi_mcp.base.errors import LimitExceededError
from agentapi_mcp.cli.serve import drain_turns
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.testing.waiting import expect_soon
from agentapi_mcp.web.mounts import AuthenticationMode, Mount
from agentapi_mcp.web.stopping import Draining, Stopping
from tests.support.connect import open_edge
from tests.support.peers.openai import OpenAIPeer


async def test_the_runner_takes_turns_until_what_was_let_in_is_answered_or_the_grace_is_over(edge_home: Path) -> None:
    let_in, may_answer = asyncio.Event(), asyncio.Event()

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        let_in.set()
        await may_answer.wait()
        await PlainTextResponse("served")(scope, receive, send)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        pass

    stopping = Stopping()
    draining = Draining(serve, Mount(paths=("/",), app=serve, authentication=AuthenticationMode.OPEN), stopping)
    try:
        async with open_edge(edge_home, OpenAIPeer()) as edge, asyncio.TaskGroup() as group:
            turns, who = edge.services.turns, edge.services.principal
            group.create_task(draining({"type": "http", "method": "GET"}, receive, send))
            await let_in.wait()
            stopping.begin()
            stopped = group.create_task(drain_turns(turns, stopping, grace_seconds=3000))
            await checkpoint()  # it has begun to wait
            turn = await turns.start(who, ChatRequest(message=edge.tag, agent="guide"))
            assert not stopped.done()
            may_answer.set()
            await expect_soon(stopped, "the turns are drained")
            with pytest.raises(LimitExceededError):
                await turns.start(who, ChatRequest(message=edge.tag, agent="guide"))
            assert (await turns.get(who, str(turn.id))).status.is_final
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)


async def test_without_grace_nobody_is_waited_for(edge_home: Path) -> None:
    stopping, let_in = Stopping(), asyncio.Event()

    async def serve(_scope: Scope, _receive: Receive, _send: Send) -> None:
        let_in.set()
        await asyncio.Event().wait()

    async def nothing(*_: object) -> Message:
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        pass

    draining = Draining(serve, Mount(paths=("/",), app=serve, authentication=AuthenticationMode.OPEN), stopping)
    try:
        async with open_edge(edge_home, OpenAIPeer()) as edge, asyncio.TaskGroup() as group:
            asked = group.create_task(draining({"type": "http", "method": "GET"}, nothing, send))
            await let_in.wait()
            stopping.begin()
            await expect_soon(drain_turns(edge.services.turns, stopping, grace_seconds=0), "the turns are drained")
            assert not asked.done()
            asked.cancel()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
