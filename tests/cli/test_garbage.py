"""What `serve` leaves to the garbage collector."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

import agentapi_mcp

PROGRAM = """
import atexit, gc, sys
from agentapi_mcp.__main__ import main

def tell():
    print(gc.get_freeze_count() > 50_000, gc.get_threshold()[0] > 700, flush=True)

atexit.register(tell)
sys.argv = ["agentapi-mcp", "serve", "--port", "0"]
main()
"""


@pytest.mark.acceptance
async def test_what_a_server_has_loaded_at_its_start_is_never_visited_again(edge_home: Path) -> None:
    paths = [str(Path(agentapi_mcp.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]  # noqa: TID251  # of this test's process
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM,
        env={"AGENTAPI_HOME": str(edge_home), "PATH": os.defpath, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if b"serves MCP at" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert await process.stdout.read() == b"True True\n"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
