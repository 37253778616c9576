"""What `tools/list` costs, promises and leaves out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from mcp.shared.inbound import x_mcp_header_map
from mcp_types import Tool

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.edges.mcp.tools.registry import find_tools
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names
from tests.support.connect import LINKS, Link, connect
from tests.support.records import without_new

ROOT = Path(__file__).parents[3]
NAMES = [
    "chat",
    "get_turn",
    "cancel_turn",
    "list_agents",
    "list_models",
    "list_sessions",
    "get_transcript",
    "get_health",
]
FOR_RESPOND = (400, 1_300)  # bytes that the tool which answers an agent's question will need, without and with output


class NoServices:
    """The stores do not come up."""

    def find(self) -> None:
        """Nothing is up."""

    async def services(self) -> Services:
        """Say why not."""
        raise StoreUnavailableError("The database is not up yet.")


async def tools(link: Link) -> list[Tool]:
    async with connect(create_server(NoServices(), McpOptions()), link) as client:
        return (await client.list_tools()).tools


def compact(value: object) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, part in cast("dict[str, object]", value).items():
            yield name, part
            yield from parts(part)
    elif isinstance(value, list):
        for part in cast("list[object]", value):
            yield from parts(part)


@pytest.mark.parametrize("link", LINKS)
async def test_the_eight_tools_are_listed_in_one_order_before_the_stores_are_up(link: Link) -> None:
    listed = [tool.name for tool in await tools(link)]
    assert listed == NAMES, "the toolset `core` is full: put a new tool into another toolset"
    assert await tools(link) == await tools(link)


@pytest.mark.parametrize("link", LINKS)
async def test_the_list_of_tools_keeps_its_budget(link: Link) -> None:
    listed = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in await tools(link)]
    without_outputs = [{name: part for name, part in tool.items() if name != "outputSchema"} for tool in listed]
    # Every client pays for it with its model's context, in every conversation.
    left, left_with_outputs = (0, 0) if "respond" in NAMES else FOR_RESPOND
    assert compact(without_outputs) <= 5_400 - left, "the toolset `core` is full: put a new tool into another toolset"
    assert compact({"tools": listed}) <= 13_500 - left_with_outputs, "shorten the model of the result"


@pytest.mark.parametrize(
    "words",
    [
        *("AI model", "coding agent", "review", "second opinion", "code", "research"),
        *("Claude", "GPT", "Gemini", "Codex", "Droid", "n8n"),
    ],
)
async def test_a_clients_search_for_tools_finds_chat_by_what_people_ask_for(words: str) -> None:
    """Claude Code shows its model the names of tools alone, until a search over their descriptions finds them."""
    [about] = [tool.description for tool in await tools("stdio-2026") if tool.name == "chat"]
    assert words in (about or "")


async def test_what_an_agent_says_is_not_put_into_a_file() -> None:
    """Claude Code does so with more than 50,000 characters, unless the tool asks for more."""
    asking = {tool.name: tool.meta for tool in await tools("stdio-2026") if tool.meta}
    assert asking.keys() == {"chat", "get_turn", "get_transcript"}
    assert all(meta == {"anthropic/maxResultSizeChars": 500_000} for meta in asking.values())


async def test_only_tools_that_change_something_say_whether_twice_is_once() -> None:
    """By the specification it means nothing where a tool only reads, and every client pays for it."""
    for tool in await tools("stdio-2026"):
        assert tool.annotations is not None
        assert (tool.annotations.idempotent_hint is None) is tool.annotations.read_only_hint


async def test_every_tool_has_title_description_annotations_and_both_schemas() -> None:
    for tool in await tools("stdio-2026"):
        assert tool.title
        assert tool.description
        hints = tool.annotations
        assert hints is not None
        assert None not in (hints.read_only_hint, hints.destructive_hint, hints.open_world_hint)
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"


async def test_only_chat_and_cancel_turn_change_anything() -> None:
    changing = {t.name for t in await tools("stdio-2026") if t.annotations and not t.annotations.read_only_hint}
    assert changing == {"chat", "cancel_turn"}


async def test_schemas_hold_no_references_and_arguments_are_flat() -> None:
    for tool in await tools("stdio-2026"):
        names = {name for name, _ in parts([tool.input_schema, tool.output_schema])}
        assert not names & {"$ref", "$defs", "allOf"}
        for argument in tool.input_schema["properties"].values():
            assert argument["type"] in {"string", "integer", "number", "boolean"}
            assert argument["description"]


@pytest.mark.parametrize("link", LINKS)
async def test_only_the_list_of_resources_is_said_to_change(link: Link) -> None:
    async with connect(create_server(NoServices(), McpOptions()), link) as client:
        able = client.server_capabilities
    assert able.tools is not None
    assert able.prompts is not None
    assert able.resources is not None
    assert (able.tools.list_changed, able.prompts.list_changed, able.resources.list_changed) == (False, False, True)
    assert able.resources.subscribe


async def test_the_cost_of_a_turn_has_the_schema_that_programs_know() -> None:
    [schema] = [tool.output_schema for tool in await tools("stdio-2026") if tool.name == "chat"]
    assert schema is not None
    text, number = {"type": "string"}, {"type": "integer"}
    text_or_null, number_or_null = {"type": ["string", "null"]}, {"type": ["integer", "null"]}
    counts = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
    step = {
        "agent": text,
        "backend": text,
        "model": text_or_null,
        "outcome": text,
        "milliseconds": number,
        "key": text,
    }
    known = {
        "usage": {"properties": dict.fromkeys(counts, number_or_null), "type": "object"},
        "cost_usd": {"type": ["number", "null"]},
        "cost_source": text_or_null,
        "billing_may_go_on": {"type": "boolean"},
        "latency_ms": number_or_null,
        "time_to_first_token_ms": number_or_null,
        "model_used": text_or_null,
        "provider": text_or_null,
        "route": {"items": {"properties": step, "type": "object"}, "type": "array"},
    }
    assert without_new(schema["properties"], known) == known
    assert {"usage", "billing_may_go_on", "route"} <= set(schema["required"])


async def test_tool_and_pages_say_where_only_a_key_protects() -> None:
    [about] = [tool.description for tool in await tools("stdio-2026") if tool.name == "chat"]
    pages = [(ROOT / name).read_text("utf-8") for name in ("README.md", "docs/turns.md")]
    for text in (about or "", *pages):
        said = " ".join(text.split()).lower()
        assert "behind a proxy that may swallow answers, only an idempotency" in said


def test_no_argument_is_a_header_too_which_the_server_tells_the_sdk() -> None:
    options = McpOptions(toolsets=frozenset(toolset_names()))
    listed = [tool.spec.listed() for tool in find_tools(options.toolsets)]
    assert listed
    assert not any(x_mcp_header_map(tool.input_schema) for tool in listed)
    lookup = create_server(NoServices(), options).get_tool_input_schema
    assert lookup is not None
    assert [lookup(tool.name) for tool in listed] == [None] * len(listed)
