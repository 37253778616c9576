"""Programs that speak JSON-RPC over stdio: what they say is heard, and nothing of theirs outlives the server."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from anyio.lowlevel import checkpoint

from agentapi_mcp.backends.wire.jsonrpc_stdio import METHOD_NOT_FOUND, JsonRpcError, JsonRpcProcess, Program
from agentapi_mcp.base.errors import BackendError, BackendFault
from tests.support.waiting import wait_until

SOON = timedelta(seconds=25)
ENV = {"PATH": "/usr/bin:/bin"}
# A program with a child of its own, neither of which minds that its stdin ends.
DEAF = """
import json, os, subprocess, sys
child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
print(json.dumps({"method": "here", "params": {"pids": [os.getpid(), child.pid]}}), flush=True)
child.wait()
"""
ECHO = """
import json, sys
print("a line for a person")
print(json.dumps(["no message"]), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "fail":
        print(json.dumps({"id": message["id"], "error": {"code": -32001, "message": "no"}}), flush=True)
    elif message.get("method") == "ask":
        print(json.dumps({"id": "q1", "method": "question", "params": {}}), flush=True)
        print(json.dumps({"id": message["id"], "result": json.loads(sys.stdin.readline())}), flush=True)
    elif message.get("method") == "flood":
        while True:
            sys.stdout.write("x" * 1000000)
    else:
        print(json.dumps({"id": message.get("id"), "result": message}), flush=True)
"""
SERVER = f"""
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from agentapi_mcp.backends.wire.jsonrpc_stdio import JsonRpcProcess, Program

async def main():
    process = await JsonRpcProcess.start(
        Program(command=(sys.executable, "-c", {DEAF!r}), cwd=Path("/"), env={ENV!r})
    )
    process.listen()
    said = await process.receive(timedelta(seconds=25))
    print(said.params["pids"], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def program(script: str) -> Program:
    return Program(command=(sys.executable, "-S", "-E", "-c", script), cwd=Path("/"), env=ENV)


@asynccontextmanager
async def running(script: str) -> AsyncGenerator[JsonRpcProcess]:
    process = await JsonRpcProcess.start(program(script))
    try:
        yield process
    finally:
        await process.aclose(timedelta(seconds=2))


def is_there(pid: int) -> bool:
    """Tell whether a process runs; one that ended and waits for its parent does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks into /proc")


async def test_it_asks_and_is_answered_whatever_else_is_said() -> None:
    async with running(ECHO) as process:
        said = await process.request("anything", {"text": "naïve \u2028 line"}, SOON)
        assert said["params"] == {"text": "naïve \u2028 line"}
        with pytest.raises(JsonRpcError) as caught:
            await process.request("fail", {}, SOON)
        assert caught.value.code == -32001


async def test_questions_are_refused_while_nobody_listens() -> None:
    async with running(ECHO) as process:
        answer = await process.request("ask", {}, SOON)
        assert answer["id"] == "q1"
        assert json.loads(json.dumps(answer))["error"]["code"] == METHOD_NOT_FOUND


async def test_a_message_without_end_is_not_gathered_for_ever() -> None:
    async with running(ECHO) as process:
        with pytest.raises(BackendError) as caught:
            await process.request("flood", {}, SOON)
        assert caught.value.fault is BackendFault.BAD_REPLY


FLOOD = """
import json, sys
sys.stdout.write("".join(json.dumps({"method": "said", "params": {"n": n}}) + "\\n" for n in range(2000)))
sys.stdout.flush()
sys.stdin.read()
"""


async def test_a_program_that_floods_leaves_turns_of_the_loop_to_others() -> None:
    turns, seen = 0, list[int]()

    async def work_beside() -> None:
        nonlocal turns
        while len(seen) < 2000:
            turns += 1
            await checkpoint()

    async with running(FLOOD) as process, asyncio.TaskGroup() as group:
        process.listen()
        group.create_task(work_beside())
        while len(seen) < 2000:
            await process.receive(SOON)
            seen.append(turns)
    assert all(before < after for before, after in pairwise(seen))


async def test_a_message_that_would_cost_ends_the_program() -> None:
    script = 'import sys; sys.stdout.write("[" + "[]," * 100_000 + "1]\\n"); sys.stdout.flush(); sys.stdin.read()'
    async with running(script) as process:
        with pytest.raises(BackendError) as caught:
            await process.request("anything", {}, SOON)
        assert (caught.value.fault, process.has_ended) == (BackendFault.BAD_REPLY, True)


async def test_a_program_that_cannot_be_run_is_named() -> None:
    with pytest.raises(BackendError) as caught:
        await JsonRpcProcess.start(Program(command=("/nowhere/agent-cli",), cwd=Path("/"), env=ENV))
    assert caught.value.fault is BackendFault.BACKEND_MISSING
    assert "agent-cli" in str(caught.value)


async def test_what_asks_learns_that_the_program_ended() -> None:
    async with running("raise SystemExit(0)") as process:
        with pytest.raises(BackendError) as caught:
            await process.request("anything", {}, SOON)
        assert caught.value.fault is BackendFault.CONNECTION


@linux
async def test_closing_ends_the_whole_group_of_a_deaf_program() -> None:
    async with running(DEAF) as process:
        process.listen()
        pids = cast("list[int]", (await process.receive(SOON)).params["pids"])
        await process.aclose(timedelta(seconds=0.1))
        assert wait_until(lambda: not any(map(is_there, pids)))


@linux
async def test_a_killed_server_leaves_nothing_of_a_deaf_program() -> None:
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    pids: list[int] = json.loads(await server.stdout.readline())
    assert all(is_there(pid) for pid in pids)
    os.kill(server.pid, signal.SIGKILL)
    await server.wait()
    wait_until(lambda: not any(map(is_there, pids)))
