"""The program as its users run it: real processes, killed and shared."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from mcp import Client, StdioServerParameters

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Steps
from tests.support.command_runs import CommandRun, run_command
from tests.support.connect import call, fields_of
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.acceptance
MESSAGE = "[[slow]] [[chunks9]] kept"
NOBODYS = "6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01"
COMMAND = [sys.executable, "-m", "agentapi_mcp"]


def environ(home: Path, peer: OpenAIPeer | None = None) -> dict[str, str]:
    """Make the environment of a process on this home."""
    given = {"AGENTAPI_HOME": str(home), "AGENTAPI_POSTGRES_LINGER_SECONDS": "10", "PATH": os.defpath}
    given["AGENTAPI_RESIDENT"] = "0"  # what a test starts ends with it; tests/resident is on the server that does not
    if peer is not None:
        given |= {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
    return given


async def run(env: Mapping[str, str], *words: str, stdin: str | bytes = "") -> CommandRun:
    """Run a command to its end."""
    return await run_command(env, *words, stdin=stdin if isinstance(stdin, bytes) else stdin.encode())


@asynccontextmanager
async def client(env: Mapping[str, str]) -> AsyncGenerator[Client]:
    """Start a server as an MCP client does, and connect to it."""
    server = StdioServerParameters(command=sys.executable, args=["-m", "agentapi_mcp"], env=dict(env))
    async with Client(server) as connected:
        yield connected


async def test_a_piped_question_is_answered_alone_on_stdout(edge_home: Path) -> None:
    for words in (("chat",), ("chat", "--via-mcp")):
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ(edge_home),
        )
        out, err = [said.decode() for said in await process.communicate(b"how do I add OpenRouter?\n")]
        assert process.returncode == 0, err
        assert "OPENROUTER_API_KEY" in out
        assert "session" not in out.splitlines()[-1]
        assert "free" in err


async def test_a_chat_with_a_provider_has_its_bill_in_the_transcript(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer)
        status, out, err = await run(env, "chat", "--agent", "droid", "--json", "hello", "there")
        assert status == 0, err
        turn = json.loads(out)
        assert turn["cost_source"] == "provider"
        status, out, err = await run(env, "sessions", "show", turn["session_id"])
        assert status == 0, err
        assert "hello there" in out
        assert "tokens in" in out
        status, _, _ = await run(env, "chat", "--continue", "--agent", "droid", "more")
        assert status == 0
        status, out, _ = await run(env, "sessions", "export", turn["session_id"], "--format", "json")
        assert [m["role"] for m in json.loads(out)["messages"]] == ["user", "assistant", "user", "assistant"]
        assert (await run(env, "sessions", "rename", turn["session_id"], "A better title"))[0] == 0
        assert "A better title" in (await run(env, "sessions", "list"))[1]
        assert (await run(env, "sessions", "delete", turn["session_id"], "--yes"))[0] == 0
        status, _, err = await run(env, "sessions", "show", turn["session_id"])
        assert status == 2
        assert "no such session" in err


async def test_both_ways_to_chat_show_the_same_bill(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        env, bills = environ(edge_home, peer), list[str]()
        for words in (("chat",), ("chat", "--via-mcp")):
            status, _, err = await run(env, *words, "--agent", "droid", stdin="hello\n")
            assert status == 0, err
            bills.append(err.splitlines()[-1])
    assert "tokens in" in bills[0]
    assert "e-" not in bills[0].partition("session")[0]
    shapes = [re.sub(r"[0-9.]+ s|session [0-9a-f-]+", "", bill) for bill in bills]
    assert shapes[0] == shapes[1]


async def test_what_cannot_be_meant_is_refused_and_changes_nothing(edge_home: Path) -> None:
    env = environ(edge_home)
    status, out, err = await run(env, "chat", "--agent", "guide", "--json", "hello")
    session = json.loads(out)["session_id"]
    for words, stdin, says in (
        (("chat",), b"caf\xe9", "not UTF-8 text, from byte 3"),
        (("chat", "--via-mcp"), b"\xff\xfe\x00", "not UTF-8 text, from byte 0"),
        (("sessions", "export", session, "--output", "/nowhere/x.md"), b"", "/nowhere/x.md cannot be written"),
        (("sessions", "delete", session), b"", "say --yes"),
        (("sessions", "show", session[:5]), b"", "6 characters"),
        (("sessions", "show", "zzzzzzz"), b"", "There is no session zzzzzzz;"),
        (("sessions", "show", NOBODYS), b"", "no such session. `agentapi-mcp sessions list`"),
        (("chat", "--session", "x", "hello"), b"", "x is too short for the id of a session"),
        (("turns", "cancel", NOBODYS), b"", "no such turn. `agentapi-mcp "),
    ):
        status, _, err = await run(env, *words, stdin=stdin)
        assert status == 2, err
        assert says in err
        assert "Traceback" not in err
    status, out, err = await run(env, "sessions", "show", session[-8:])
    assert (status, session in out) == (0, True), err


async def test_a_failing_agent_and_an_unknown_one_have_their_exit_status(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer)
        status, _, err = await run(env, "chat", "--agent", "droid", "[[e402]]")
        assert status == 1
        assert "credit" in err
        status, _, err = await run(env, "chat", "--agent", "nobody", "hello")
        assert status == 2
        assert "There is no agent 'nobody'; there are: " in err
        status, _, err = await run(env, "chat", stdin=" \n")
        assert status == 2
        assert "stdin" in err


async def test_a_killed_server_leaves_the_message_and_the_text_so_far_and_asks_nothing_twice(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        env = environ(edge_home, peer)
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "chat", "--agent", "droid", "--idempotency-key", "killed-1", MESSAGE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env,
        )  # fmt: skip
        steps.release(3)
        assert process.stdout is not None
        seen = (await process.stdout.read(4)).decode()
        async with open_app(Settings(home=edge_home, postgres_linger_seconds=10), env) as app:
            server = await app.services_provider.services()
            async with asyncio.timeout(20):
                while not (turn := (await server.turns.recent(server.principal, 1))[0]).reply.startswith(seen):
                    continue
            process.send_signal(signal.SIGKILL)
            await process.wait()
            request = ChatRequest(message=MESSAGE, agent="droid", idempotency_key="killed-1")
            again = await server.turns.chat(server.principal, request, wait=timedelta(seconds=40))
            assert again.id == turn.id
            assert again.status is TurnStatus.INTERRUPTED
            assert again.reply.startswith(seen)
            assert again.message == MESSAGE
            transcript = await server.sessions.transcript(server.principal, str(again.session_id))
            assert [message.content for message in transcript.messages] == [MESSAGE, again.reply]
        assert len(peer.exchanges) == 1


async def test_three_servers_at_once_on_one_fresh_home_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    del tmp_path_factory
    home = Path(f"/tmp/agentapi-three-{os.getpid()}")  # noqa: S108  # the account lent by root must reach it
    env = environ(home)

    async def ask(question: str) -> object:
        async with client(env) as connected:
            return fields_of(await call(connected, "chat", agent="guide", message=question))["status"]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(f"question {number}: how do I add OpenRouter?")) for number in range(3)]
    assert [task.result() for task in tasks] == ["completed"] * 3
    status, out, _ = await run(env, "migrate", "--status")
    assert status == 0
    assert "not yet" not in out
    assert len((await run(env, "sessions", "list"))[1].splitlines()) == 1 + 3


async def test_a_turn_outlives_its_client_and_the_same_message_gets_its_answer(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        env = environ(edge_home, peer)
        asked = {"agent": "droid", "message": f"{uuid4()} [[slow]] [[chunks2]]"}
        first = await started(env)
        await send(first, "tools/call", {"name": "chat", "arguments": asked})
        await peer.received(1, path="/api/v1/chat/completions")
        assert first.stdin is not None
        first.stdin.close()  # the client has gone
        second = await started(env)
        await send(second, "tools/call", {"name": "chat", "arguments": asked})
        steps.release(20)
        assert second.stdout is not None
        answer = json.loads(await second.stdout.readline())["result"]["structuredContent"]
        assert (answer["status"], answer["joined"]) == ("completed", True)
        # It has nothing more to do, and ends.
        assert await first.wait() == 0
        assert second.stdin is not None
        second.stdin.close()
        assert await second.wait() == 0
        assert len([each for each in peer.exchanges if each.path == "/api/v1/chat/completions"]) == 1


async def test_an_answer_that_nobody_read_over_stdio_is_given_to_who_asks_again(edge_home: Path) -> None:
    ours, theirs = os.pipe()
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer)
        process = await started(env, stdout=theirs)
        await asyncio.to_thread(os.read, ours, 60_000)
        asked = {"agent": "droid", "message": f"{uuid4()} hello"}
        await send(process, "tools/call", {"name": "chat", "arguments": asked}, 2)
        first = json.loads(await asyncio.to_thread(os.read, ours, 60_000))["result"]["structuredContent"]
        # Its answer is more than a pipe takes, and its reader does not come for the rest.
        asked = {"session_id": first["session_id"], "message": f"{uuid4()} {'long ' * 30_000}[[echo]]"}
        await send(process, "tools/call", {"name": "chat", "arguments": asked}, 3)
        await asyncio.to_thread(os.read, ours, 1)
        other = await started(env, limit=1_000_000)
        await send(other, "tools/call", {"name": "chat", "arguments": asked}, 2)
        assert other.stdout is not None
        again = json.loads(await other.stdout.readline())["result"]["structuredContent"]
        assert (again["status"], again["joined"]) == ("completed", True)
        assert len([each for each in peer.exchanges if each.path == "/api/v1/chat/completions"]) == 2
        for each in (other, process):
            each.kill()
        os.close(ours)
        os.close(theirs)
        for each in (other, process):
            await each.wait()


async def test_a_call_that_timed_out_over_stdio_is_answered_by_the_turn_that_ran_on(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        process = await started(environ(edge_home, peer))
        tag = uuid4()
        timed_out, stopped = [
            {"name": "chat", "arguments": {"agent": "droid", "message": f"{tag} {words} [[slow]] [[chunks2]]"}}
            for words in ("timed out", "stopped")
        ]
        for number, asked, reason in ((2, timed_out, "timed out after 5.0s"), (3, stopped, "caller cancelled")):
            await send(process, "tools/call", asked, number)
            exchange = await peer.received(number - 1, path="/api/v1/chat/completions")
            await send(process, "notifications/cancelled", {"requestId": number, "reason": reason}, None)
        await exchange.gone.wait()
        steps.release(20)
        await send(process, "tools/call", timed_out, 4)
        assert process.stdout is not None
        answer = json.loads(await process.stdout.readline())
        assert answer["id"] == 4
        turn = answer["result"]["structuredContent"]
        assert (turn["status"], turn["joined"]) == ("completed", True)
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


async def test_a_server_whose_client_is_gone_obeys_a_signal(edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        process = await started(environ(edge_home, peer))
        message = f"{uuid4()} [[slow]] [[chunks9]]"
        await send(process, "tools/call", {"name": "chat", "arguments": {"agent": "droid", "message": message}})
        exchange = await peer.received(1, path="/api/v1/chat/completions")
        assert process.stdin is not None
        process.stdin.close()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        await exchange.gone.wait()


async def test_a_server_whose_output_is_closed_ends_without_a_traceback(edge_home: Path) -> None:
    ours, theirs = os.pipe()
    process = await started(environ(edge_home), stdout=theirs)
    os.close(theirs)
    os.close(ours)
    await send(process, "ping", {})
    assert process.stderr is not None
    assert b"Traceback" not in await process.stderr.read()
    assert await process.wait() == 0


async def test_a_server_whose_client_is_gone_does_not_wait_for_it_to_read(edge_home: Path) -> None:
    ours, theirs = os.pipe()
    async with OpenAIPeer() as peer:
        process = await started(environ(edge_home, peer), stdout=theirs)
        await asyncio.to_thread(os.read, ours, 60_000)
        # More than a pipe takes.
        asked = {"agent": "droid", "message": f"{uuid4()} {'long ' * 30_000}[[echo]]"}
        await send(process, "tools/call", {"name": "chat", "arguments": asked}, 3)
        await asyncio.to_thread(os.read, ours, 1)
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0
    os.close(ours)
    os.close(theirs)


async def started(
    env: Mapping[str, str], stdout: int = subprocess.PIPE, *, limit: int = 65_536
) -> asyncio.subprocess.Process:
    """Start a server over stdio, and shake hands."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, env=dict(env), limit=limit
    )
    client = {"name": "t", "version": "1"}
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    await send(process, "initialize", hello)
    if process.stdout is not None:
        assert json.loads(await process.stdout.readline())["result"]["serverInfo"]["name"] == "agentapi-mcp"
    return process


async def send(
    process: asyncio.subprocess.Process, method: str, params: Mapping[str, object], number: int | None = 1
) -> None:
    """Write a request, or a notification, which has no number."""
    assert process.stdin is not None
    line = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
    process.stdin.write(json.dumps(line).encode() + b"\n")
    await process.stdin.drain()


@pytest.mark.parametrize("how", ["eof", "sigterm"])
async def test_the_server_ends_well(edge_home: Path, how: str) -> None:
    process = await started(environ(edge_home))
    assert process.stdin is not None
    assert process.stdout is not None
    if how == "eof":
        process.stdin.close()
    else:
        process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        rest = await process.stdout.read()
        assert await process.wait() == 0
    assert rest == b""


async def test_the_stdio_path_loads_no_command_line_and_no_redis(edge_home: Path) -> None:
    program = (
        "import sys; sys.argv = ['agentapi-mcp']; import agentapi_mcp.base.preparation as p; p.prepare(); "
        "import agentapi_mcp.cli.stdio; print(sorted({'redis', 'rich', 'agentapi_mcp.cli.main'} & "
        "{n for n, loaded in sys.modules.items() if loaded}))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, env=environ(edge_home)
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


async def test_a_bad_configuration_is_refused_with_file_line_and_reason(edge_home: Path, tmp_path: Path) -> None:
    bad = tmp_path / "agentapi.toml"
    bad.write_text('[agents.mine]\nbackend = "nothing"\n', encoding="utf-8")
    status, _, err = await run(environ(edge_home) | {"AGENTAPI_CONFIG": str(bad)}, "agents", "list")
    assert status == 3
    assert "agentapi.toml, line 2" in err
    assert "Traceback" not in err


AT_ANOTHER_TIME = """
import runpy, sys, time
seconds, *words = sys.argv[1:]
time.time = lambda: float(seconds)
sys.argv[1:] = words
runpy.run_module("agentapi_mcp", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("words", [(), ("serve",), ("turns", "list")], ids=" ".join)
async def test_a_clock_before_1970_is_refused_at_the_start(words: tuple[str, ...], tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AT_ANOTHER_TIME, "-1", *words, stderr=subprocess.PIPE, env=environ(tmp_path)
    )
    said = (await process.communicate())[1].decode()
    assert (process.returncode, said) == (
        3,
        "agentapi-mcp: The clock of this machine is before 1970: set it right.\n",
    )


async def test_over_stdio_the_addresses_of_another_project_are_not_read(edge_home: Path) -> None:
    env = environ(edge_home) | {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "AGENTAPI_LOG_LEVEL": "warning",
    }
    process = await asyncio.create_subprocess_exec(
        *COMMAND, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    said = (await process.communicate())[1].decode()
    assert process.returncode == 0
    for name in ("DATABASE_URL", "REDIS_URL"):
        line = next(line for line in said.splitlines() if f"variable={name}" in line.replace('"', ""))
        assert "variable_not_read_over_stdio" in line
        assert f"AGENTAPI_{name}" in line
    async with client(env) as connected:
        answer = fields_of(await call(connected, "list_sessions"))
        assert isinstance(answer["sessions"], list)
    # A command reads them, and so does the server that it starts.
    for words in (("sessions", "list"), ("chat", "--via-mcp", "--continue", "Hello")):
        status, _, err = await run(env, *words)
        assert status != 0
        assert "The database cannot be used" in err


async def test_a_database_that_is_down_is_said_clearly() -> None:
    env = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none", "PATH": os.defpath}
    status, _, err = await run(env, "agents", "list")
    assert status == 3
    assert "DATABASE_URL names 127.0.0.1:9." in err
    assert "AGENTAPI_DATABASE_URL" not in err
    assert "Traceback" not in err
