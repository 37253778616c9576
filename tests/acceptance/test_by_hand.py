"""The program without arguments, where a person has started it and no client."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.test_processes import environ
from tests.support.terminals import terminal

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("key", ["\x04", "\x03"], ids=["Ctrl-D", "Ctrl-C"])
@pytest.mark.parametrize("words", [(), ("--toolsets", "core")], ids=["alone", "with options"])
async def test_a_person_is_told_what_it_is_and_how_to_leave(edge_home: Path, key: str, words: tuple[str, ...]) -> None:
    def act() -> tuple[int, str]:
        with terminal(environ(edge_home), *words) as person:
            person.until("lists the commands.")
            person.type(key)
            return person.leave(), person.seen

    status, seen = await asyncio.to_thread(act)
    assert "This is an MCP server on standard input and output" in seen
    assert "`agentapi-mcp chat`" in seen
    assert "`agentapi-mcp connect`" in seen
    assert "Traceback" not in seen
    assert status in {0, 130, -2}


async def test_a_client_is_told_nothing(edge_home: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentapi_mcp"),
        env=environ(edge_home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate(b"")
    assert (process.returncode, out) == (0, b"")
    assert b"MCP server on standard input" not in err
