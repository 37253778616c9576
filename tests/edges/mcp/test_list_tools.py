"""Agents, models, sessions, transcripts and health as tools."""

import json
from pathlib import Path
from typing import cast

import pytest

from tests.support.connect import LINKS, Link, call, connect, fields_of, listed_agents, open_edge, text_of
from tests.support.peers.openai import OpenAIPeer

Rows = list[dict[str, object]]


@pytest.mark.parametrize("link", LINKS)
async def test_agents_are_listed_with_what_they_lack(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        agents, said = await listed_agents(client)
        assert agents["guide"]["status"] == "healthy"
        assert agents["droid"]["missing"] == []
        assert agents["ccrouter"]["status"] == "not_configured"
        assert agents["ccrouter"]["missing"]
        assert "- ccrouter (not configured; by ccrouter)" in said


@pytest.mark.parametrize("link", LINKS)
async def test_models_tell_prices_and_context_windows_or_that_they_are_unknown(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        models = cast("Rows", fields_of(await call(client, "list_models", agent="droid"))["models"])
        by_name = {model["name"]: model for model in models}
        gpt = by_name["gpt-5.5"]
        assert (gpt["input_price"], gpt["output_price"], gpt["price_source"]) == (5, 30, "genai-prices")
        assert by_name["claude-3-opus"]["context_window"] is None
        (other,) = cast("Rows", fields_of(await call(client, "list_models", query="gemini-2.0-pro"))["models"])
        assert (other["input_price"], other["context_window"]) == (None, None)
        assert [model["name"] for model in models if model["is_default"]] == ["gemini-3.5-flash"]


@pytest.mark.parametrize("link", LINKS)
async def test_what_a_models_description_warns_of_is_in_the_text_and_in_the_fields(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        result = await call(client, "list_models", agent="droid")
        models = {str(model["name"]): model for model in cast("Rows", fields_of(result)["models"])}
        lines = {line.removeprefix("- ").partition(" ")[0]: line for line in text_of(result).splitlines()}
        for name in ("claude-3-opus", "claude-3-5-sonnet", "gpt-4-turbo", "gpt-4o"):
            warning = str(models[name]["description"])
            assert "ithdrawn by " in warning
            assert lines[name].endswith(warning)


@pytest.mark.parametrize("link", LINKS)
async def test_sessions_are_found_by_their_text_newest_first(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        ids = [
            fields_of(await call(client, "chat", agent="droid", message=f"{edge.tag} number {number}"))["session_id"]
            for number in range(3)
        ]
        sessions = cast("Rows", fields_of(await call(client, "list_sessions", query=edge.tag))["sessions"])
        assert [session["session_id"] for session in sessions] == ids[::-1]
        assert sessions[0]["title"] == f"{edge.tag} number 2"
        assert sessions[0]["agent"] == "droid"


@pytest.mark.parametrize("link", LINKS)
async def test_a_transcript_is_read_in_both_formats(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        session_id = fields_of(await call(client, "chat", agent="droid", message=edge.tag))["session_id"]
        markdown = fields_of(await call(client, "get_transcript", session_id=session_id))
        assert edge.tag in str(markdown["markdown"])
        assert markdown["next_cursor"] is None
        result = await call(client, "get_transcript", session_id=session_id, format="json")
        document = cast("dict[str, Rows]", fields_of(result)["document"])
        assert [message["role"] for message in document["messages"]] == ["user", "assistant"]
        assert json.loads(text_of(result)) == document


@pytest.mark.parametrize("link", LINKS)
async def test_a_long_transcript_comes_in_parts_that_together_are_whole(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        session_id: object = None
        for number in range(3):
            arguments = {"session_id": session_id} if session_id else {"agent": "droid"}
            message = f"{edge.tag}-{number} " + "x" * 40_000
            session_id = fields_of(await call(client, "chat", message=message, **arguments))["session_id"]
        found, cursor = list[str](), None
        while True:
            part = fields_of(await call(client, "get_transcript", session_id=session_id, cursor=cursor, format="json"))
            messages = cast("Rows", cast("dict[str, object]", part["document"])["messages"])
            found = [str(message["content"]).split(" ")[0] for message in messages] + found
            cursor = part["next_cursor"]
            if cursor is None:
                break
        assert [one for one in found if one.startswith(edge.tag)] == [f"{edge.tag}-{number}" for number in range(3)]
        assert len(found) == 6


@pytest.mark.parametrize("link", LINKS)
async def test_health_tells_of_parts_and_agents(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        health = fields_of(await call(client, "get_health", agent="guide"))
        assert health["status"] == "healthy"
        assert "postgres" in {part["name"] for part in cast("Rows", health["parts"])}
        assert [agent["name"] for agent in cast("Rows", health["agents"])] == ["guide"]
