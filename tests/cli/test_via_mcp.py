"""The chat of the terminal through the MCP server."""

import asyncio
import json
import os
import pty
import sys
from collections.abc import Awaitable, Generator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

import agentapi_mcp
from agentapi_mcp.base.errors import BackendError
from agentapi_mcp.cli.chat.clients import Following
from agentapi_mcp.cli.chat.conversation import Conversation
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.chat.screens import LineScreen
from agentapi_mcp.cli.outputs import explain
from agentapi_mcp.cli.via_mcp import McpChatClient, open_mcp_chat_client
from agentapi_mcp.testing.http import Steps
from agentapi_mcp.web.application import WebOptions
from tests.client.test_client import passing_to
from tests.support.connect import call, connect, fields_of, open_edge
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.support.sockets import Line, serving
from tests.support.waiting import wait_until


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Generator[LineScreen]:
    ours, its = pty.openpty()
    with os.fdopen(its) as stdin, os.fdopen(ours):
        monkeypatch.setattr(sys, "stdin", stdin)
        yield LineScreen()


def chatting(url: str) -> AbstractAsyncContextManager[McpChatClient]:
    return open_mcp_chat_client(partial(agentapi_mcp.connect, url))


async def test_a_turn_that_was_joined_while_it_ran_is_told_as_such_at_its_end(edge_home: Path) -> None:
    steps = Steps()
    async with open_edge(edge_home, OpenAIPeer(pace=steps)) as edge, connect(edge.server, "stdio-2026") as client:
        message, key = f"{edge.tag} [[slow]] [[chunks3]]", edge.tag
        said = {"agent": "droid", "message": message, "idempotency_key": key, "wait_seconds": 0}
        running = fields_of(await call(client, "chat", **said))
        steps.release(1)
        served = serve_app(mcp_application(edge.server, WebOptions()))
        async with served as at, chatting(at.mcp) as chat:
            options, pieces = ChatOptions(agent="droid", idempotency_key=key), list[str]()

            def hear(piece: str) -> None:
                pieces.append(piece)
                steps.release(2)

            reply = await chat.send(options, message, Following(asyncio.Event(), hear))
    assert (running["status"], reply.turn["status"], reply.text) == ("running", "completed", "w0 w1 w2 ")
    assert "".join(pieces) == reply.text
    assert reply.turn["joined"] is True
    assert "Another --idempotency-key asks it anew." in str(reply.joined)


async def test_an_interrupted_answer_is_stopped_also_before_its_first_word(edge_home: Path) -> None:
    peer = OpenAIPeer()
    served_by = open_edge(edge_home, peer)
    async with served_by as edge, serve_app(mcp_application(edge.server, WebOptions())) as at:
        async with chatting(at.mcp) as chat, asyncio.TaskGroup() as group:
            interrupted = asyncio.Event()
            following = Following(interrupted, lambda _: None)
            options = ChatOptions(agent="droid")
            sending = group.create_task(chat.send(options, f"{edge.tag} [[hang]]", following))
            await peer.received()
            interrupted.set()
            reply = await sending
        await peer.client_gone()
    assert (reply.cancelled, reply.text) == (True, "")


@pytest.mark.parametrize("said", ["[[slow]]", "[[hang]]"])
async def test_a_server_that_is_gone_leaves_the_command_that_shows_the_turn(said: str, edge_home: Path) -> None:
    peer, gone = OpenAIPeer(), asyncio.Event()

    async def passing(line: Line) -> None:
        if not gone.is_set():
            await passing_to(served)(line)

    async with (
        open_edge(edge_home, peer) as edge,
        serve_app(mcp_application(edge.server, WebOptions())) as served,
        serving(passing) as network,
        chatting(f"{network.origin}/mcp") as chat,
        asyncio.TaskGroup() as group,
    ):
        following = Following(asyncio.Event(), lambda _: None)
        sent = chat.send(ChatOptions(agent="droid"), f"{edge.tag} {said}", following)
        sending = group.create_task(_failure(sent))
        await asyncio.to_thread(wait_until, lambda: following.turn_id() is not None)
        gone.set()
        for line in network.lines:
            line.reset()
        lost = await sending
        turns = await edge.services.turns.recent(edge.services.principal, 5)
        told = [turn.id for turn in turns if f"`agentapi-mcp turns show {turn.id}` shows" in explain(lost)]
        assert len(told) == 1
        peer.steps.release(200)


async def test_after_a_lost_server_the_next_message_goes_to_a_new_one_and_none_is_sent_twice(
    edge_home: Path, terminal: LineScreen, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = OpenAIPeer()
    async with (
        open_edge(edge_home, peer) as edge,
        serve_app(mcp_application(edge.server, WebOptions())) as served,
        serving(passing_to(served)) as network,
        chatting(f"{network.origin}/mcp") as chat,
    ):

        def lose() -> None:
            for line in network.lines:
                if not line.writer.is_closing():
                    line.reset()

        def asked() -> list[str]:
            bodies = [each.content for each in peer.exchanges if each.path.endswith("/chat/completions")]
            return [str(json.loads(body)["messages"][-1]["content"]) for body in bodies]

        goes_on = asyncio.Event()
        conversation = Conversation(chat, ChatOptions(agent="droid"), terminal, None)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_failure(conversation.send(f"{edge.tag} [[slow]]", goes_on)))
            peer.steps.release(1)
            await asyncio.to_thread(wait_until, lambda: "w0" in capsys.readouterr().out)
            lose()
            lost = await sending
        assert "The next message starts a new server." in explain(lost)
        turn_id = str(conversation.lost)
        await edge.services.turns.cancel(edge.services.principal, turn_id)
        first = await edge.services.turns.get(edge.services.principal, turn_id)
        await conversation.send(f"{edge.tag} second", goes_on)
        lose()  # while nobody speaks
        await conversation.send(f"{edge.tag} third", goes_on)
        assert asked() == [f"{edge.tag} [[slow]]", f"{edge.tag} second", f"{edge.tag} third"]
        assert conversation.reply is not None
        assert conversation.reply.session_id == str(first.session_id)
        lose()
        assert "droid" in [agent.name for agent in await chat.agents()]


async def test_a_server_that_does_not_start_is_told_with_what_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTAPI_HOME", str(tmp_path))
    monkeypatch.setenv("AGENTAPI_TOOLSETS", "nonsense")
    with pytest.raises(BackendError, match="does not start: `agentapi-mcp doctor` says why"):
        async with open_mcp_chat_client():
            pass


async def _failure(sending: Awaitable[object]) -> BackendError:
    with pytest.raises(BackendError) as lost:
        await sending
    return lost.value
