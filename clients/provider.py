"""The two models of a trial, on loopback: the one that the client asks, and the one that stands behind an agent.

The client's model reads no prompt. It does what the trial's script says, one call of a tool after the other, and ends
with a text. The agent's model says a word a second, as many as `[[words=N]]` in the message asks for.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web
from chaos.timing import now, pause
from clients.dialects import CHAT_COMPLETIONS, GEMINI, MESSAGES, RESPONSES, Answer, Dialect, Json, Request, ToolResult

from agentapi_mcp.edges.mcp.options import DEFAULT_TOOLSET
from agentapi_mcp.edges.mcp.tools.registry import find_tools

OURS = tuple(tool.spec.name for tool in find_tools([DEFAULT_TOOLSET]))
_WORDS = re.compile(r"\[\[words=(\d+)\]\]")
# Claude Code and others hide the tools of a server behind a search, and wait for slow servers by a tool.
_SEARCH = "ToolSearch"
# How often the model calls again where its client gave up: a turn of 90 seconds, with a client that waits for five.
_TRIES = 30


@dataclass(frozen=True)
class Call:
    """A call of a tool; `before` is awaited before the model answers with it."""

    tool: str
    arguments: Mapping[str, object] | Callable[[Sequence[str]], Mapping[str, object]]
    before: Callable[[], Awaitable[object]] | None = None


@dataclass
class Script:
    """What the client's model does in one run, and what it was told."""

    calls: Sequence[Call]
    follow: bool = True  # waits with `get_turn` for a turn that is running, and calls again where its client gave up
    tools: tuple[str, ...] | None = None
    results: list[str] = field(default_factory=list[str])
    begun: int = 0  # calls that were made, however often
    lost: int = 0  # calls on which the client gave up
    searched: bool = False
    listed_at: float = 0.0
    told_at: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, tools: Sequence[str]) -> None:
        """Note the tools that the client has, the first time."""
        if self.tools is None:
            self.tools, self.listed_at = tuple(tools), now()

    def tell(self, results: Sequence[str]) -> None:
        """Note what the client's calls came to so far."""
        if len(results) > len(self.results):
            self.told_at = now()
        self.results[:] = results


@dataclass
class Asked:
    """A request to the agent's model."""

    message: str
    began: float
    spoken: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    enough: asyncio.Event = field(default_factory=asyncio.Event)  # ends the answer early
    ended_at: float = 0.0


def named(tools: Sequence[str], tool: str) -> str | None:
    """Find a tool of ours under the name that a client gives it."""
    for name in tools:
        if name == tool or (name.endswith(tool) and name[-len(tool) - 1] in "_./-" and not _is_of_another(name, tool)):
            return name
    return None


def _is_lost(result: ToolResult) -> bool:
    """Tell whether a client says of its own accord why there is no turn: that it waited no longer, for example."""
    is_of_turn = any(named([result.name], tool) for tool in ("chat", "get_turn"))
    return is_of_turn and "turn_id" not in fields_in(result.text)


def _is_of_another(name: str, tool: str) -> bool:
    return any(other != tool and name.endswith(other) and len(other) > len(tool) for other in OURS)


class Provider:
    """Both models; `base` is the address, without a path."""

    def __init__(self, pace: float) -> None:
        self.base = ""
        self.asked: list[Asked] = []
        self.script = Script(())
        self._pace = pace
        self._has_asked = asyncio.Event()

    async def next_asked(self, number: int) -> Asked:
        """Wait until the agent's model was asked so often, and return that request."""
        while len(self.asked) < number:
            self._has_asked.clear()
            await self._has_asked.wait()
        return self.asked[number - 1]

    async def model(self, dialect: Dialect, request: web.Request) -> web.StreamResponse:
        """Answer the client as the script says."""
        body: Json = await request.json()
        asked = dialect.read(body)
        answer = await self._decide(asked)
        if not (asked.streams or "stream" in request.path.lower()):
            return web.json_response(dialect.whole(body, answer))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for name, data in dialect.stream(body, answer):
            head = f"event: {name}\n" if name else ""
            await response.write(f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode())
        return response

    async def _decide(self, asked: Request) -> Answer:
        script, tools = self.script, asked.tools
        if not tools:  # a title for the conversation, and the like
            return Answer("Fine.")
        if named(tools, "chat") is None and _SEARCH in tools and not script.searched:
            script.searched = True
            return Answer(tool=_SEARCH, arguments={"query": "+agentapi chat", "max_results": 20})
        script.show(tools)
        results = [result for result in asked.results if result.name not in {_SEARCH, "WaitForMcpServers"}]
        script.tell([result.text for result in results])
        if script.follow:
            kept = [result for result in results if not _is_lost(result)]
            if results and results[-1] not in kept:  # a model takes a moment, and a server that restarts, too
                await pause(self._pace)
            script.lost, results = len(results) - len(kept), kept
            if script.lost > _TRIES:
                return Answer("I give up.")
        running = self._running(results) if script.follow else None
        if running is not None:
            return Answer(tool=named(tools, "get_turn") or "get_turn", arguments={"turn_id": running})
        return await self._next(script, tools, results)

    async def _next(self, script: Script, tools: Sequence[str], results: Sequence[ToolResult]) -> Answer:
        made = sum(1 for result in results if named([result.name], "get_turn") is None)
        if made >= len(script.calls):
            script.done.set()
            return Answer("That is all.")
        call = script.calls[made]
        is_new, script.begun = made >= script.begun, made + 1
        if is_new and call.before is not None:
            await call.before()
        told = [result.text for result in results]
        given = call.arguments(told) if callable(call.arguments) else call.arguments
        return Answer(tool=named(tools, call.tool) or call.tool, arguments=given)

    def _running(self, results: Sequence[ToolResult]) -> str | None:
        last = results[-1].text if results else ""
        found = re.search(r'turn_id[\\": ]+([0-9a-f-]{36})', last)
        is_running = re.search(r'status\\?": ?\\?"running|[Ss]till running', last)
        return found[1] if found and is_running else None

    async def agent(self, request: web.Request) -> web.StreamResponse:
        """Answer an agent: a word a second."""
        body: Json = await request.json()
        message = str(body["messages"][-1]["content"])
        asked = Asked(message, now())
        self.asked.append(asked)
        self._has_asked.set()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        found = _WORDS.search(message)
        try:
            await response.prepare(request)
            for number in range(int(found[1]) if found else 1):
                if asked.enough.is_set():
                    break
                await pause(self._pace if number else 0)
                await _say(response, body, {"index": 0, "delta": {"content": f"word{number} "}})
                asked.spoken.set()
            await _say(response, body, {"index": 0, "delta": {"content": "the end"}, "finish_reason": "stop"})
            await response.write(b"data: [DONE]\n\n")
        finally:
            asked.ended_at = now()
            asked.ended.set()
        return response


async def _say(response: web.StreamResponse, body: Json, choice: Json) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, "cost": 0.001}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": body["model"], "choices": [choice]}
    last: Json = {"usage": usage} if choice.get("finish_reason") else {}
    await response.write(b"data: " + json.dumps(head | last).encode() + b"\n\n")


@asynccontextmanager
async def open_provider(pace: float) -> AsyncGenerator[Provider]:
    """Serve both models on a free port of loopback; `pace` is the seconds from one word of an answer to the next."""
    provider = Provider(pace)

    def asks(dialect: Dialect) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await provider.model(dialect, request)

        return handle

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "fake", "object": "model"}], "models": []})

    async def count(_request: web.Request) -> web.Response:
        return web.json_response({"input_tokens": 7, "totalTokens": 7})

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/agent/v1/chat/completions", provider.agent)
    app.router.add_post("/v1/chat/completions", asks(CHAT_COMPLETIONS))
    app.router.add_post("/v1/responses", asks(RESPONSES))
    app.router.add_post("/v1/messages", asks(MESSAGES))
    app.router.add_post("/v1/messages/count_tokens", count)
    app.router.add_post("/{version}/models/{model}:countTokens", count)
    app.router.add_post("/{version}/models/{model}:{way}", asks(GEMINI))
    app.router.add_route("*", "/{path:.*}", models)
    # A client that goes away ends what is done for it.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        provider.base = f"http://127.0.0.1:{cast('tuple[str, int]', runner.addresses[0])[1]}"
        yield provider
    finally:
        await runner.cleanup()


def fields_in(result: str) -> dict[str, Any]:
    """Find the fields of a turn in what a model was told, whichever way its client tells it."""
    names = ("turn_id", "session_id", "status")
    found = ((name, re.search(rf'{name}[\\": ]+([^\s\\",}}]+)', result)) for name in names)
    return {name: match[1] for name, match in found if match}
