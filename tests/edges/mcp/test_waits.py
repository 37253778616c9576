"""The wait of a call follows the client that asks, and the documentation names each."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from agentapi_mcp.edges.mcp.client.waits import USUAL, WAITS, default_wait
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.testing.http import Steps
from tests.support.connect import call, connect, fields_of, open_edge
from tests.support.peers.openai import OpenAIPeer

DOCS = Path(__file__).parents[3] / "docs" / "clients.md"
ROW = re.compile(r"^\| ([^|]+) \| (?:`([^`|]+)`|[^|`]+) \| [^|]+ \| (\d+) s \|$", re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "option", "seconds"),
    [
        (None, None, 45),
        ("mcp", None, 45),
        ("claude-code", None, 45),
        ("OpenCode", None, 25),
        ("opencode (via mcp-remote 0.15.1)", None, 25),
        ("opencode", 90, 90),
        ("gemini-cli-mcp-client", None, 240),
        ("goose", None, 240),
        ("codename_goose-2", None, 240),
        ("mongoose", None, 45),
        ("gooseberry", None, 45),
        ("goose", 0, 0),
    ],
)
def test_the_wait_fits_the_client_unless_a_setting_says_otherwise(
    name: str | None, option: int | None, seconds: int
) -> None:
    options = McpOptions(default_wait=None if option is None else timedelta(seconds=option))
    assert default_wait(options, name) == timedelta(seconds=seconds)


def test_the_documentation_names_each_client_with_its_wait() -> None:
    rows = [row.groups() for row in ROW.finditer(DOCS.read_text(encoding="utf-8"))]
    assert len(rows) > len(WAITS)
    told = {name: timedelta(seconds=int(seconds)) for _, name, seconds in rows if name}
    for name, wait in told.items():
        assert default_wait(McpOptions(), name) == wait
    assert {word for word in WAITS if any(word in name for name in told)} == set(WAITS)
    assert {int(seconds) for _, name, seconds in rows if not name} == {USUAL.total_seconds()}


async def test_a_call_that_says_how_long_is_answered_then_whoever_asks(edge_home: Path) -> None:
    async with (
        open_edge(edge_home, OpenAIPeer(pace=Steps()), McpOptions(default_wait=timedelta(hours=1))) as edge,
        connect(edge.server, "stdio-2026") as client,
    ):
        asked = f"{edge.tag} [[slow]] [[chunks2]]"
        turn = fields_of(await call(client, "chat", agent="droid", message=asked, wait_seconds="0"))
        assert turn["status"] == "running"
