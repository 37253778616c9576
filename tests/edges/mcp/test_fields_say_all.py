"""Claude Code and Codex give their models the fields of an answer and no text: each fact of the text is in them."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from agentapi_mcp.base.json_values import as_list, as_object
from agentapi_mcp.core.backends.events import StopReason
from agentapi_mcp.core.conversations.models import EndReason, Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.tools.registry import find_tools
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names
from agentapi_mcp.edges.mcp.tools.turn_results import cancel_result, turn_result
from tests.edges.mcp.test_turn_results import a_turn
from tests.support.connect import blocks_of, call, connect, fields_of, open_edge
from tests.support.databases import Seed
from tests.support.peers.openai import OpenAIPeer
from tests.support.records import leaves

# What the texts say beside facts: names of fields, and the words between.
BETWEEN = """a agent agents and apart as before bills by call checked choices chosen conversation counted cursor default
defaults disabled each earlier elsewhere error every failed fits follows free from had has in is it its last
limit limits list lists member members messages million missing models monthly more next no not nothing of
only or out own per preferences recorded said say server sessions set settings the this to tokens turn turns
unknown users usual what with yet your"""


def words(text: str) -> set[str]:
    """Return the words and numbers of a text; a number is one however it is grouped."""
    return {word.rstrip(".:,/-") for word in re.findall(r"[\w.:,/-]+", re.sub(r"(?<=\d),(?=\d{3})", "", text.lower()))}


def left_out(texts: list[str], fields: dict[str, object]) -> set[str]:
    """Return what the texts say and the fields do not."""
    amounts = (f"{leaf:g} {leaf:.4f}" for leaf in leaves(fields) if isinstance(leaf, float))
    told = " ".join([BETWEEN, json.dumps(fields, ensure_ascii=False).replace("\\n", " "), *amounts])
    return {word for text in texts for word in words(text)} - words(told) - words(told.replace("_", " ")) - {""}


TURNS = {
    "completed": a_turn("Hello."),
    "silent": a_turn(""),
    "cut": replace(a_turn("Hello."), stop_reason=StopReason.LENGTH, warning="A tool failed."),
    "long": a_turn("word " * 40_000),
    "joined": replace(a_turn("Hello."), joined=True, saved=False),
    "running": a_turn("so far", status=TurnStatus.RUNNING),
    "failed": replace(a_turn("so far", status=TurnStatus.FAILED), history_dropped=3),
    "cancelled": a_turn("so far", status=TurnStatus.CANCELLED),
    "given up": replace(a_turn("", status=TurnStatus.CANCELLED), joined=True, end_reason=EndReason.ABANDONED),
    "interrupted": a_turn("so far", status=TurnStatus.INTERRUPTED),
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS.keys())
def test_the_fields_of_a_turn_say_all_that_its_text_says(turn: Turn) -> None:
    for result in (turn_result(turn, ChatRequest(message="hello").sent), cancel_result(turn)):
        fields = fields_of(result)
        assert left_out(blocks_of(result), fields) == set()
        # In the same words, so that a model which gets no more than the fields is told what to do.
        *_, server = blocks_of(result)
        ids = f" · session_id {turn.session_id} · turn_id {turn.id}]"
        assert fields["text"] == server.replace(ids, "]")
        assert next(iter(fields)) == "text"


def test_the_text_of_a_turn_says_no_word_of_the_agent() -> None:
    fields = fields_of(turn_result(a_turn("Obey me.")))
    assert (fields["text"], fields["reply"]) == (
        "[droid (gpt-4o) · 1 token in, 2 out · cost unknown · 1.0 s]",
        "Obey me.",
    )


async def test_the_fields_of_every_tool_say_all_that_its_text_says(seed: Seed) -> None:
    arguments: dict[str, dict[str, object]] = {
        "chat": {"agent": "droid", "message": "[[stops_length]]"},
        "list_models": {"query": "gemini"},
        "set_preference": {"name": "default_agent", "value": "guide"},
        "set_organization": {"default_agent": "guide"},
        "record_interaction": {"title": "Code review", "input_tokens": 1500, "cost_usd": 0.0425},
        "set_budget": {"limit_usd": 0.25, "period": "day"},
        "tag": {"add": ["a tag"], "type": "coding"},
    }
    options = McpOptions(toolsets=frozenset(toolset_names()), default_wait=timedelta(seconds=60))
    async with (
        seed.started("fields-") as server,
        open_edge(server.home, OpenAIPeer(), options) as edge,
        connect(edge.server, "stdio-2026") as client,
    ):
        found = dict[str, set[str]]()
        begun = fields_of(await call(client, "chat", agent="droid", message="[[chunks2]] about horses"))
        needed = {name: begun[name] for name in ("session_id", "turn_id")}
        [budget] = as_list(fields_of(await call(client, "set_budget", limit_usd=5, scope="member"))["budgets"])
        needed["budget_id"] = as_object(budget)["id"]
        for tool in find_tools(options.toolsets):
            wanted = {
                each.name: needed[each.name] for each in tool.spec.arguments if each.required and each.name in needed
            }
            if tool.spec.name == "rate":
                wanted |= {"session_id": needed["session_id"], "rating": 3, "note": "well"}
            result = await client.call_tool(tool.spec.name, wanted | arguments.get(tool.spec.name, {}))
            assert not result.is_error, (tool.spec.name, blocks_of(result))
            found |= {tool.spec.name: left_out(blocks_of(result), fields_of(result))}
    assert not any(found.values()), found
