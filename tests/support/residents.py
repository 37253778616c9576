"""Clients over stdio of a resident server, line by line, and the servers that they start."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import agentapi_mcp
from agentapi_mcp.resident.environment import Environment
from agentapi_mcp.resident.place import Place, find_place
from agentapi_mcp.testing.http import HttpPeer
from tests.support.peers.openai import OpenAIPeer
from tests.support.waiting import wait_until

Fields = dict[str, Any]
_SOURCE = Path(agentapi_mcp.__file__).parents[1]
_LIMIT = 4_000_000
COMPLETIONS = "/api/v1/chat/completions"


def environ(home: Path, peer: OpenAIPeer | None = None, **more: str) -> dict[str, str]:
    """Make the environment of a client that shares a resident server."""
    given = {
        "AGENTAPI_HOME": str(home),
        "AGENTAPI_POSTGRES_LINGER_SECONDS": "10",
        "AGENTAPI_RESIDENT": "1",
        "AGENTAPI_RESIDENT_LINGER_SECONDS": "60",
        "PATH": os.defpath,
        "PYTHONPATH": str(_SOURCE),
    }
    if peer is not None:
        given |= {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
    return given | more


def place_of(env: Mapping[str, str]) -> Place:
    """Return where the server of an environment is."""
    return find_place(Environment({os.fsencode(name): os.fsencode(value) for name, value in env.items()}), None)


def pids_of(run: str) -> list[int]:
    """List the servers that were started in a directory for sockets."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
            if b"resident.server" in line and os.fsencode(run) + b"/" in line:
                found.append(int(entry.name))
    return found


@dataclass
class LineClient:
    """A client that writes and reads JSON lines."""

    process: asyncio.subprocess.Process
    heard: list[Fields] = field(default_factory=list[Fields])

    def say(self, method: str, params: object = None, number: str | int | None = None) -> None:
        """Send a request, or a notification, which has no number."""
        line = {"jsonrpc": "2.0", "method": method} | ({} if number is None else {"id": number})
        self.write(json.dumps(line | ({} if params is None else {"params": params})))

    def write(self, line: str) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    async def hear(self, number: str | int) -> Fields:
        """Read until the answer to a request."""
        while True:
            read = await self._read()
            if read.get("id") == number and "method" not in read:
                return read

    async def told(self, method: str) -> Fields:
        """Read until a notification, which may have come already."""
        while not (found := [each for each in self.heard if each.get("method") == method]):
            await self._read()
        return found[0]

    async def ask(self, method: str, params: object, number: str | int) -> Fields:
        """Send a request, and read its answer."""
        self.say(method, params, number)
        return await self.hear(number)

    def call(self, number: str | int, tool: str, /, **arguments: object) -> None:
        """Call a tool, and do not wait."""
        self.say("tools/call", {"name": tool, "arguments": arguments}, number)

    async def called(self, number: str | int, tool: str, /, **arguments: object) -> Fields:
        """Call a tool, and return its result."""
        self.call(number, tool, **arguments)
        return await self.result(number)

    async def result(self, number: str | int) -> Fields:
        """Read the result of a request."""
        answer = await self.hear(number)
        assert "result" in answer, answer
        return cast("Fields", answer["result"])

    async def turn(self, number: str | int) -> Fields:
        """Read the turn that a call answers."""
        result = await self.result(number)
        assert "structuredContent" in result, result
        return cast("Fields", result["structuredContent"])

    async def shake_hands(self, name: str = "t") -> Fields:
        """Begin a conversation of the 2025 era."""
        client = {"name": name, "version": "1"}
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
        answer = await self.ask("initialize", hello, 0)
        self.say("notifications/initialized")
        return answer

    async def _read(self) -> Fields:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, f"the client saw the end; heard {self.heard[-3:]}"
        self.heard.append(cast("Fields", json.loads(line)))
        return self.heard[-1]

    async def end(self) -> int:
        """Close its output, and wait for its server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.process.wait()


@dataclass
class Clients:
    """The clients of a test, on one home."""

    run: str
    started: list[LineClient] = field(default_factory=list[LineClient])

    async def start(
        self, env: Mapping[str, str], *words: str, stdin: int = subprocess.PIPE, stdout: int = subprocess.PIPE
    ) -> LineClient:
        """Start a client's server."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentapi_mcp", *words),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=dict(env),
            limit=_LIMIT,
        )
        self.started.append(LineClient(process))
        return self.started[-1]

    async def greeted(self, env: Mapping[str, str], name: str = "t") -> LineClient:
        """Start a client's server, and begin a conversation."""
        client = await self.start(env)
        assert (await client.shake_hands(name))["result"]["serverInfo"]["name"] == "agentapi-mcp"
        return client

    async def served(self, env: Mapping[str, str], name: str = "t") -> LineClient:
        """Start a client's server, and begin a conversation with it: it is there, and not only what answers before."""
        client = await self.greeted(env, name)
        assert (await client.called("served", "list_agents"))["structuredContent"]["agents"]
        return client

    async def frozen(self, env: Mapping[str, str]) -> int:
        """Have a server started, and freeze it."""
        await self.served(env)
        pid = self.pid()
        os.kill(pid, signal.SIGSTOP)
        return pid

    def pids(self) -> list[int]:
        """List the resident servers."""
        return pids_of(self.run)

    def pid(self) -> int:
        """Return the one resident server: a shell starts it, which has its command line for a moment."""
        (pid,) = wait_until(lambda: found if len(found := self.pids()) == 1 else [])
        return pid


@asynccontextmanager
async def clients(env: Mapping[str, str]) -> AsyncGenerator[Clients]:
    """Start clients; with the test, they and the resident servers of their home end."""
    found = Clients(place_of(env).run)
    try:
        yield found
    finally:
        for client in found.started:
            if client.process.returncode is None:
                client.process.kill()
            await client.process.communicate()
        await asyncio.to_thread(wait_until, lambda: _all_killed(found))


def _all_killed(found: Clients) -> bool:
    for pid in found.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not found.pids()


def asked(peer: HttpPeer) -> int:
    """Return how often the provider was asked."""
    return len([each for each in peer.exchanges if each.path == COMPLETIONS])
