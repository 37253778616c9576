"""Commands that tests run in a fork: each is a process of its own."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.support.command_runs import run_command
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


def opened_for_writing(fifo: Path) -> int | None:
    """Open a named pipe; None while nobody reads it."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def is_read(pipe: int) -> bool:
    """Tell whether somebody still has the other end open."""
    try:
        os.write(pipe, b"#")
    except BrokenPipeError:
        return False
    return True


async def test_commands_at_once_have_environments_streams_and_statuses_of_their_own(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        runs = [
            group.create_task(run_command({"AGENTAPI_HOME": str(tmp_path), "AGENTAPI_CONFIG": name}, "agents", "list"))
            for name in ("one.toml", "other.toml")
        ]
        version = group.create_task(run_command({}, "--version"))
    for run, name, other in zip(runs, ("one", "other"), ("other", "one"), strict=True):
        assert (run.result().status, run.result().out) == (3, "")
        assert f"{name}.toml" in run.result().err
        assert f"{other}.toml" not in run.result().err
    assert (version.result().status, version.result().err) == (0, "")
    assert version.result().out.startswith("agentapi-mcp, version ")


async def test_a_command_that_nobody_waits_for_any_more_is_killed(tmp_path: Path) -> None:
    fifo = tmp_path / "agentapi.toml"
    os.mkfifo(fifo)  # which the command reads, and never to its end
    environ = {"AGENTAPI_HOME": str(tmp_path), "AGENTAPI_CONFIG": str(fifo)}
    running = asyncio.ensure_future(run_command(environ, "agents", "list"))
    pipe = await asyncio.to_thread(wait_until, lambda: opened_for_writing(fifo))
    assert pipe is not None
    running.cancel()
    await asyncio.wait([running])
    assert await asyncio.to_thread(wait_until, lambda: not is_read(pipe))
    os.close(pipe)
