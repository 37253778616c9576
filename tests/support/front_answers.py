"""What the server answers alike to everybody; `make front` writes it down for the front."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from io import TextIOWrapper
from itertools import combinations
from pathlib import Path

import anyio
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.edges.mcp.front.answers import FILE, Members, checksum
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.edges.mcp.transports.stdio import serve_stdio
from agentapi_mcp.settings import TOOLSETS, VERSION, Settings
from tests.support.embedded import SharedHome

MODERN_META: dict[str, object] = {
    "io.modelcontextprotocol/protocolVersion": LATEST_MODERN_VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
LISTS = ("tools/list", "prompts/list", "resources/templates/list")
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'


def request(method: str, params: object = None, key: object = 1) -> bytes:
    """Write a request as a line."""
    given = {} if params is None else {"params": params}
    text = json.dumps({"jsonrpc": "2.0", "id": key, "method": method, **given}, ensure_ascii=False)
    return text.encode() + b"\n"


def initialize(revision: object = LATEST_HANDSHAKE_VERSION, key: object = 1, **params: object) -> bytes:
    """Write an `initialize` as a line."""
    given = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
    return request("initialize", given | params, key)


def modern(method: str, key: object = 1, **meta: object) -> bytes:
    """Write a request of 2026-07-28 as a line."""
    return request(method, {"_meta": MODERN_META | meta}, key)


def listen(key: object = 1, **filters: object) -> bytes:
    """Write a subscription as a line; without filters, to changes of the list of resources."""
    given = filters or {"resourcesListChanged": True}
    return request("subscriptions/listen", {"_meta": MODERN_META, "notifications": given}, key)


def combined() -> list[tuple[str, ...]]:
    """Return every combination of the toolsets that can be set."""
    return [each for count in range(1, len(TOOLSETS) + 1) for each in combinations(TOOLSETS, count)]


class Pipes:
    """A client of the server, line by line."""

    def __init__(self, reader: TextIOWrapper, writer: TextIOWrapper) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, line: bytes) -> None:
        """Write a line that is not answered."""
        await asyncio.to_thread(os.write, self._writer.fileno(), line)

    async def ask(self, line: bytes) -> bytes:
        """Write a line, and return the next that comes and is no notification."""
        await self.say(line)
        while b'"method":' in (answer := await self.hear())[:30]:
            continue
        return answer

    async def hear(self) -> bytes:
        """Return the next line."""
        return (await asyncio.to_thread(self._reader.readline)).encode()


@asynccontextmanager
async def served(services: ServicesProvider, toolsets: Iterable[str] = ("core",)) -> AsyncGenerator[Pipes]:
    """Serve over two pipes as over stdin and stdout, without any front."""
    server = create_server(services, McpOptions(version=VERSION, toolsets=frozenset(toolsets)))
    to_server, to_client = os.pipe(), os.pipe()
    with (
        TextIOWrapper(os.fdopen(to_server[0], "rb"), encoding="utf-8", errors="replace") as stdin,
        TextIOWrapper(os.fdopen(to_client[0], "rb"), encoding="utf-8", newline="\n") as replies,
        TextIOWrapper(os.fdopen(to_client[1], "wb"), encoding="utf-8") as stdout,
        TextIOWrapper(os.fdopen(to_server[1], "wb"), encoding="utf-8") as requests,
    ):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(serve_stdio(server, anyio.wrap_file(stdin), anyio.wrap_file(stdout)))
            try:
                yield Pipes(replies, requests)
            finally:
                requests.close()
                await task


async def handshake_answers(services: ServicesProvider) -> dict[str, object]:
    """Ask for what is the same in all revisions with a handshake; `services` are those of a user without sessions."""
    found = list[dict[str, object]]()
    for revision in HANDSHAKE_PROTOCOL_VERSIONS:
        methods = ("ping", "prompts/list", "resources/templates/list", "resources/list")
        async with served(services) as client:
            await client.ask(initialize(revision))
            await client.say(INITIALIZED)
            answers: dict[str, object] = {method: _result(await client.ask(request(method))) for method in methods}
        texts = dict[str, str]()
        for toolset in TOOLSETS:
            async with served(services, (toolset,)) as client:
                await client.ask(initialize(revision))
                texts[toolset] = _result(await client.ask(request("tools/list")))
        found.append(answers | {"tools/list": _split(texts)})
    assert all(each == found[0] for each in found), "the lists differ by revision: keep them by revision"
    return found[0]


async def modern_answers(services: ServicesProvider) -> dict[str, object]:
    """Ask for what the front answers in 2026-07-28."""
    texts = dict[str, str]()
    for toolset in TOOLSETS:
        async with served(services, (toolset,)) as client:
            texts[toolset] = _result(await client.ask(modern("tools/list")))
    async with served(services) as client:
        methods = ("server/discover", "prompts/list", "resources/templates/list", "resources/list")
        answers: dict[str, object] = {method: _result(await client.ask(modern(method))) for method in methods}
    return answers | {"tools/list": _split(texts)}


async def answers_file(services: ServicesProvider) -> str:
    """Return what the file must be."""
    shaken = dict[str, str]()
    for revision in HANDSHAKE_PROTOCOL_VERSIONS:
        async with served(services) as client:
            shaken[revision] = _result(await client.ask(initialize(revision)))
    answers = Members(
        initialize=shaken,
        newest=LATEST_HANDSHAKE_VERSION,
        handshake=await handshake_answers(services),
        modern=await modern_answers(services),
    )
    file = {"version": VERSION, "checksum": checksum(answers), "answers": answers}
    return json.dumps(file, indent=1, ensure_ascii=False) + "\n"


def _result(line: bytes) -> str:
    begin, end = b'{"jsonrpc":"2.0","id":1,"result":', b"}\n"
    assert line.startswith(begin), line
    assert line.endswith(end), line
    return line[len(begin) : -len(end)].decode()


def _split(texts: dict[str, str]) -> dict[str, object]:
    """Split lists of tools into what is before the tools, those of each toolset, and what is after them."""
    begins, ends, tools = set[str](), set[str](), dict[str, str]()
    for toolset, text in texts.items():
        begin, separator, rest = text.partition('"tools":[')
        # Where the array ends: the shortest beginning that is one.
        _, length = json.JSONDecoder().raw_decode("[" + rest)
        tools[toolset] = rest[: length - 2]
        begins.add(begin + separator)
        ends.add(rest[length - 2 :])
    (begin,), (end,) = begins, ends
    return {"begin": begin, "toolsets": tools, "end": end}


async def main() -> None:
    """Write the file anew."""
    with tempfile.TemporaryDirectory(prefix="front-", dir="/tmp", ignore_cleanup_errors=True) as path:
        await asyncio.to_thread(Path(path).chmod, 0o711)
        home = SharedHome(Path(path) / "home")
        try:
            async with open_app(Settings(home=home.path, postgres_linger_seconds=0), {}) as app:
                text = await answers_file(app.services_provider)
        finally:
            await asyncio.to_thread(home.remove)
    await asyncio.to_thread(Path(FILE).write_text, text, encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
