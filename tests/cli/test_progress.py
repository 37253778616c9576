"""The bar of a long piece of work, in a real terminal."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.support.terminals import started_at_terminal

ROOT = Path(__file__).parents[2]
PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
from agentapi_mcp.cli.progress import progress
with progress("Writing a file whose name is rather long, longer than a row") as bar:
    bar.show(1, 2, "agentapi.audit_events")
"""


@pytest.mark.parametrize("columns", [20, 40, 80])
async def test_a_bar_stays_in_one_row(columns: int) -> None:
    (row,) = [each for each in (await seen("xterm-256color", columns)).split("\r\x1b[K") if each.strip()]
    assert row.startswith(" 50% [")
    assert len(row) < columns


async def test_a_terminal_that_only_prints_gets_a_line() -> None:
    assert re.fullmatch(r"Writing a file .* …\s*", await seen("dumb", 80))


async def seen(kind: str, columns: int) -> str:
    def look() -> str:
        with started_at_terminal({"TERM": kind}, sys.executable, "-c", PROGRAM, columns=columns) as person:
            assert person.leave() == 0
            return person.seen

    return await asyncio.to_thread(look)
