"""Notes what a client says of itself when it connects, on the way to the server over HTTP."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import ClientSession, ClientTimeout, web
from mcp_types import CLIENT_CAPABILITIES_META_KEY, PROTOCOL_VERSION_META_KEY

from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.edges.mcp.tasks.messages import EXTENSION

_OF_A_HOP = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-encoding"})


@dataclass
class Recorder:
    """Passes requests on to a server; `url` is its own address."""

    server: str
    http: ClientSession
    url: str = ""
    revision: str = "none"
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def words(self) -> str:
        """Say which revision the client speaks, and how it asks its user and takes tasks."""
        elicitation = self.capabilities.get("elicitation")
        # Without a member it is a form: there was nothing else before 2025-11-25.
        forms = None if elicitation is None else ", ".join(elicitation) or "form"
        has_tasks = EXTENSION in (self.capabilities.get("extensions") or {})
        asks = "asks nothing" if forms is None else f"asks by {forms}"
        return f"{self.revision}; {asks}; {'tasks' if has_tasks else 'no tasks'}"

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, and its answer back, piece by piece."""
        body = await request.read()
        self._note(body)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_A_HOP}
        async with self.http.request(request.method, self.server, data=body, headers=headers) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OF_A_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response

    def _note(self, body: bytes) -> None:
        try:
            said = as_object(json.loads(body))
        except ValueError:
            return  # a GET
        params = as_object(said.get("params") or {})
        meta = as_object(params.get("_meta") or {})
        if said.get("method") == "initialize":
            self.revision, self.capabilities = str(params["protocolVersion"]), as_object(params["capabilities"])
        elif CLIENT_CAPABILITIES_META_KEY in meta:
            self.revision = str(meta[PROTOCOL_VERSION_META_KEY])
            self.capabilities = as_object(meta[CLIENT_CAPABILITIES_META_KEY])


@asynccontextmanager
async def open_recorder(server: str) -> AsyncGenerator[Recorder]:
    """Listen on a free port of loopback."""
    async with ClientSession(timeout=ClientTimeout(total=None)) as http:
        recorder = Recorder(server, http)
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/mcp", recorder.pass_on)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            recorder.url = f"http://127.0.0.1:{cast('tuple[str, int]', runner.addresses[0])[1]}/mcp"
            yield recorder
        finally:
            await runner.cleanup()
