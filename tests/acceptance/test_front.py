"""The program answers before the server in it is imported; tests hold the import, so that nobody else can answer."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import agentapi_mcp
from agentapi_mcp.edges.mcp.front.answers import CHANGED
from tests.support.front_answers import INITIALIZED, LISTS, initialize, modern, request
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
SOURCE = Path(agentapi_mcp.__file__).parents[1]
# The program, whose import of the server waits for a byte on a descriptor.
HELD = """
import os, sys

gate, sys.argv[1:] = int(sys.argv[1]), sys.argv[2:]

class Hold:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "agentapi_mcp.cli.stdio":
            sys.meta_path.remove(Hold)
            os.read(gate, 1)

sys.meta_path.insert(0, Hold)
from agentapi_mcp.__main__ import main
main()
"""
# The program without what an environment adds to every process, which tells what it has imported when the front starts.
COUNTED = """
import sys
sys.path += sys.argv[1:]
import _thread, os
own = set(sys.modules)

def start_new_thread(*_):
    sys.stdout.write("\\n".join(sorted(set(sys.modules) - own)))
    sys.stdout.flush()
    os._exit(0)

_thread.start_new_thread = start_new_thread
sys.argv[1:] = []
from agentapi_mcp.__main__ import main
main()
"""


def environ(home: Path, **more: str) -> dict[str, str]:
    return {
        "AGENTAPI_HOME": str(home),
        "AGENTAPI_POSTGRES_LINGER_SECONDS": "10",
        "PATH": os.defpath,
        "PYTHONPATH": str(SOURCE),
        **more,
    }


@dataclass
class Program:
    """The program, in which nothing can answer but the front, until it is released."""

    process: asyncio.subprocess.Process
    gate: int
    notifications: list[object] = field(default_factory=list[object])

    async def say(self, *lines: bytes) -> None:
        """Write lines."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(lines))
        await self.process.stdin.drain()

    async def hear(self) -> Any:  # noqa: ANN401  # whatever the server wrote
        """Return the next answer; notifications are put aside."""
        assert self.process.stdout is not None
        while "method" in (message := json.loads(await self.process.stdout.readline())):
            self.notifications.append(message)
        return message

    async def ask(self, line: bytes) -> Any:  # noqa: ANN401  # whatever the server wrote
        """Write a line, and return the next answer."""
        await self.say(line)
        return await self.hear()

    def release(self) -> None:
        """Let the server be imported."""
        os.write(self.gate, b"!")

    async def end(self) -> tuple[bytes, bytes, int | None]:
        """Return what else it writes on stdout and stderr, and its code; stdin is closed."""
        return *await self.process.communicate(b""), self.process.returncode


@asynccontextmanager
async def held(env: Mapping[str, str], *words: str) -> AsyncGenerator[Program]:
    waiting, gate = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HELD, str(waiting), *words,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"AGENTAPI_RESIDENT": "0", **env}, pass_fds=(waiting,), limit=2**20,
    )  # fmt: skip
    os.close(waiting)
    try:
        yield Program(process, gate)
    finally:
        os.close(gate)
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_the_handshake_and_all_lists_are_answered_first_and_calls_by_the_server_then(edge_home: Path) -> None:
    async with held(environ(edge_home)) as program:
        assert (await program.ask(initialize()))["result"]["serverInfo"]["name"] == "agentapi-mcp"
        call = request("tools/call", {"name": "list_agents", "arguments": {}}, "call")
        await program.say(INITIALIZED, call)
        for number, method in enumerate([*LISTS, "ping", "resources/list"]):
            answer = await program.ask(request(method, key=number))
            assert (answer["id"], "result" in answer) == (number, True)
        assert program.notifications == []
        program.release()
        answer = await program.hear()
        assert (answer["id"], answer["result"]["isError"]) == ("call", False)
        assert program.notifications[0] == json.loads(CHANGED)
        assert (await program.end())[1:] == (b"", 0)


async def test_a_client_of_2026_has_its_lists_first_and_its_resources_from_the_server(edge_home: Path) -> None:
    async with held(environ(edge_home)) as program:
        await program.say(modern("resources/list", "resources"))
        for number, method in enumerate(["server/discover", *LISTS]):
            answer = await program.ask(modern(method, number))
            assert (answer["id"], "result" in answer) == (number, True)
        program.release()
        answer = await program.hear()
        assert answer["id"] == "resources"
        assert "agentapi://catalog/agents" in {each["uri"] for each in answer["result"]["resources"]}
        assert (await program.end())[1:] == (b"", 0)


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["--toolsets", "admin"], {}),
        (["--toolsets=admin"], {"AGENTAPI_TOOLSETS": "core"}),
        ([], {"AGENTAPI_TOOLSETS": " admin,"}),
        ([], {"agentapi_toolsets": "admin", "AGENTAPI_TOOLSETS": ""}),
    ],
)
async def test_the_toolsets_are_those_that_the_server_has(
    edge_home: Path, words: Sequence[str], more: Mapping[str, str]
) -> None:
    async with held(environ(edge_home, **more), *words) as program:
        await program.ask(initialize())
        early = await program.ask(request("tools/list"))
        program.release()
        await program.ask(request("resources/templates/list", {"_meta": {"a": 1}}))  # the server answers
        assert await program.ask(request("tools/list")) == early
        assert "get_organization" in {tool["name"] for tool in early["result"]["tools"]}


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_program_while_it_starts(edge_home: Path, sign: signal.Signals) -> None:
    async with held(environ(edge_home)) as program:
        await program.ask(initialize())
        program.process.send_signal(sign)
        assert await program.process.wait() == 0
        assert (await program.end())[:2] == (b"", b"")


async def test_no_signal_is_handled_in_the_thread_of_the_front(edge_home: Path) -> None:
    async with held(environ(edge_home)) as program:
        await program.ask(initialize())
        wanted = sum(1 << sign - 1 for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD))
        # The thread may answer before the one that started it takes signals again.
        wait_until(lambda: not blocked_signals(program.process.pid)[program.process.pid] & wanted)
        blocked = blocked_signals(program.process.pid)
        assert {mask & wanted for task, mask in blocked.items() if task != program.process.pid} == {wanted}


def blocked_signals(pid: int) -> dict[int, int]:
    """Return the mask of blocked signals of every thread of a process."""
    return {
        int(task.name): int(line.split()[1], 16)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("SigBlk:")
    }


async def test_a_client_that_leaves_while_the_program_starts_ends_it(edge_home: Path) -> None:
    async with held(environ(edge_home)) as program:
        await program.ask(initialize())
        assert program.process.stdin is not None
        program.process.stdin.close()
        program.release()
        assert await program.end() == (b"", b"", 0)


async def test_a_server_that_does_not_start_says_why_to_all_who_wait(edge_home: Path) -> None:
    async with held(environ(edge_home, AGENTAPI_WAIT_SECONDS="soon")) as program:
        assert "result" in await program.ask(initialize())
        call = request("tools/call", {"name": "chat", "arguments": {"message": "x" * 20_000}}, "é")
        await program.say(INITIALIZED, call, b"no JSON\n", request("tools/call", {"name": "list_agents"}, 7))
        program.release()
        out, err, status = await program.end()
        answers = [json.loads(line) for line in out.splitlines()]
        why = "A setting is wrong: AGENTAPI_WAIT_SECONDS must be a whole number."
        assert [answer["id"] for answer in answers] == ["é", 7]
        assert {answer["error"]["message"] for answer in answers} == {f"The server does not start: {why}"}
        assert (err.decode(), status) == (f"agentapi-mcp: {why}\n", 3)


async def test_next_to_nothing_is_imported_before_the_first_answer() -> None:
    env = {"PATH": os.defpath, "AGENTAPI_RESIDENT": "0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", COUNTED, str(SOURCE), stdout=subprocess.PIPE, env=env
    )
    out, _ = await process.communicate()
    modules = out.decode().split()
    ours = {name for name in modules if name.startswith("agentapi_mcp")}
    parts = (
        "",
        ".__main__",
        ".edges",
        ".edges.mcp",
        *(f".edges.mcp.front{part}" for part in ("", ".answers", ".messages", ".thread")),
        *(f".resident{part}" for part in ("", ".entry", ".environment")),
    )
    assert ours == {f"agentapi_mcp{part}" for part in parts}
    assert {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names} == ours
    assert not {"asyncio", "click", "dataclasses", "logging", "pathlib", "subprocess", "threading", "typing"} & {
        *modules
    }
    # `json` brings most of them, with `re` and `enum`.
    assert len(modules) <= 60
