"""What a server leaves to the garbage collector."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

import agentapi_mcp
from tests.support.residents import clients, environ
from tests.support.waiting import wait_until

PROGRAM = """
import atexit, gc, sys
from agentapi_mcp.__main__ import main

def tell():
    print(gc.get_freeze_count() > 50_000, gc.get_threshold()[0] > 700, flush=True)

atexit.register(tell)
sys.argv = ["agentapi-mcp", "serve", "--port", "0"]
main()
"""


# It is imported by every Python that finds it (module site).
HOOK = """
import gc, pathlib, signal, sys

def tell(*_):
    told = gc.get_freeze_count() > 50_000, gc.get_threshold()[0] > 700, sys.modules.get("rich", ...) is None
    pathlib.Path({path!r}).write_text(f"{{told}}\\n")

signal.signal(signal.SIGUSR2, tell)
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


@pytest.mark.acceptance
async def test_nor_is_what_a_shared_server_has_loaded(edge_home: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    (tmp_path / "sitecustomize.py").write_text(HOOK.format(path=str(told)))
    env = environ(edge_home)
    env["PYTHONPATH"] = os.pathsep.join((str(tmp_path), env["PYTHONPATH"]))
    async with clients(env) as here:
        await here.served(env)
        os.kill(here.pid(), signal.SIGUSR2)
        await asyncio.to_thread(wait_until, lambda: told.exists() and told.read_text().endswith("\n"))
    assert told.read_text() == "(True, True, True)\n"
