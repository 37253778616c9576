"""The pieces of a reply, which a client may ask for in `_meta` of its request, in `_meta` of progress."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from mcp import Client
from mcp.client.session import IncomingMessage
from mcp_types import CallToolResult, ProgressNotification, RequestParamsMeta

from agentapi_mcp.edges.mcp.progress import LONGEST_DELTA
from agentapi_mcp.presentation.deltas import DELTA_META_KEY, DELTAS_META_KEY
from agentapi_mcp.testing.http import Steps
from tests.support.connect import LINKS, Link, call, connect, fields_of, open_edge, text_of
from tests.support.peers.openai import OpenAIPeer


@dataclass
class Pieces:
    """What progress brought: the pieces by their place in the reply, and the turn that they are of."""

    texts: dict[int, str] = field(default_factory=dict[int, str])
    turns: set[str] = field(default_factory=set[str])
    first: asyncio.Event = field(default_factory=asyncio.Event)

    async def hear(self, message: IncomingMessage) -> None:
        """Note a piece."""
        if isinstance(message, ProgressNotification):
            delta = cast("Mapping[str, object]", (message.params.meta or {})[DELTA_META_KEY])
            self.turns.add(str(delta["turn_id"]))
            if text := str(delta["text"]):
                self.texts[cast("int", delta["offset"])] = text
                self.first.set()

    def joined(self, after: int = 0) -> str:
        """Join the pieces, each of which stands where the one before it ends."""
        text = ""
        for offset, piece in sorted(self.texts.items()):
            assert offset == after + len(text)
            text += piece
        return text


async def ask(client: Client, tool: str, known: object, /, **arguments: object) -> CallToolResult:
    async def hear(progress: float, total: float | None, message: str | None) -> None:
        """Want progress: the pieces are read elsewhere."""

    meta = cast("RequestParamsMeta", {DELTAS_META_KEY: known})
    return await client.call_tool(tool, arguments, progress_callback=hear, meta=meta)


@pytest.mark.parametrize("link", LINKS)
async def test_the_pieces_are_the_reply_and_come_while_it_is_written(link: Link, edge_home: Path) -> None:
    steps, pieces = Steps(), Pieces()
    async with (
        open_edge(edge_home, OpenAIPeer(pace=steps)) as edge,
        connect(edge.server, link, message_handler=pieces.hear) as client,
        asyncio.TaskGroup() as group,
    ):
        asking = group.create_task(ask(client, "chat", 0, agent="droid", message=f"{edge.tag} [[slow]]"))
        exchange = await edge.peer.received(1)
        steps.release(3)
        await pieces.first.wait()
        assert not exchange.ended.is_set()
        steps.release(200)
        turn = fields_of(await asking)
        assert pieces.joined() == turn["reply"] != ""
        assert pieces.turns == {turn["turn_id"]}


async def test_the_turn_is_named_before_it_has_a_text(edge_home: Path) -> None:
    steps, pieces = Steps(), Pieces()
    named = asyncio.Event()

    async def hear(message: IncomingMessage) -> None:
        await pieces.hear(message)
        named.set()

    async with (
        open_edge(edge_home, OpenAIPeer(pace=steps)) as edge,
        connect(edge.server, "http-2026", message_handler=hear) as client,
        asyncio.TaskGroup() as group,
    ):
        asking = group.create_task(ask(client, "chat", 0, agent="droid", message=f"{edge.tag} [[slow]]"))
        await named.wait()
        assert (pieces.texts, len(pieces.turns)) == ({}, 1)
        steps.release(200)
        assert fields_of(await asking)["status"] == "completed"


@pytest.mark.parametrize("known", [0, 7, 100_000])
async def test_who_has_a_part_of_a_reply_gets_the_rest(known: int, edge_home: Path) -> None:
    pieces = Pieces()
    async with (
        open_edge(edge_home, OpenAIPeer()) as edge,
        connect(edge.server, "stdio-2026", message_handler=pieces.hear) as client,
    ):
        turn = fields_of(await call(client, "chat", agent="droid", message=edge.tag))
        await ask(client, "get_turn", known, turn_id=turn["turn_id"])
        assert pieces.joined(known) == str(turn["reply"])[known:]


async def test_a_reply_that_is_shown_in_part_comes_whole_in_pieces_of_bounded_length(edge_home: Path) -> None:
    pieces = Pieces()
    async with (
        open_edge(edge_home, OpenAIPeer()) as edge,
        connect(edge.server, "http-2025", message_handler=pieces.hear) as client,
    ):
        turn = fields_of(await ask(client, "chat", 0, agent="droid", message=f"{edge.tag} [[megabytes1]]"))
        assert turn["reply_truncated"]
        stored = await edge.services.turns.get(edge.services.principal, str(turn["turn_id"]))
        assert pieces.joined() == stored.reply
        assert max(len(text) for text in pieces.texts.values()) <= LONGEST_DELTA


async def test_who_asks_for_no_pieces_gets_none(edge_home: Path) -> None:
    heard: list[ProgressNotification] = []

    async def hear(message: IncomingMessage) -> None:
        if isinstance(message, ProgressNotification):
            heard.append(message)

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        """Want progress."""

    async with (
        open_edge(edge_home, OpenAIPeer()) as edge,
        connect(edge.server, "http-2026", message_handler=hear) as client,
    ):
        arguments = {"agent": "droid", "message": f"{edge.tag} [[chunks100]]"}
        result = await client.call_tool("chat", arguments, progress_callback=tell)
        assert fields_of(result)["status"] == "completed"
        assert [each for each in heard if DELTA_META_KEY in (each.params.meta or {})] == []


@pytest.mark.parametrize("known", [True, -1, "0", 1.5, {}])
async def test_what_is_no_count_of_characters_is_refused(known: object, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2025") as client:
        refused = await ask(client, "chat", known, agent="droid", message=edge.tag)
        assert refused.is_error
        assert f"_meta of {DELTAS_META_KEY} must be how many characters" in text_of(refused)
        assert edge.peer.exchanges == []
