"""A client of the 2026-07-28 era over HTTP that says exactly what a test wants, and parses nothing away."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

import httpx2

TASKS = "io.modelcontextprotocol/tasks"
Json = dict[str, Any]
# As Claude Code 2.1 declares them.
CLAUDE: Json = {"elicitation": {"form": {}, "url": {}}, "roots": {}, "extensions": {TASKS: {}}}
SILENT: Json = {"extensions": {TASKS: {}}}
ENDED = frozenset({"completed", "failed", "cancelled"})
_NAMES = {"tools/call": "name", "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId"}


class RefusedError(Exception):
    """The error of a response."""

    def __init__(self, error: Json) -> None:
        super().__init__(json.dumps(error))
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")


@dataclass
class RawClient:
    """Sends requests with these capabilities to an address."""

    url: str
    http: httpx2.AsyncClient
    capabilities: Json = field(default_factory=lambda: CLAUDE)
    name: str = "claude-code"
    _ids: "count[int]" = field(default_factory=lambda: count(1))

    def request(self, method: str, params: Json, headers: Mapping[str, str | None] | None = None) -> httpx2.Request:
        """Make a request; a header of None is left out."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": self.name, "version": "2.1.332"},
            "io.modelcontextprotocol/clientCapabilities": dict(self.capabilities),
        }
        said: dict[str, str | None] = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": method,
            "mcp-name": params.get(_NAMES.get(method, "")),
            **(headers or {}),
        }
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": {**params, "_meta": meta}}
        kept = {name: value for name, value in said.items() if value is not None}
        return self.http.build_request("POST", self.url, json=body, headers=kept)

    async def ask(self, method: str, params: Json, headers: Mapping[str, str | None] | None = None) -> Json:
        """Send a request and return its result."""
        answer = await self.http.send(self.request(method, params, headers))
        text = answer.text
        if answer.headers["content-type"].startswith("text/event-stream"):
            text = [line for line in text.splitlines() if line.startswith("data: ")][-1].removeprefix("data: ")
        message: Json = json.loads(text)
        if "error" in message:
            raise RefusedError(message["error"])
        return cast("Json", message["result"])

    async def chat(self, **arguments: object) -> Json:
        """Call the tool."""
        return await self.ask("tools/call", {"name": "chat", "arguments": arguments})

    async def task(self, task_id: str) -> Json:
        """Return the state of a task."""
        return await self.ask("tasks/get", {"taskId": task_id})

    async def until_ended(self, task_id: str) -> Json:
        """Ask again and again, until a task has ended."""
        while (task := await self.task(task_id))["status"] not in ENDED:
            pass
        return task

    async def update(self, task_id: str, **answers: object) -> Json:
        """Answer questions."""
        return await self.ask("tasks/update", {"taskId": task_id, "inputResponses": answers})

    async def cancel(self, task_id: str) -> Json:
        """Cancel a task."""
        return await self.ask("tasks/cancel", {"taskId": task_id})

    @asynccontextmanager
    async def listening(self, **notifications: object) -> AsyncGenerator[AsyncGenerator[Json]]:
        """Open a stream, and yield what comes on it."""
        request = self.request("subscriptions/listen", {"notifications": notifications})
        answer = await self.http.send(request, stream=True)
        try:
            async with aclosing(_messages(answer)) as messages:
                yield messages
        finally:
            await answer.aclose()


async def _messages(answer: httpx2.Response) -> AsyncGenerator[Json]:
    if not answer.headers["content-type"].startswith("text/event-stream"):
        raise RefusedError(json.loads(await answer.aread())["error"])
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


@asynccontextmanager
async def raw_client(url: str, capabilities: Json = CLAUDE) -> AsyncGenerator[RawClient]:
    """Open a client."""
    async with httpx2.AsyncClient(timeout=25) as http:
        yield RawClient(url, http, capabilities)
