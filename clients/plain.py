"""The clients without a model: they do what the harness asks, one call after the other."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from chaos.processes import Process, free_port, listens, start
from chaos.timing import now, until
from clients.place import Place, Target
from clients.programs import ENVIRONMENT
from clients.provider import Script, fields_in
from tests.support import npm_peers
from typing_extensions import override

from agentapi_mcp.base.json_values import as_object

_NODE = 22
_READY_WITHIN = 120.0


class GaveUpError(Exception):
    """The client says that something failed."""


class Asking(Protocol):
    """A connected client."""

    async def ask(self, what: str, **more: object) -> Any:  # noqa: ANN401  # a list of names, or a text
        """Do one thing: `list`, `call` with `tool` and `given`, or `read` with `uri`."""
        ...

    async def stop(self) -> None:
        """Stop what runs, as a user would."""
        ...


@dataclass
class Lines(Asking):
    """A program that is asked by lines."""

    process: asyncio.subprocess.Process

    @override
    async def ask(self, what: str, **more: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"what": what, **more}).encode() + b"\n")
        await self.process.stdin.drain()
        line = await self.process.stdout.readline()
        told = json.loads(line or b'{"failed": "it ended"}')
        if "failed" in told:
            raise GaveUpError(told["failed"])
        return told["got"]

    @override
    async def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b'{"what": "stop"}\n')
        await self.process.stdin.drain()


@dataclass
class Inspector(Asking):
    """MCP Inspector's command line, which is started anew for each method."""

    words: Sequence[str]
    home: Path
    _process: asyncio.subprocess.Process | None = None

    @override
    async def ask(self, what: str, **more: object) -> Any:
        match what:
            case "list":
                return [tool["name"] for tool in (await self._run("tools/list"))["tools"]]
            case "call":
                given = [f"{name}={value}" for name, value in as_object(more["given"]).items()]
                named = ["--tool-name", str(more["tool"]), *(["--tool-arg", *given] if given else [])]
                result = await self._run("tools/call", *named)
                return json.dumps(result.get("structuredContent") or result["content"])
            case _:
                return (await self._run("resources/read", "--uri", str(more["uri"])))["contents"][0]["text"]

    @override
    async def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    async def _run(self, method: str, *words: str) -> dict[str, Any]:
        self._process = await asyncio.create_subprocess_exec(
            *self.words,
            *("--method", method),
            *words,
            env={**ENVIRONMENT, **npm_peers.node_environment(_NODE), "HOME": str(self.home)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = await self._process.communicate()
        finally:
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        said = _json_of(out)
        if self._process.returncode != 0 or said is None:
            raise GaveUpError((out + err).decode(errors="replace") or "it ended without a word")
        return as_object(said.get("result", said))


def _json_of(output: bytes) -> Mapping[str, Any] | None:
    try:
        return as_object(json.loads(output))
    except ValueError:
        return None


@asynccontextmanager
async def _lines(words: Sequence[str], env: Mapping[str, str]) -> AsyncGenerator[Lines]:
    process = await asyncio.create_subprocess_exec(
        *words,
        env={**ENVIRONMENT, **env},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    try:
        yield Lines(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _typescript(version: str) -> Callable[[Place, Target], Any]:
    @asynccontextmanager
    async def connect(place: Place, target: Target) -> AsyncGenerator[Asking]:
        modules = await asyncio.to_thread(npm_peers.installed, "npm_clients")
        program = Path(__file__).parent / "node" / "lines.cjs"
        node = str(npm_peers.node_bin(_NODE) / "node")
        env = {**npm_peers.node_environment(_NODE), "HOME": str(place.new_folder())}
        async with _lines([node, str(program), str(modules), version, target.as_json()], env) as lines:
            yield lines

    return connect


@asynccontextmanager
async def _fastmcp(place: Place, target: Target) -> AsyncGenerator[Asking]:
    program = Path(__file__).parent / "python" / "fastmcp_lines.py"
    env = {"HOME": str(place.new_folder())}
    async with _lines([sys.executable, str(program), target.as_json()], env) as lines:
        yield lines


def _inspector(project: str, program: str, *words: str, is_old: bool = False) -> Callable[[Place, Target], Any]:
    @asynccontextmanager
    async def connect(place: Place, target: Target) -> AsyncGenerator[Asking]:
        modules = await asyncio.to_thread(npm_peers.installed, project)
        node = str(npm_peers.node_bin(_NODE) / "node")
        given = [word for name, value in target.env.items() for word in ("-e", f"{name}={value}")]
        server = list(target.command)
        if target.url:
            server = ["--transport", "http", *([] if is_old else ["--server-url"]), target.url]
        start_words = [node, str(modules / "@modelcontextprotocol" / "inspector" / program)]
        yield Inspector([*start_words, *server, *given, *words], place.new_folder())

    return connect


@asynccontextmanager
async def _mcp_remote(place: Place, target: Target) -> AsyncGenerator[Asking]:
    """Connect through mcp-remote, which makes a server over HTTP one over stdio."""
    modules = await asyncio.to_thread(npm_peers.installed, "npm_bridges")
    node = str(npm_peers.node_bin(_NODE) / "node")
    env = {**npm_peers.node_environment(_NODE), "HOME": str(place.new_folder())}
    assert target.url is not None
    words = [node, str(modules / "mcp-remote" / "dist" / "proxy.js"), target.url, "--allow-http"]
    async with _typescript("v1")(place, Target(None, words, env)) as asking:
        yield asking


@asynccontextmanager
async def _supergateway(place: Place, target: Target) -> AsyncGenerator[Asking]:
    """Connect through supergateway, which makes a server over stdio one over HTTP."""
    modules = await asyncio.to_thread(npm_peers.installed, "npm_bridges")
    node = str(npm_peers.node_bin(_NODE) / "node")
    port, home = free_port(), place.new_folder()
    words = [node, str(modules / "supergateway" / "dist" / "index.js"), "--stdio", " ".join(target.command)]
    words += ["--outputTransport", "streamableHttp", "--stateful", "--port", str(port)]
    env = {**ENVIRONMENT, **npm_peers.node_environment(_NODE), **target.env}
    gateway: Process = await start(words, home / "gateway.log", env)
    try:
        assert await until(lambda: listens(port), _READY_WITHIN), (home / "gateway.log").read_text()
        async with _typescript("v1")(place, Target(f"http://127.0.0.1:{port}/mcp", target.command, {})) as asking:
            yield asking
    finally:
        await gateway.end(signal.SIGTERM)


@dataclass(frozen=True)
class Plain:
    """A client without a model; `connect` is a context that gives a connected one."""

    name: str
    version: Callable[[], str]
    connect: Callable[[Place, Target], Any]
    transports: tuple[str, ...] = ("stdio", "http")


@dataclass
class PlainRun:
    """A client without a model that does a script."""

    client: Plain
    place: Place
    transport: str
    script: Script
    began: float = 0.0
    _asking: Asking | None = None
    _failed: str = ""
    _is_stopped: bool = False

    async def finish(self) -> None:
        """Connect, and do the calls; a program whose user stopped a call goes on, and is ended from outside."""
        self.began = now()
        async with self.client.connect(self.place, self.place.target(self.transport)) as asking:
            self._asking = asking
            try:
                await self._do(asking)
            except GaveUpError as exc:
                self._failed = str(exc)
                self.script.told_at = now()
                if self._is_stopped:
                    await asyncio.Event().wait()

    async def _do(self, asking: Asking) -> None:
        script = self.script
        script.show(await asking.ask("list"))
        for call in script.calls:
            if call.before is not None:
                await call.before()
            given = call.arguments(script.results) if callable(call.arguments) else call.arguments
            if call.tool == "read":
                script.tell([*script.results, await asking.ask("read", **given)])
                continue
            script.tell([*script.results, await asking.ask("call", tool=call.tool, given=given)])
            while script.follow and fields_in(script.results[-1]).get("status") == "running":
                turn = fields_in(script.results[-1])["turn_id"]
                script.tell([*script.results, await asking.ask("call", tool="get_turn", given={"turn_id": turn})])
        script.done.set()

    async def stop(self) -> None:
        """Stop as a user does."""
        self._is_stopped = True
        if self._asking is not None:
            await self._asking.stop()

    def said(self) -> str:
        """Say why it gave up."""
        return self._failed[-2000:]


def _npm_version(project: str, package: str) -> Callable[[], str]:
    return lambda: str(json.loads((npm_peers.installed(project) / package / "package.json").read_bytes())["version"])


def _fastmcp_version() -> str:
    return metadata.version("fastmcp-slim")


_INSPECTOR = "@modelcontextprotocol/inspector"
PLAIN = {
    client.name: client
    for client in (
        Plain("typescript-v1", _npm_version("npm_clients", "@modelcontextprotocol/sdk"), _typescript("v1")),
        Plain("typescript-v2", _npm_version("npm_clients", "@modelcontextprotocol/client"), _typescript("v2")),
        Plain("fastmcp", _fastmcp_version, _fastmcp),
        Plain(
            "inspector-2",
            _npm_version("npm_clients", _INSPECTOR),
            _inspector("npm_clients", "clients/cli/build/index.js", "--format", "json"),
        ),
        Plain(
            "inspector-0",
            _npm_version("npm_bridges", _INSPECTOR),
            _inspector("npm_bridges", "cli/build/cli.js", "--cli", is_old=True),
        ),
        Plain(
            "mcp-remote",
            _npm_version("npm_bridges", "mcp-remote"),
            _mcp_remote,
            transports=("http",),
        ),
        Plain("supergateway", _npm_version("npm_bridges", "supergateway"), _supergateway, transports=("stdio",)),
    )
}
