"""MCP clients that report every way in which a call can fail: bare HTTP and stdio in both eras, and the SDK's."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import httpx2
from chaos.timing import now
from mcp import Client as SdkSession
from mcp import MCPError
from typing_extensions import override

Era = Literal["2025-11-25", "2026-07-28"]
_HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "chaos", "version": "1"}}
_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": _HELLO["clientInfo"],
    "io.modelcontextprotocol/clientCapabilities": {},
}


class RefusedError(Exception):
    """A call told nothing about a turn; `kind` says where it ended: timeout, transport, http, rpc, tool.

    Over stdio, `killed` is the end of a client's own server that the harness killed, and `ended` any other end of it.
    """

    def __init__(self, kind: str, text: str, retry_after: float | None = None) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text[:500]
        self.retry_after = retry_after


class Client(Protocol):
    """Calls a tool, and returns its structured result; `began` and `ended` say when the call itself did.

    What belongs to its session, as the handshake before and the farewell after it, is not the call.
    """

    began: float
    ended: float

    async def call(self, tool: str, arguments: Mapping[str, object], within: float) -> dict[str, Any]:
        """Call it, and leave the call in the middle when it takes longer.

        Raises:
            RefusedError: it has no structured result.
        """
        ...


@asynccontextmanager
async def open_http() -> AsyncGenerator[httpx2.AsyncClient]:
    """Open what bare clients share; a connection is for one request, so that leaving a call closes it."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    deadlines = httpx2.Timeout(None)  # each call has its own
    async with httpx2.AsyncClient(limits=limits, timeout=deadlines, trust_env=False) as http:
        yield http


@dataclass
class BareClient(Client):
    """A client of one era on bare HTTP."""

    http: httpx2.AsyncClient
    url: str
    era: Era
    token: str | None = None
    began: float = 0.0
    ended: float = 0.0
    _session: str | None = None
    _number: int = 0

    @override
    async def call(self, tool: str, arguments: Mapping[str, object], within: float) -> dict[str, Any]:
        params: dict[str, object] = {"name": tool, "arguments": dict(arguments)}
        headers = {"mcp-protocol-version": self.era}
        try:
            async with asyncio.timeout(within):
                if self.era == "2026-07-28":
                    params["_meta"] = _META
                    headers |= {"mcp-method": "tools/call", "mcp-name": tool}
                else:
                    headers["mcp-session-id"] = await self._initialized()
                self.began = now()
                try:
                    return structured(await self._ask("tools/call", params, headers))
                finally:
                    self.ended = now()
        except TimeoutError as exc:
            raise RefusedError("timeout", f"no answer in {within:g} s") from exc

    async def _initialized(self) -> str:
        if self._session is None:
            response = await self._post("initialize", _HELLO, {})
            _result_of(response, self._number)
            self._session = response.headers.get("mcp-session-id", "")
        return self._session

    async def _ask(self, method: str, params: object, headers: Mapping[str, str]) -> dict[str, Any]:
        response = await self._post(method, params, headers)
        if response.status_code == 404:
            self._session = None  # it is not known any more: a new one is begun
        return _result_of(response, self._number)

    async def _post(self, method: str, params: object, headers: Mapping[str, str]) -> httpx2.Response:
        self._number += 1
        body = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        accept = {"accept": "application/json, text/event-stream"}
        if self.token is not None:
            accept["authorization"] = f"Bearer {self.token}"
        try:
            return await self.http.post(self.url, json=body, headers={**accept, **headers})
        except httpx2.HTTPError as exc:
            raise RefusedError("transport", f"{type(exc).__name__} {exc}") from exc


@dataclass
class StdioClient(Client):
    """A client of one era over stdio, which starts its server again when that has ended."""

    env: Mapping[str, str]
    output: Path  # for what its server says on stderr
    era: Era
    began: float = 0.0
    ended: float = 0.0
    _process: asyncio.subprocess.Process | None = None
    _killed: bool = False
    _number: int = 0
    _calling: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def pid(self) -> int | None:
        """The process that serves it; None if none runs."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @override
    async def call(self, tool: str, arguments: Mapping[str, object], within: float) -> dict[str, Any]:
        params: dict[str, object] = {"name": tool, "arguments": dict(arguments)}
        try:
            async with asyncio.timeout(within), self._calling:
                await self._greeted()
                if self.era == "2026-07-28":
                    params["_meta"] = _META
                self.began = now()
                try:
                    return structured(await self._ask("tools/call", params))
                finally:
                    self.ended = now()
        except TimeoutError as exc:
            raise RefusedError("timeout", f"no answer in {within:g} s") from exc

    async def kill(self) -> None:
        """Kill the process that serves it."""
        if self._process is not None and self.pid is not None:
            self._killed = True
            self._process.kill()
            await self._process.wait()

    async def end(self, within: float = 30.0) -> int | None:
        """Close what its server reads, and return with what status that ends: None if it does not in time."""
        if self._process is None or self._process.stdin is None:
            return 0
        self._process.stdin.close()
        try:
            async with asyncio.timeout(within):
                return await self._process.wait()
        except TimeoutError:
            return None

    async def _greeted(self) -> None:
        if self.pid is not None:
            return
        with self.output.open("ab") as file:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agentapi_mcp"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=dict(self.env),
                cwd=os.sep,
                limit=2**22,
            )
        self._killed = False
        if self.era == "2025-11-25":
            await self._ask("initialize", _HELLO)
            await self._write({"method": "notifications/initialized"})

    async def _ask(self, method: str, params: object) -> dict[str, Any]:
        self._number += 1
        number = self._number
        assert self._process is not None
        assert self._process.stdout is not None
        await self._write({"id": number, "method": method, "params": params})
        while line := await self._process.stdout.readline():
            answer = cast("dict[str, Any]", json.loads(line))
            if answer.get("id") == number and "method" not in answer:
                return _unwrapped(answer)
        status = await self._process.wait()
        if self._killed:
            raise RefusedError("killed", "its own server was killed")
        raise RefusedError("ended", f"its own server ended with status {status}")

    async def _write(self, fields: Mapping[str, object]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **fields}).encode() + b"\n")
        with suppress(ConnectionError):  # the end of what it says tells of it
            await self._process.stdin.drain()


@dataclass
class SdkClient(Client):
    """The SDK's own client; a session that fails is opened anew by the next call."""

    url: str
    era: Era
    began: float = 0.0
    ended: float = 0.0

    @override
    async def call(self, tool: str, arguments: Mapping[str, object], within: float) -> dict[str, Any]:
        mode = "auto" if self.era == "2026-07-28" else "legacy"
        try:
            async with SdkSession(self.url, mode=mode, cache=None) as session:
                await session.list_tools()  # as clients do; otherwise the SDK does it within the call, to check it
                self.began = now()
                try:
                    result = await session.call_tool(tool, dict(arguments), read_timeout_seconds=within)
                finally:
                    self.ended = now()
        except Exception as exc:
            raise _refused(exc) from exc
        return structured(result.model_dump(mode="json", by_alias=True))


def structured(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the structured part of a tool's result.

    Raises:
        RefusedError: it has none, which is an error in words.
    """
    found = result.get("structuredContent")
    words = " ".join(str(part.get("text", "")) for part in result.get("content", []))
    if found is None:
        raise RefusedError("tool", words)
    return {**found, "words": words}


def _result_of(response: httpx2.Response, number: int) -> dict[str, Any]:
    if response.status_code != 200:
        after = response.headers.get("retry-after")
        wait = float(after) if after is not None and after.isdecimal() else None
        raise RefusedError("http", f"{response.status_code} {response.text}", wait)
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        lines = [line[5:] for line in response.text.splitlines() if line.startswith("data:") and line[5:].strip()]
    else:
        lines = [response.text]
    try:
        messages = [cast("dict[str, Any]", json.loads(line)) for line in lines]
    except ValueError as exc:
        raise RefusedError("http", "no JSON") from exc
    for message in messages:
        if message.get("id") == number and "method" not in message:
            return _unwrapped(message)
    raise RefusedError("http", "no answer in the answer")


def _unwrapped(answer: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise RefusedError("rpc", str(answer["error"].get("message")))
    return cast("dict[str, Any]", answer["result"])


def _refused(exc: BaseException) -> RefusedError:
    if isinstance(exc, BaseExceptionGroup):
        return _refused(cast("BaseExceptionGroup[BaseException]", exc).exceptions[0])
    kind = (
        "timeout" if isinstance(exc, TimeoutError) or (isinstance(exc, MCPError) and "imed out" in str(exc)) else "sdk"
    )
    return RefusedError(kind, f"{type(exc).__name__} {exc}")
