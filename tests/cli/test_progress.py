"""The bar of a long piece of work, in a real terminal."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from agentapi_mcp.cli.progress import Progress
from tests.support.terminals import started_at_terminal

ROOT = Path(__file__).parents[2]
PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
from agentapi_mcp.cli.progress import progress
with progress("Writing a file whose name is rather long, longer than a row") as bar:
    bar.show(1, 2, "agentapi.audit_events")
"""
WIDE = PROGRAM.replace("Writing a file", "書きます書きます書きます書きます")


@pytest.mark.parametrize("columns", [20, 40, 80])
async def test_a_bar_stays_in_one_row(columns: int) -> None:
    (row,) = [each for each in (await seen("xterm-256color", columns)).split("\r\x1b[K") if each.strip()]
    assert row.startswith(" 50% [")
    assert len(row) < columns
    (row,) = [each for each in (await seen("xterm-256color", columns, WIDE)).split("\r\x1b[K") if each.strip()]
    assert len(row) + sum(each in "書きます" for each in row) < columns


async def test_a_terminal_that_only_prints_gets_a_line() -> None:
    assert re.fullmatch(r"Writing a file .* …\s*", await seen("dumb", 80))


async def test_where_lines_are_wanted_the_cursor_never_moves() -> None:
    said = await seen("xterm-256color", 80, PROGRAM.replace('longer than a row")', 'too", is_lines=True)'))
    assert re.fullmatch(r"Writing a file [^\x1b\r]* …\r\n", said)


def test_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter(range(0, 100, 4))
    bar = Progress("Writing", is_lines=True, now=lambda: float(next(seconds)))
    for done in range(7):
        bar.show(done, 10, f"table {done}")
    bar.clear()
    assert capsys.readouterr().err == "Writing: 20% (table 2)\nWriting: 50% (table 5)\n"


async def seen(kind: str, columns: int, program: str = PROGRAM) -> str:
    def look() -> str:
        with started_at_terminal({"TERM": kind}, sys.executable, "-c", program, columns=columns) as person:
            assert person.leave() == 0
            return person.seen

    return await asyncio.to_thread(look)
