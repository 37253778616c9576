"""A Python program that meets with a server that refuses, and leaves early: typed errors, and nothing left behind."""

import asyncio
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

import agentapi_mcp
from agentapi_mcp.client import Answer, ClientError, ConnectionLostError, RefusedError
from agentapi_mcp.web.application import WebOptions
from tests.client.test_client import open_scene, over_http
from tests.support.connect import open_edge
from tests.support.edges import Served, mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.support.residents import asked
from tests.support.sockets import Line, Script, serving


@pytest.mark.parametrize(
    ("status", "said", "error", "words", "code"),
    [
        (401, "", RefusedError, "does not take the token", "not_authenticated"),
        (403, '{"error": "The host is not allowed."}', RefusedError, "The host is not allowed.", "permission_denied"),
        (404, "", RefusedError, "ends in /mcp", "not_found"),
        (429, "", RefusedError, "wait, then call again", "limit_exceeded"),
        (500, "", ConnectionLostError, "status 500", None),
        (502, "<html>", ConnectionLostError, "status 502", None),
        (200, "<html>", RefusedError, "no MCP server", "not_found"),
        (200, "{}", RefusedError, "no MCP server", "not_found"),
    ],
)
async def test_what_a_server_says_instead_of_answering_is_told(
    status: int, said: str, error: type[ClientError], words: str, code: str | None
) -> None:
    kind = "application/json" if said.startswith("{") else "text/html"
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nretry-after: 7\r\nconnection: close\r\n"

    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        line.writer.write(f"{head}content-length: {len(said)}\r\n\r\n{said}".encode())

    async with serving(script) as server:
        with pytest.raises(error, match=words) as raised:
            async with agentapi_mcp.connect(f"{server.origin}/mcp", token=uuid4().hex):
                pass
    if isinstance(raised.value, RefusedError):
        assert raised.value.code == code
        assert raised.value.retry_after_seconds == (7 if status >= 400 else None)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\ncontent-ty", b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"]
)
async def test_a_connection_that_breaks_before_the_answer_is_told_to_the_caller_alone(
    said: bytes, edge_home: Path
) -> None:
    peer = OpenAIPeer()
    async with (
        open_edge(edge_home, peer) as edge,
        serve_app(mcp_application(edge.server, WebOptions())) as served,
        serving(_breaking(served, said)) as network,
    ):
        words = f"{edge.tag} once"
        async with agentapi_mcp.connect(f"{network.origin}/mcp") as agents:
            with pytest.raises(ConnectionLostError) as raised:
                await agents.chat(words, agent="droid")
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            async with agentapi_mcp.connect(served.mcp) as others:
                turn = await others.chat(words, agent="droid", idempotency_key=raised.value.idempotency_key)
            assert (turn.status, asked(peer)) == ("completed", 1)
            with pytest.raises(ConnectionLostError, match="closed"):
                await agents.agents()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_what_is_no_answer_to_a_message_is_no_refusal(said: bytes, edge_home: Path) -> None:
    peer = OpenAIPeer()
    async with (
        open_edge(edge_home, peer) as edge,
        serve_app(mcp_application(edge.server, WebOptions())) as served,
        serving(_breaking(served, said, ends=False)) as network,
        agentapi_mcp.connect(f"{network.origin}/mcp") as agents,
    ):
        words = f"{edge.tag} once"
        with pytest.raises(ConnectionLostError, match="what became of the call") as raised:
            await agents.chat(words, agent="droid")
        async with agentapi_mcp.connect(served.mcp) as others:
            turn = await others.chat(words, agent="droid", idempotency_key=raised.value.idempotency_key)
        assert (turn.status, asked(peer)) == ("completed", 1)


def _breaking(served: Served, said: bytes, *, ends: bool = True) -> Script:
    """Pass all on to a server; after a message has gone there, say this instead of its answer, and break off."""

    async def script(line: Line) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.base.rpartition(":")[2]))
        try:
            while b'"tools/call"' not in (heard := await line.hear()):
                writer.write(heard)
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                await line.say(head, await reader.readexactly(size))
            writer.write(heard)
            await reader.readuntil(b"\r\n\r\n")
            await line.say(said)
            if ends:
                line.reset()
            await line.peer.go_on.wait()  # the server does not hear of it before the test ends
        finally:
            writer.transport.abort()

    return script


async def test_two_answers_at_once_have_their_own_pieces(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        answers = [scene.ask("[[echo]] first one"), scene.ask("[[echo]] second two")]

        async def read(answer: Answer) -> str:
            return "".join([piece async for piece in answer])

        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(read(answer)) for answer in answers]
        assert [each.result() for each in reading] == [(await answer).reply for answer in answers]
        assert ["first" in (await answer).reply for answer in answers] == [True, False]


async def test_a_break_stops_nothing_and_the_rest_comes_later(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        answer = scene.ask("[[slow]]")
        scene.peer.steps.release(3)
        heard = list[str]()
        async for piece in answer:
            heard.append(piece)
            break
        scene.peer.steps.release(200)
        turn = await answer
        assert (turn.status, turn.reply.startswith(heard[0])) == ("completed", True)
        assert asked(scene.peer) == 1


async def test_after_the_block_nothing_is_sent(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        async with over_http(edge) as agents:
            before = agents.chat("hello", agent="droid")
        for answer in (before, agents.chat("hello", agent="droid"), agents.turn("x")):
            with pytest.raises(ConnectionLostError, match="closed"):
                await answer
        with pytest.raises(ConnectionLostError, match="closed"):
            await agents.agents()


ROUNDS = 20


async def test_nothing_is_left_behind(edge_home: Path) -> None:
    def left() -> tuple[int, int]:
        return len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))

    async with open_edge(edge_home, OpenAIPeer()) as edge, serve_app(mcp_application(edge.server, WebOptions())) as at:
        async with agentapi_mcp.connect(at.mcp) as agents:
            await agents.chat(f"{edge.tag} warm", agent="droid")
        tasks, files = left()
        for _ in range(ROUNDS):
            with suppress(ZeroDivisionError):
                async with agentapi_mcp.connect(at.mcp) as agents:
                    answer = agents.chat(f"{uuid4().hex} [[chunks3]]", agent="droid")
                    async for _piece in answer:
                        raise ZeroDivisionError
        # What serves the last of them here may not have ended yet; a leak would be one in each round.
        assert left()[0] < tasks + ROUNDS
        assert left()[1] < files + ROUNDS
