"""What a user chooses in one of their MCP clients holds there, for them, and nowhere else."""

import json
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
from mcp_types import CallToolResult

from agentapi_mcp.edges.mcp.options import McpOptions
from tests.support.connect import LINKS, Link, call, connect, fields_of, listed_agents, open_edge, text_of
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.timeout(60)
BOTH = McpOptions(toolsets=frozenset({"core", "preferences"}))


def some_client() -> str:
    return f"Desk {uuid4().hex[:8]}"


def names(listed: CallToolResult, of: str, field: str) -> set[object]:
    return {one[field] for one in cast("list[dict[str, object]]", fields_of(listed)[of])}


@pytest.mark.parametrize("link", LINKS)
async def test_what_is_chosen_in_a_client_holds_there_alone(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer(), BOTH) as edge:
        name = some_client()
        async with connect(edge.server, link, name=name) as client:
            chosen = await call(client, "set_preference", name="default_agent", value="guide")
            assert fields_of(chosen)["default_agent"] == "guide"
            assert fields_of(await call(client, "chat", message="What are you?"))["agent"] == "guide"
            await call(client, "set_preference", name="default_agent")
            for name_, value in (("model", "gpt-4o"), ("temperature", "0.5"), ("max_tokens", "77")):
                await call(client, "set_preference", name=f"droid.{name_}", value=value)
            shown = await call(client, "set_preference", name="droid.system_prompt", value="Be brief.")
            assert "- droid.max_tokens: 77\n" in text_of(shown)
            answered = fields_of(await call(client, "chat", message=f"{edge.tag} [[echo]]"))
            assert (answered["agent"], answered["model"]) == ("droid", "gpt-4o")
            sent = (await edge.peer.received(path="/api/v1/chat/completions")).json
            assert (sent["temperature"], sent["max_tokens"]) == (0.5, 77)
            assert "Be brief." in json.dumps(sent["messages"])
            await call(client, "set_preference", name="droid.enabled", value="false")
            refused = await call(client, "chat", agent="droid", message="hello")
            assert refused.is_error
            assert "droid.enabled" in text_of(refused)
            assert "droid" not in (await listed_agents(client))[0]
            assert "droid" not in names(await call(client, "list_models"), "models", "agent")
            assert fields_of(await call(client, "chat", message="What are you?"))["agent"] != "droid"
        async with connect(edge.server, link, name=some_client()) as other:
            assert fields_of(await call(other, "get_preferences"))["agents"] == []
            assert fields_of(await call(other, "chat", message=f"{edge.tag} [[echo]]"))["agent"] == "droid"
        async with connect(edge.server, link, name=name) as again:
            (own,) = cast("list[dict[str, object]]", fields_of(await call(again, "get_preferences"))["agents"])
            assert (own["agent"], own["enabled"], own["model"], own["max_tokens"]) == ("droid", False, "gpt-4o", 77)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("theme", "dark", "There is no preference 'theme'"),
        ("droid.command", "sh", "There is no preference"),
        ("enabled", "true", "There is no preference"),
        ("default_agent", "nobody", "no such agent"),
        ("default_model", "gpt-0", "no such model"),
        ("nobody.enabled", "false", "no such agent"),
        ("guide.model", "gpt-0", "no such model"),
        ("droid.model", "gemini-2.5-flash-none", "no such model"),
        ("droid.enabled", "perhaps", "true or false"),
        ("droid.temperature", "hot", "must be a number"),
        ("droid.temperature", "nan", "between 0 and 2"),
        ("droid.max_tokens", "1.5", "a whole number"),
        ("droid.max_tokens", "0", "between 1 and"),
        ("droid.system_prompt", "\0", "NUL"),
    ],
)
async def test_what_cannot_be_meant_is_refused(name: str, value: str, words: str, edge_home: Path) -> None:
    async with (
        open_edge(edge_home, OpenAIPeer(), BOTH) as edge,
        connect(edge.server, "stdio-2026", name=some_client()) as client,
    ):
        refused = await call(client, "set_preference", name=name, value=value)
        assert refused.is_error
        assert words in text_of(refused)
        shown = fields_of(await call(client, "get_preferences"))
        assert (shown["default_agent"], shown["default_model"], shown["agents"]) == (None, None, [])


async def test_the_tools_are_there_only_where_they_are_asked_for(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        assert "set_preference" not in {tool.name for tool in (await client.list_tools()).tools}


async def test_entries_of_other_programs_choose_an_agent_and_start_nothing(edge_home: Path, tmp_path: Path) -> None:
    name, started = some_client(), tmp_path / "started"
    written = {"command": f"touch {started}", "env": {"OPENROUTER_API_KEY": "sk-theirs"}, "auth_type": "none"}
    droid = {"mcp_name": "droid", "type": "stdio", "enabled": True, **written}
    unknown = {"mcp_name": "files", "type": "stdio", "enabled": True, **written}
    async with open_edge(edge_home, OpenAIPeer(), BOTH) as edge:
        await edge.services.clients.record(edge.services.principal, name, {"agents": [droid, unknown]})
        async with connect(edge.server, "stdio-2026", name=name) as client:
            shown = (await call(client, "get_preferences")).model_dump_json()
            assert str(started) not in shown
            assert "sk-theirs" not in shown
            assert fields_of(await call(client, "chat", message=f"{edge.tag} [[echo]]"))["agent"] == "droid"
            sent = await edge.peer.received(path="/api/v1/chat/completions")
            assert "theirs" not in str(sent.headers)
            assert "files" not in (await listed_agents(client))[0]
            await call(client, "set_preference", name="droid.enabled", value="false")
            assert (await call(client, "chat", agent="droid", message="hello")).is_error
    assert not started.exists()
