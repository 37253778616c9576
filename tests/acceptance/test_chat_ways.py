"""One message from a script: directly and through the MCP server, what is printed is the same."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentapi_mcp.base.json_records import record_fields
from agentapi_mcp.core.conversations.models import TurnCost
from tests.acceptance.test_processes import environ, run
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.acceptance
WAYS = [("chat",), ("chat", "--via-mcp")]
TIMES = {field.name for field in record_fields(TurnCost) if field.kind is timedelta}
OWN = {"session_id", "turn_id", "transcript_uri", "route", "next_step"} | TIMES
SOONER = {"saved"}  # a tool answers when the agent does, and the database may hear of it a moment later


@pytest.mark.parametrize("message", ["[[echo]] hello", "[[e401]]", "[[chunks15000]]"])
async def test_both_ways_print_the_same_object(message: str, edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer)
        turns: list[dict[str, Any]] = []
        for words in WAYS:
            _, out, err = await run(env, *words, "--agent", "droid", "--json", message)
            assert out, err
            turns.append(json.loads(out))
        here, through = turns
        assert list(here) == list(through)
        common = here.keys() - OWN - SOONER
        assert {name: here[name] for name in common} == {name: through[name] for name in common}
        assert here["reply_truncated"] is False
        shown = json.loads((await run(env, "turns", "show", through["turn_id"]))[1])
        assert shown == through | {"saved": True}


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("[[e401]]", "failed (auth; trying again does not help): "),
        ("[[later]]", "failed (overloaded; trying again may help in 7 s): "),
        ("[[badjson]]", "failed (bad_reply; trying again may help): "),
    ],
)
async def test_a_failed_turn_tells_its_kind_and_whether_to_try_again(
    words: tuple[str, ...], message: str, kind: str, edge_home: Path
) -> None:
    async with OpenAIPeer() as peer:
        status, out, err = await run(environ(edge_home, peer), *words, "--agent", "droid", message)
        assert (status, out) == (1, "")
        assert [line for line in err.splitlines() if line.startswith(f"agentapi-mcp: {kind}")], err


async def test_one_session_is_gone_on_with_not_two(edge_home: Path) -> None:
    status, out, err = await run(environ(edge_home), "chat", "--continue", "--session", "0123456789", "hello")
    assert (status, out) == (2, "")
    assert "say one of them" in err
