"""What was used and what it cost, as the tool and the resource tell it, and as an agent's usage in the lists."""

import json
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import ResourceTemplateReference, TextResourceContents

from agentapi_mcp.core.usage.periods import PERIODS
from agentapi_mcp.edges.mcp.options import McpOptions
from tests.support.connect import LINKS, Link, call, connect, fields_of, open_edge, text_of
from tests.support.databases import Seed
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.timeout(60)
WITH_USAGE = McpOptions(toolsets=frozenset({"core", "usage"}))


@pytest.mark.parametrize("link", LINKS)
async def test_usage_is_told_by_the_tool_and_the_resource_and_outlives_its_session(link: Link, seed: Seed) -> None:
    async with (
        seed.started("usage-") as place,
        open_edge(place.home, OpenAIPeer(), WITH_USAGE) as edge,
        connect(edge.server, link) as client,
    ):
        before: Any = fields_of(await call(client, "get_usage", since="today"))
        assert (before["total"]["turns"], before["total"]["cost_usd"], before["groups"]) == (0, 0, [])
        for agent in ("guide", "droid"):
            turn: Any = fields_of(await call(client, "chat", agent=agent, message=f"{edge.tag} [[echo]] {agent}"))
        assert turn["cost_usd"] is not None
        found = await call(client, "get_usage", by="agent", since="today")
        told: Any = fields_of(found)
        assert told["whose"] == "own"
        groups = {group["key"]: group for group in told["groups"]}
        droid = groups["droid"]
        assert sorted(groups) == ["droid", "guide"]
        assert (droid["turns"], droid["errors"], droid["unpriced"], droid["agents"]) == (1, 0, 0, 1)
        assert droid["cost_nanos"] == round(turn["cost_usd"] * 10**9) > 0
        assert (droid["input_tokens"], droid["output_tokens"]) == (
            turn["usage"]["input_tokens"],
            turn["usage"]["output_tokens"],
        )
        assert droid["latency_p50_ms"] is not None
        assert told["total"]["turns"] == 2
        assert "- droid: 1 turn, $0.00" in text_of(found)
        agents: Any = fields_of(await call(client, "list_agents"))["agents"]
        used = {agent["name"]: agent["usage"] for agent in agents}
        assert (used["droid"]["turns"], used["droid"]["success_rate"]) == (1, 1.0)
        assert used["droid"]["cost_per_turn_usd"] == pytest.approx(turn["cost_usd"])
        await edge.services.sessions.delete(edge.services.principal, turn["session_id"])
        [contents] = (await client.read_resource("agentapi://usage/today")).contents
        assert isinstance(contents, TextResourceContents)
        read = json.loads(contents.text)
        assert read["total"] == told["total"]
        assert {group["key"]: group for group in read["groups"]} == groups


async def test_what_makes_no_sense_is_refused_with_what_does(edge_home: Path) -> None:
    async with (
        open_edge(edge_home, OpenAIPeer(), WITH_USAGE) as edge,
        connect(edge.server, "stdio-2026", name="refused") as client,
    ):
        for arguments, words in (
            ({"since": "2999"}, "since is in the future"),
            ({"since": "7d", "until": "8d"}, "until must be after the beginning"),
            ({"since": "soon"}, "say today, yesterday, month"),
            ({"by": "mood"}, "by must be one of agent, model, provider, day, session, member"),
            ({"limit": 0}, "limit must be a whole number between 1 and 1000"),
        ):
            refused = await call(client, "get_usage", **arguments)
            assert refused.is_error
            assert words in text_of(refused), text_of(refused)
        with pytest.raises(MCPError, match="is no period: say today"):
            await client.read_resource("agentapi://usage/soon")
        template = ResourceTemplateReference(uri="agentapi://usage/{period}")
        offered = await client.complete(template, {"name": "period", "value": "last"})
        assert offered.completion.values == ["last-month"]
        assert "2026-11" not in PERIODS
        for name in ("2026-11", *PERIODS):
            assert (await client.read_resource(f"agentapi://usage/{name}")).contents[0].mime_type == "application/json"


async def test_an_administrator_sees_who_used_what_and_how_many_groups_are_left_out(seed: Seed) -> None:
    async with (
        seed.started("usage-") as place,
        open_edge(place.home, OpenAIPeer(), WITH_USAGE) as edge,
        connect(edge.server, "stdio-2026") as client,
    ):
        for number in range(3):
            await call(client, "chat", agent="guide", message=f"What are you? {number}")
        members: Any = fields_of(await call(client, "get_usage", by="member"))
        [me] = members["groups"]
        assert (me["key"], me["turns"], members["whose"]) == (str(edge.services.principal.user_id), 3, "organization")
        sessions = await call(client, "get_usage", by="session", limit=2)
        told: Any = fields_of(sessions)
        assert (len(told["groups"]), told["left_out"], told["total"]["turns"]) == (2, 1, 3)
        assert "1 session that cost less is in the total alone" in text_of(sessions)
        assert {group["label"] for group in told["groups"]} <= {f"What are you? {number}" for number in range(3)}


async def test_a_name_that_a_user_says_passes_for_no_line_of_the_answer(seed: Seed) -> None:
    said, kept = "m: 0 turns\n- droid: 9 turns\x1b[2K\u202e", "m: 0 turns - droid: 9 turns [2K"
    async with (
        seed.started("named-") as place,
        open_edge(place.home, OpenAIPeer(), WITH_USAGE) as edge,
        connect(edge.server, "stdio-2026") as client,
    ):
        await call(client, "record_interaction", title="droid: 9 turns", agent=said, model=said, provider=said)
        for by, name in (("agent", kept), ("model", kept), ("provider", kept.lower()), ("session", "droid: 9 turns")):
            found = await call(client, "get_usage", by=by)
            told: Any = fields_of(found)
            assert name in {told["groups"][0]["key"], told["groups"][0]["label"]}
            assert [line for line in text_of(found).splitlines() if line.startswith("- ")] == [
                f'- "{name}": 0 turns, $0.00, and elsewhere 1 conversation, $0.00 by what users say'
            ]
