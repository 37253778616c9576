"""Replies of 10 MB and of 100,000 frames: kept whole, shown in part, and no more work than their length asks for."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import httpx2
import pytest
from mcp import Client
from mcp_types import TextResourceContents
from pydantic import SecretStr

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.core.conversations.turn_follower import REPORT_EVERY
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import EdgeServer, create_server
from agentapi_mcp.presentation.text import MAX_REPLY_BYTES, MAX_REPLY_TOKENS
from agentapi_mcp.settings import Settings
from agentapi_mcp.web.application import WebOptions
from tests.support.connect import Link, call, connect, fields_of, open_edge, text_of
from tests.support.databases import DatabaseUrls
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.support.raw_client import RawClient
from tests.support.wires import Wire, open_wire

WITHIN = 240  # seconds, which no test waits on a machine of its own
MOST_STATEMENTS = 1_000  # of a turn, those of the start included, and of a slow machine a few more each second
LONGEST_PROGRESS = 300  # characters
MOST_SHOWN = 3 * MAX_REPLY_BYTES  # bytes of an answer: the reply as text and as a field, and what stands beside it
MEGABYTES, CHUNKS = "megabytes10", "chunks100000"
pytestmark = pytest.mark.timeout(2 * WITHIN)
REPLIES = {
    MEGABYTES: "".join(f"megabyte {place:>6} of {10:<6}\n" * 40_000 for place in range(10)),
    CHUNKS: "".join(f"w{place} " for place in range(100_000)),
}
WORDS = pytest.mark.parametrize("word", list(REPLIES))


@dataclass
class Wired:
    """A program behind a wire to its database, whose agent `droid` speaks to a peer."""

    server: EdgeServer
    services: Services
    wire: Wire


@asynccontextmanager
async def wired(database: DatabaseUrls, home: Path) -> AsyncGenerator[Wired]:
    async with OpenAIPeer() as peer, open_wire(database.app) as (wire, url):
        settings = Settings(home=home, database_url=SecretStr(url), abandon_grace_seconds=0, shutdown_grace_seconds=0)
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
        async with open_app(settings, environ) as app:
            services = await app.services_provider.services()
            yield Wired(create_server(app.services_provider, McpOptions()), services, wire)


def quoted(text: str) -> str:
    """Write a text as transcripts show what was said."""
    return "\n".join(f"> {line}" for line in text.rstrip().splitlines())


@WORDS
@pytest.mark.parametrize("link", ["stdio-2025", "http-2026"])
async def test_a_large_reply_is_kept_whole_and_shown_in_part(
    word: str, link: Link, own_database: DatabaseUrls, tmp_path: Path
) -> None:
    reply, heard = REPLIES[word], list[tuple[float, str]]()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        del total
        heard.append((progress, message or ""))

    async with asyncio.timeout(WITHIN), wired(own_database, tmp_path) as at, connect(at.server, link) as client:
        at.wire.statements.clear()
        arguments = {"agent": "droid", "message": f"[[{word}]]", "wait_seconds": 200}
        result = await client.call_tool("chat", arguments, progress_callback=hear)
        assert len(at.wire.statements) < MOST_STATEMENTS
        # By the server's own clock, so that a slow machine may tell more often.
        assert len(heard) <= 2 + max(seconds for seconds, _ in heard) / REPORT_EVERY.total_seconds()
        assert max(len(message) for _, message in heard) < LONGEST_PROGRESS

        turn = fields_of(result)
        assert (turn["status"], turn["end_reason"], turn["warning"]) == ("completed", "answered", None)
        shown = str(turn["reply"])
        assert reply.startswith(shown)
        assert (turn["reply_truncated"], len(shown.encode()) <= MAX_REPLY_BYTES) == (True, True)
        assert f"[The reply is cut: {len(reply) - len(shown):,} more bytes." in text_of(result)
        again = fields_of(await call(client, "get_turn", turn_id=turn["turn_id"]))
        assert again["reply"] == shown

        kept = await at.services.turns.get(at.services.principal, str(turn["turn_id"]))
        assert kept.reply == reply
        session, uri = turn["session_id"], str(turn["transcript_uri"])
        newest = fields_of(await call(client, "get_transcript", session_id=session))
        assert quoted(reply) in str(newest["markdown"])
        older = fields_of(await call(client, "get_transcript", session_id=session, cursor=newest["next_cursor"]))
        assert f"[[{word}]]" in str(older["markdown"])
        assert quoted(reply) in await read(client, uri)
        assert reply in [message["content"] for message in json.loads(await read(client, uri + ".json"))["messages"]]


async def read(client: Client, uri: str) -> str:
    [content] = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return content.text


@WORDS
async def test_a_large_reply_reaches_a_client_in_few_bytes(word: str, edge_home: Path) -> None:
    async with (
        open_edge(edge_home, OpenAIPeer()) as edge,
        serve_app(mcp_application(edge.server, WebOptions())) as place,
        httpx2.AsyncClient(timeout=WITHIN) as http,
    ):
        arguments = {"agent": "droid", "message": f"{edge.tag} [[{word}]]", "wait_seconds": 200}
        request = RawClient(place.mcp, http, {}).request("tools/call", {"name": "chat", "arguments": arguments})
        answer = await http.send(request)
        assert '"reply_truncated":true' in answer.text
        assert len(answer.content) < MOST_SHOWN


async def test_a_part_of_a_transcript_has_no_more_tokens_than_an_answer(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        digits = [f"{number}{token_hex(4_000)}" for number in range(7)]
        turn = fields_of(await call(client, "chat", agent="guide", message=digits[0]))
        session = turn["session_id"]
        for said in digits[1:]:
            await call(client, "chat", session_id=session, message=said)
        cursor, found = None, list[str]()
        while True:
            part = fields_of(await call(client, "get_transcript", session_id=session, cursor=cursor))
            messages = [said for said in digits if said in str(part["markdown"])]
            assert 1 <= len(messages) <= MAX_REPLY_TOKENS // 8_000  # bytes, each a token
            found = [*messages, *found]
            cursor = part["next_cursor"]
            if cursor is None:
                break
        assert found == digits
