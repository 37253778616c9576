"""Real clients from npm start the server by what `connect` wrote into their files."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.test_connect import of, place
from tests.acceptance.test_processes import run
from tests.support import npm_peers

pytestmark = pytest.mark.acceptance


def gemini(modules: Path) -> list[str]:
    return [str(npm_peers.node_bin() / "node"), str(modules / "@google" / "gemini-cli" / "bundle" / "gemini.js")]


def opencode(modules: Path) -> list[str]:
    found = next(modules.glob("opencode-linux-*/bin/opencode"), None)
    if found is None:
        pytest.skip("the pinned package of opencode is for Linux on x64")
    return [str(found)]


@pytest.mark.parametrize(
    ("client", "program", "connected"),
    [("gemini", gemini, "(stdio) - Connected"), ("opencode", opencode, "✓ agentapi")],
    ids=["gemini", "opencode"],
)
async def test_a_client_connects_by_what_was_written(
    client: str, program: Callable[[Path], list[str]], connected: str, edge_home: Path, tmp_path: Path
) -> None:
    words = program(await asyncio.to_thread(npm_peers.installed, "npm_connect"))
    place(client, tmp_path)
    env = of(edge_home, tmp_path, OPENROUTER_API_KEY="sk-or-0123456789")
    status, _, err = await run(env, "connect", client, "--env", "OPENROUTER_API_KEY")
    assert status == 0, err
    process = await asyncio.create_subprocess_exec(
        *(*words, "mcp", "list"),
        env={"HOME": str(tmp_path), "PATH": os.defpath, "GEMINI_CLI_TRUST_WORKSPACE": "true"},
        cwd=tmp_path,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    said = out.decode()
    assert process.returncode == 0, said
    assert connected in said, said
