"""`serve` as an operator runs it: real processes on loopback ports, stopped, doubled, misused."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import ssl
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client

import agentapi_mcp
from agentapi_mcp.client import Answer, Turn
from agentapi_mcp.testing.http import Steps
from tests.acceptance.test_processes import COMMAND, environ, run
from tests.support.connect import call, fields_of, text_of
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.acceptance
ISSUER = '[[issuers]]\nissuer = "https://auth.example.com"\n'


@dataclass
class Serving:
    """A process that serves, and what it wrote on stderr so far."""

    process: asyncio.subprocess.Process
    base: str
    stderr: list[str]

    async def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop, and wait until it has."""
        self.process.send_signal(sign)
        assert self.process.stderr is not None
        self.stderr.append((await self.process.stderr.read()).decode())
        return await self.process.wait()


async def wait_for_address(process: asyncio.subprocess.Process) -> list[str]:
    """Read what it says until it names its address."""
    assert process.stderr is not None
    said = [(await process.stderr.readline()).decode()]
    while " serves MCP at http" not in said[-1]:
        assert said[-1], "".join(said)
        said.append((await process.stderr.readline()).decode())
    return said


def address_in(line: str) -> str:
    """Return where a server listens: beside the address that clients use, if that is another."""
    listening = re.search(r"listening on (\S+)\)", line) or re.search(r" at (\S+)/mcp", line)
    assert listening is not None, line
    return listening[1]


@asynccontextmanager
async def serving(env: Mapping[str, str], *words: str, verify: ssl.SSLContext | bool = True) -> AsyncGenerator[Serving]:
    """Start `serve` on a free port, and wait until it is ready."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "serve", "--port", "0", *words, env=dict(env), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        said = await wait_for_address(process)
        base = address_in(said[-1])
        async with httpx2.AsyncClient(timeout=20, verify=verify) as http:
            while (await http.get(f"{base}/readyz")).status_code != 200:
                pass
        yield Serving(process, base, said)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_a_turn_is_followed_from_another_process_and_cancelled_from_the_command_line(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        env = environ(edge_home, peer)
        async with (
            serving(env) as one,
            serving(env) as two,
            Client(f"{one.base}/mcp") as first,
            Client(f"{two.base}/mcp", mode="legacy") as second,
        ):
            asked = f"[[slow]] [[chunks9]] {os.urandom(4).hex()}"
            turn = fields_of(await call(first, "chat", agent="droid", message=asked, wait_seconds=0))
            assert turn["status"] == "running"
            heard = asyncio.Event()

            async def hear(progress: float, total: float | None, message: str | None) -> None:
                del progress, total
                if message and "w1" in message:
                    heard.set()

            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(
                    second.call_tool("get_turn", {"turn_id": turn["turn_id"]}, progress_callback=hear)
                )
                steps.release(3)
                await heard.wait()
                _, listed, told = await run(env, "turns", "list", "--running")
                assert [row.split("\t")[:3] for row in listed.splitlines()] == [
                    ["TURN", "STATUS", "AGENT"],
                    [turn["turn_id"], "running", "droid"],
                ]
                assert "turns cancel" in told
                status, out, err = await run(env, "turns", "cancel", str(turn["turn_id"]), "--json")
                assert (status, json.loads(out)["status"]) == (0, "cancelled"), err
            assert json.loads((await run(env, "turns", "list", "--running", "--json"))[1]) == {"turns": []}
            ended = fields_of(waiting.result())
            assert (ended["status"], ended["end_reason"]) == ("cancelled", "cancel_turn")
            assert "w1" in str(ended["reply"])


async def test_a_second_interrupt_gives_no_more_time_and_every_caller_an_answer(edge_home: Path) -> None:
    steps = Steps()
    env = {"AGENTAPI_SHUTDOWN_GRACE_SECONDS": "3000"}
    async with OpenAIPeer(pace=steps) as peer, serving(environ(edge_home, peer) | env) as server:
        async with Client(f"{server.base}/mcp") as client, asyncio.TaskGroup() as group:
            await client.list_tools()  # else it does that after the answer, and may be refused
            asked = f"[[slow]] [[chunks3]] {os.urandom(4).hex()}"
            chat = group.create_task(call(client, "chat", agent="droid", message=asked, wait_seconds=240))
            await peer.received(path="/chat/completions")
            server.process.send_signal(signal.SIGINT)
            async with httpx2.AsyncClient() as http:
                while (await http.get(f"{server.base}/readyz")).status_code != 503:
                    pass
            server.process.send_signal(signal.SIGINT)
            status = await server.stop(signal.SIGTERM)
        assert fields_of(chat.result())["status"] == "interrupted"
        assert (status, [line for line in server.stderr if "Traceback" in line]) == (0, [])


async def answered(method: str, url: str, json: object = None) -> httpx2.Response:
    """Send a request on connections of its own until it is answered: a server that stops closes idle ones at once."""
    while True:
        with suppress(httpx2.TransportError):
            async with httpx2.AsyncClient() as http:
                return await http.request(method, url, json=json)


async def test_sigterm_lets_running_turns_end_and_their_callers_hear_it(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer, serving(environ(edge_home, peer)) as server:
        async with (
            Client(f"{server.base}/mcp") as client,
            Client(sse_client(f"{server.base}/sse")) as old,
            agentapi_mcp.connect(f"{server.base}/mcp") as agents,
            client.listen(resources_list_changed=True) as listening,
            asyncio.TaskGroup() as group,
        ):
            assert not (await call(old, "list_sessions")).is_error
            await client.list_tools()  # else it does that after the answer, and is refused
            answer = agents.chat(f"[[slow]] [[chunks3]] {os.urandom(4).hex()}", agent="droid")
            written = group.create_task(_turn(answer))
            asked = f"[[slow]] [[chunks3]] {os.urandom(4).hex()}"
            chat = group.create_task(call(client, "chat", agent="droid", message=asked))
            await peer.received(2, path="/chat/completions")
            server.process.send_signal(signal.SIGTERM)
            while (await answered("GET", f"{server.base}/readyz")).status_code == 200:
                pass
            late = await answered("POST", f"{server.base}/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
            assert (late.status_code, late.headers["retry-after"]) == (503, "1")
            async for _ in listening:
                pass
            steps.release(10)
            assert fields_of(await chat)["status"] == "completed"
            assert (await written).status == "completed"
        assert await server.process.wait() == 0


async def _turn(answer: Answer) -> Turn:
    return await answer


async def test_idle_connections_are_closed_at_once_and_new_ones_are_answered_503(edge_home: Path) -> None:
    steps = Steps()
    get = b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with OpenAIPeer(pace=steps) as peer, serving(environ(edge_home, peer)) as server:
        host, port = server.base.removeprefix("http://").split(":")
        async with Client(f"{server.base}/mcp") as client, asyncio.TaskGroup() as group:
            asked = f"[[slow]] [[chunks3]] {os.urandom(4).hex()}"
            chat = group.create_task(call(client, "chat", agent="droid", message=asked))
            await peer.received(path="/chat/completions")
            idle, idle_writer = await asyncio.open_connection(host, int(port))
            idle_writer.write(get % b"/healthz")
            assert (await idle.readuntil(b'"}')).startswith(b"HTTP/1.1 200")
            new, new_writer = await asyncio.open_connection(host, int(port))
            server.process.send_signal(signal.SIGTERM)
            assert await idle.read() == b""
            new_writer.write(get % b"/mcp")
            assert b"connection: close" in (await new.read()).lower()
            steps.release(10)
            assert fields_of(await chat)["status"] == "completed"
        idle_writer.close()
        new_writer.close()
        assert await server.process.wait() == 0


async def test_a_turn_that_outlasts_the_grace_is_settled_and_its_caller_told(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer) | {"AGENTAPI_SHUTDOWN_GRACE_SECONDS": "0.2"}
        async with serving(env) as server, Client(f"{server.base}/mcp") as client, asyncio.TaskGroup() as group:
            chat = group.create_task(call(client, "chat", agent="droid", message=f"[[waits]] {os.urandom(4).hex()}"))
            await peer.received(path="/chat/completions")
            server.process.send_signal(signal.SIGTERM)
            ended = fields_of(await chat)
            assert (ended["status"], ended["end_reason"]) == ("interrupted", "shutdown")
            assert await server.process.wait() == 0
        assert (
            json.loads((await run(env, "turns", "show", str(ended["turn_id"]), "--json"))[1])["status"] == "interrupted"
        )


async def test_the_token_is_asked_for_and_never_logged(edge_home: Path) -> None:
    token = os.urandom(16).hex()
    env = environ(edge_home) | {"AGENTAPI_BEARER_TOKEN": token, "AGENTAPI_LOG_LEVEL": "debug"}
    async with serving(env, "--host", "0.0.0.0", "--allowed-host", "agents.example") as server:  # noqa: S104  # with a token
        base = server.base.replace("0.0.0.0", "127.0.0.1")  # noqa: S104  # the same
        async with httpx2.AsyncClient() as http:
            ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            for headers, status in (
                ({}, 401),
                ({"authorization": "Bearer no"}, 401),
                ({"authorization": f"Bearer {token}"}, 200),
                ({"authorization": f"Bearer {token}", "host": "agents.example"}, 200),
                ({"authorization": f"Bearer {token}", "host": "evil.example"}, 421),
            ):
                answer = await http.post(f"{base}/mcp", json=ping, headers=headers)
                assert answer.status_code == status, answer.text
            assert (await http.get(f"{base}/mcp?access_token={token}")).status_code == 401
        assert await server.stop() == 0
        assert " serves MCP at http://agents.example:" in "".join(server.stderr)
        assert token not in "".join(server.stderr)
        assert "http_request" in "".join(server.stderr)


@pytest.mark.parametrize(
    ("words", "given", "says"),
    [
        (("--host", "0.0.0.0"), {}, "AGENTAPI_BEARER_TOKEN"),  # noqa: S104  # it is refused
        (("--host", "::"), {}, "AGENTAPI_BEARER_TOKEN"),
        (("--allowed-host", "agents.example.com"), {}, "agents.example.com (--allowed-host"),
        (("--allowed-origin", "https://web.example"), {}, "https://web.example in a browser"),
        ((), {"AGENTAPI_ALLOWED_HOSTS": "agents.example.com"}, "agents.example.com (--allowed-host"),
        ((), {"AGENTAPI_ALLOWED_ORIGINS": "https://web.example"}, "https://web.example in a browser"),
        ((), {"AGENTAPI_TRUSTED_PROXIES": "127.0.0.1"}, "the proxy at 127.0.0.1"),
        (("--insecure",), {"AGENTAPI_RESOURCE_URL": "https://agents.example.com/mcp"}, "declare [[issuers]]"),
        (("--host", "no.such.host.invalid", "--insecure"), {}, "--host"),
        (("--host", "192.0.2.1", "--insecure"), {}, "--host"),
        ((), {"AGENTAPI_BEARER_TOKEN": "short"}, "AGENTAPI_BEARER_TOKEN"),
        ((), {"AGENTAPI_MAX_BODY_BYTES": "many"}, "AGENTAPI_MAX_BODY_BYTES"),
        (("--allowed-host", "https://agents.example.com/"), {}, "no allowed host"),
        (("--allowed-host", "*"), {}, "no allowed host"),
        (("--allowed-origin", "agents.example.com"), {}, "no allowed origin"),
        (("--allowed-origin", "*"), {}, "no allowed origin"),
        ((), {"AGENTAPI_ALLOWED_HOSTS": "a.example.com, b.example.com/mcp"}, "'b.example.com/mcp'"),
        ((), {"AGENTAPI_CONFIG": "/nowhere/agentapi.toml"}, "/nowhere/agentapi.toml"),
    ],
)
async def test_what_cannot_be_meant_ends_the_program_with_the_reason(
    words: tuple[str, ...], given: dict[str, str], says: str, edge_home: Path
) -> None:
    status, _, err = await run(environ(edge_home) | given, "serve", "--port", "0", *words)
    assert status == 3, err
    assert says in err.splitlines()[-1]
    assert "Traceback" not in err


async def test_issuers_without_a_resource_url_are_refused_at_the_start_and_later(
    edge_home: Path, tmp_path: Path
) -> None:
    config = tmp_path / "agentapi.toml"
    config.write_text(ISSUER, encoding="utf-8")
    env = environ(edge_home) | {"AGENTAPI_CONFIG": str(config)}
    status, _, err = await run(env, "serve", "--port", "0", "--insecure")
    assert (status, "export AGENTAPI_RESOURCE_URL=" in err.splitlines()[-1]) == (3, True), err
    config.write_text("", encoding="utf-8")
    async with serving(env) as server:
        config.write_text(ISSUER, encoding="utf-8")
        assert server.process.stderr is not None
        while "configuration_refused" not in (line := (await server.process.stderr.readline()).decode()):
            assert line
        assert "export AGENTAPI_RESOURCE_URL=" in line


async def test_what_a_proxy_forwards_is_refused_without_a_token_unless_it_is_insecure(edge_home: Path) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    for words, status in (((), 403), (("--insecure",), 200)):
        async with serving(environ(edge_home), *words) as server, httpx2.AsyncClient() as http:
            for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "CF-Connecting-IP"):
                answer = await http.post(f"{server.base}/mcp", json=ping, headers={header: "203.0.113.9"})
                assert answer.status_code == status, answer.text
            assert (await http.post(f"{server.base}/mcp", json=ping)).status_code == 200
            assert await server.stop() == 0
            assert "".join(server.stderr).count("proxy_not_trusted") == 1


async def test_it_takes_as_many_open_files_as_it_may(edge_home: Path) -> None:
    words = ["sh", "-c", 'ulimit -S -n 200; exec "$@"', "sh", *COMMAND, "serve", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*words, env=environ(edge_home), stderr=asyncio.subprocess.PIPE)
    try:
        await wait_for_address(process)
        limits = await asyncio.to_thread(Path(f"/proc/{process.pid}/limits").read_text)
        soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
        assert int(soft) == min(int(hard), 65_536)
    finally:
        process.terminate()
        await process.communicate()


async def test_a_port_in_use_is_told(edge_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = await run(environ(edge_home), "serve", "--port", str(port))
    assert status == 3
    assert f"Port {port}" in err
    assert "--port" in err


async def test_a_database_that_is_away_leaves_the_server_alive_and_not_ready(edge_home: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://nobody@127.0.0.1:{closed.getsockname()[1]}/none"
        env = environ(edge_home) | {"DATABASE_URL": url}
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "serve", "--port", "0", env=env, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        said = await wait_for_address(process)
        base = address_in(said[-1])
        async with httpx2.AsyncClient(timeout=20) as http:
            assert (await http.get(f"{base}/readyz")).status_code == 503
            assert (await http.get(f"{base}/healthz")).status_code == 200
        async with Client(f"{base}/mcp", mode="legacy") as client:
            answer = await call(client, "list_agents")
            assert answer.is_error
            # The address is for the operator's log, not for everybody who calls the server.
            assert "127.0.0.1" not in str(answer.content)
        process.terminate()
        said.append((await process.stderr.read()).decode())
        assert await process.wait() == 0
        assert "database_unavailable" in "".join(said)
        assert f"DATABASE_URL names 127.0.0.1:{closed.getsockname()[1]}." in "".join(said)
        assert "Traceback" not in "".join(said)


async def test_a_changed_file_is_taken_on_sighup_over_http_and_over_stdio(edge_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "agentapi.toml"
    file.write_text("", encoding="utf-8")
    env = environ(edge_home) | {"AGENTAPI_CONFIG": str(file), "AGENTAPI_LOG_LEVEL": "warning"}
    async with serving(env) as server, Client(f"{server.base}/mcp") as client:
        name = f"hup{os.urandom(3).hex()}"
        file.write_text(f'[agents.{name}]\nbackend = "guide"\n', encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(25):
            while (await call(client, "chat", agent=name, message="which agents are there?")).is_error:
                pass
        file.write_text("nonsense", encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(25):
            while "still in use" not in text_of(await call(client, "get_health")):
                pass
        assert not (await call(client, "chat", agent=name, message="which agents are there?")).is_error
    file.write_text("", encoding="utf-8")
    parameters = StdioServerParameters(command="sh", args=["-c", 'echo $$ >&2; exec "$@"', "sh", *COMMAND], env=env)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        async with Client(stdio_client(parameters, errlog=errors)) as client:
            await call(client, "list_sessions")
            errors.seek(0)
            pid = int(errors.readline())
            name = f"hup{os.urandom(3).hex()}"
            file.write_text(f'[agents.{name}]\nbackend = "guide"\n', encoding="utf-8")
            os.kill(pid, signal.SIGHUP)
            async with asyncio.timeout(25):
                while (await call(client, "chat", agent=name, message="which agents are there?")).is_error:
                    pass


@pytest.mark.parametrize(("snippet", "answer"), [(0, "agents work right now"), (1, '"structuredContent":{"agents":[{')])
async def test_the_documented_curl_commands_are_answered(edge_home: Path, snippet: int, answer: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8")
    script = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[snippet]
    async with serving(environ(edge_home)) as server:
        asking = await asyncio.create_subprocess_exec(
            "sh", "-c", script.replace("http://127.0.0.1:8000", server.base), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await asking.communicate()
    assert '"isError":false' in said.decode()
    assert answer in said.decode()
