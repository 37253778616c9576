"""Transcripts and the catalogue as resources, their completions, and the prompts."""

import json
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, PromptReference, ResourceTemplateReference, TextContent, TextResourceContents

from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.resources import parse_sessions_uri, parse_transcript_uri
from agentapi_mcp.edges.mcp.server.server import create_server
from tests.edges.mcp.test_tool_schemas import NoServices
from tests.support.connect import LINKS, Edge, Link, call, connect, fields_of, open_edge
from tests.support.databases import Seed
from tests.support.peers.openai import OpenAIPeer

TEMPLATE = "agentapi://chat/sessions/{session_id}/transcript"
NOBODYS = "agentapi://chat/sessions/00000000-0000-7000-8000-000000000000/transcript"


async def read(client: Client, uri: str) -> TextResourceContents:
    contents = (await client.read_resource(uri)).contents[0]
    assert isinstance(contents, TextResourceContents)
    return contents


async def begin(client: Client, edge: Edge, more: str = "") -> str:
    return str(fields_of(await call(client, "chat", agent="droid", message=f"{edge.tag}{more}"))["session_id"])


@pytest.mark.parametrize("link", LINKS)
async def test_a_transcript_is_read_as_markdown_and_as_json(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        session_id = await begin(client, edge)
        markdown = await read(client, TEMPLATE.format(session_id=session_id))
        assert markdown.mime_type == "text/markdown"
        assert edge.tag in markdown.text
        document = await read(client, TEMPLATE.format(session_id=session_id) + ".json")
        assert document.mime_type == "application/json"
        assert json.loads(document.text)["messages"][0]["content"] == edge.tag


async def begin_here(edge: Edge, message: str) -> str:
    """Begin a session without a client between, which many would take long for."""
    request = ChatRequest(message=message, agent="guide")
    turn = await edge.services.turns.chat(edge.services.principal, request, wait=timedelta(seconds=60))
    return str(turn.session_id)


@pytest.mark.timeout(120)  # it makes more sessions than fit a page
@pytest.mark.parametrize("link", LINKS)
async def test_the_newest_transcripts_are_listed_and_lead_to_the_others(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        ids = [await begin_here(edge, f"{edge.tag} {number}") for number in range(52)]
        first = await client.list_resources()
        assert [resource.uri for resource in first.resources] == [
            "agentapi://catalog/agents",
            *(TEMPLATE.format(session_id=one) for one in ids[:1:-1]),
            first.resources[-1].uri,
        ]
        # Clients follow a cursor to the end before they show anything.
        assert first.next_cursor is None
        newest = first.resources[1]
        assert newest.title == f"{edge.tag} 51"
        assert newest.annotations is not None
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", newest.annotations.last_modified or "")
        messages = json.loads((await read(client, f"{newest.uri}.json")).text)["messages"]
        assert newest.size == sum(len(message["content"].encode()) for message in messages)
        older = json.loads((await read(client, first.resources[-1].uri)).text)
        assert [session["session_id"] for session in older["sessions"]][:2] == ids[1::-1]
        blank = json.loads((await read(client, "agentapi://chat/sessions?query=&cursor=")).text)
        assert len(blank["sessions"]) == 50
        found = json.loads((await read(client, f"agentapi://chat/sessions?query={edge.tag}%201&cursor=")).text)
        assert [session["session_id"] for session in found["sessions"]] == [*ids[19:9:-1], ids[1]]


@pytest.mark.parametrize("link", LINKS)
async def test_few_transcripts_lead_nowhere(link: Link, seed: Seed) -> None:
    async with (
        seed.started("few-") as server,
        open_edge(server.home, OpenAIPeer()) as edge,
        connect(edge.server, link) as client,
    ):
        session_id = await begin(client, edge)
        uris = [resource.uri for resource in (await client.list_resources()).resources]
        assert uris == ["agentapi://catalog/agents", TEMPLATE.format(session_id=session_id)]


@pytest.mark.parametrize("link", LINKS)
async def test_a_long_transcript_links_to_its_earlier_part(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        session_id = await begin(client, edge, " first " + "x" * 700_000)
        await call(client, "chat", session_id=session_id, message=f"{edge.tag} second " + "y" * 700_000)
        newest = await read(client, TEMPLATE.format(session_id=session_id))
        assert f"{edge.tag} second" in newest.text
        assert "x" * 1000 not in newest.text
        line = next(line for line in newest.text.splitlines() if line.startswith("Earlier messages: "))
        older = await read(client, line.removeprefix("Earlier messages: "))
        assert "x" * 700_000 in older.text
        document = json.loads((await read(client, TEMPLATE.format(session_id=session_id) + ".json")).text)
        assert "x" * 700_000 in (await read(client, document["older"])).text


@pytest.mark.parametrize("link", LINKS)
async def test_the_catalogue_is_a_resource(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        agents = json.loads((await read(client, "agentapi://catalog/agents")).text)["agents"]
        assert {"guide", "droid", "ccrouter"} <= {agent["name"] for agent in agents}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(
    "uri",
    [
        NOBODYS,
        "agentapi://chat/sessions/no-id/transcript",
        "agentapi://catalog/",
        "file:///etc/passwd",
        "agentapi://chat/sessions?agent=droid",
        "agentapi://chat/sessions?query=a&query=b",
        NOBODYS + ".xml",
    ],
)
async def test_what_is_not_there_is_an_invalid_parameter_with_its_uri(link: Link, uri: str, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
        assert caught.value.error.code == INVALID_PARAMS
        assert caught.value.error.data == {"uri": uri}


def test_a_uri_of_megabytes_is_none_of_a_resource() -> None:
    session = "agentapi://chat/sessions/00000000-0000-7000-8000-000000000000/transcript"
    for uri in ("agentapi://chat/sessions?", "agentapi://chat/sessions?query=", f"{session}?cursor="):
        for part in ("a&", "%C3", "%2"):  # decoded, it would keep all others waiting for seconds
            assert (parse_sessions_uri(uri + part * 1_000_000), parse_transcript_uri(uri + part * 1_000_000)) == (
                None,
            ) * 2
    query = "\N{GRINNING FACE}" * 500
    assert parse_sessions_uri(f"agentapi://chat/sessions?query={quote(query)}") == {"query": query}


@pytest.mark.parametrize("link", LINKS)
async def test_a_forged_cursor_is_an_invalid_parameter(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        session_id = await begin(client, edge)
        for fails in (
            client.list_resources(cursor="forged"),
            client.read_resource("agentapi://chat/sessions?cursor=forged"),
            client.list_tools(cursor="forged"),
            client.list_prompts(cursor="forged"),
            client.list_resource_templates(cursor="forged"),
            client.read_resource(TEMPLATE.format(session_id=session_id) + "?cursor=forged"),
        ):
            with pytest.raises(MCPError) as caught:
                await fails
            assert caught.value.error.code == INVALID_PARAMS


async def test_sessions_whose_titles_fit_come_before_those_that_only_begin_so(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        by_title = await begin_here(edge, f"About {edge.tag}")
        by_opening = await begin_here(edge, f"Something else\n\nIt is about {edge.tag}.")
        asked = {"name": "session_id", "value": edge.tag}
        found = await client.complete(ResourceTemplateReference(uri=TEMPLATE), asked)
        assert found.completion.values == [by_title, by_opening]


@pytest.mark.parametrize("link", LINKS)
async def test_a_session_is_completed_by_its_title_and_an_agent_by_its_name(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        session_id = await begin(client, edge)
        template, prompt = ResourceTemplateReference(uri=TEMPLATE), PromptReference(name="ask_agent")
        by_title = await client.complete(template, {"name": "session_id", "value": edge.tag})
        assert by_title.completion.values == [session_id]
        by_id = await client.complete(template, {"name": "session_id", "value": session_id[:-1]})
        assert by_id.completion.values == [session_id]
        by_name = await client.complete(prompt, {"name": "agent", "value": "gu"})
        assert by_name.completion.values == ["guide"]
        for typed in ("uide", "gudie"):
            assert "guide" in (await client.complete(prompt, {"name": "agent", "value": typed})).completion.values
        typo = f"{edge.tag[:5]}z{edge.tag[6:]}"  # no letter of a tag
        mended = await client.complete(template, {"name": "session_id", "value": typo})
        assert session_id in mended.completion.values
        nothing = await client.complete(prompt, {"name": "message", "value": "x"})
        assert nothing.completion.values == []


async def test_an_agent_is_found_among_more_than_a_page_of_them(seed: Seed) -> None:
    agent = (
        '[agents.a{:03}]\nbackend = "openai"\noptions = {{ base_url = "http://127.0.0.1:9/v1", api_key = "none" }}\n'
    )
    async with seed.started("many-") as server:
        (server.home / "agentapi.toml").write_text("".join(map(agent.format, range(101))))
        async with open_edge(server.home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2025") as client:
            prompt = PromptReference(name="ask_agent")
            found = (await client.complete(prompt, {"name": "agent", "value": "gu"})).completion
            assert (found.values, found.has_more) == (["guide"], False)
            many = (await client.complete(prompt, {"name": "agent", "value": "a"})).completion
            assert (many.values, many.has_more) == ([f"a{number:03}" for number in range(100)], True)


@pytest.mark.parametrize("link", LINKS)
async def test_completions_of_what_does_not_exist_are_refused(link: Link) -> None:
    async with connect(create_server(NoServices(), McpOptions()), link) as client:
        for unknown in (PromptReference(name="nothing"), ResourceTemplateReference(uri="x://{y}")):
            with pytest.raises(MCPError) as caught:
                await client.complete(unknown, {"name": "session_id", "value": ""})
            assert caught.value.error.code == INVALID_PARAMS


@pytest.mark.parametrize("link", LINKS)
async def test_templates_and_prompts_are_listed_and_written_before_the_stores_are_up(link: Link) -> None:
    async with connect(create_server(NoServices(), McpOptions()), link) as client:
        assert "session_id" in (client.instructions or "")
        templates = (await client.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates][:2] == [TEMPLATE, TEMPLATE + ".json"]
        prompts = (await client.list_prompts()).prompts
        assert [prompt.name for prompt in prompts] == ["ask_agent", "continue_session", "sum_up_session"]
        assert all(prompt.description for prompt in prompts)
        written = await client.get_prompt("ask_agent", {"message": "Why?", "agent": "guide"})
        content = written.messages[0].content
        assert isinstance(content, TextContent)
        assert content.text.endswith("Why?")
        assert "agent guide" in content.text
        blank = (await client.get_prompt("ask_agent", {"message": "Why?", "agent": " "})).messages[0].content
        assert isinstance(blank, TextContent)
        assert "Call the chat tool, send" in blank.text


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("ask", {}, "ask_agent"),
        ("ask_agent", {}, "'message'"),
        ("ask_agent", {"message": "x", "agnet": "y"}, "'agnet'"),
    ],
)
async def test_a_prompt_that_cannot_be_written_is_an_invalid_parameter(
    link: Link, name: str, arguments: dict[str, str], said: str
) -> None:
    async with connect(create_server(NoServices(), McpOptions()), link) as client:
        with pytest.raises(MCPError) as caught:
            await client.get_prompt(name, arguments)
        assert caught.value.error.code == INVALID_PARAMS
        assert said in caught.value.error.message


async def test_lists_say_how_long_they_may_be_kept(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        tools, resources = await client.list_tools(), await client.list_resources()
        assert (tools.ttl_ms, tools.cache_scope) == (300_000, "public")
        assert (resources.ttl_ms, resources.cache_scope) == (0, "private")
