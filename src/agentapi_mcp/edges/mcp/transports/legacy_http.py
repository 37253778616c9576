"""Streamable HTTP for 2025-era clients: their sessions live in the database, so any replica serves any request."""

import json
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from mcp.server.connection import Connection
from mcp.server.runner import serve_one
from mcp.shared.dispatcher import as_request_id
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    DEFAULT_NEGOTIATED_VERSION,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import Receive, Scope
from starlette.types import Send as AsgiSend

from agentapi_mcp.base.concurrency import TaskSupervisor
from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.json_values import as_object, is_list, is_object
from agentapi_mcp.base.store_waits import store_answers_within
from agentapi_mcp.base.text import storable_value
from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.callers import Caller, Callers
from agentapi_mcp.edges.mcp.cancellations import Cancellations, departure
from agentapi_mcp.edges.mcp.client.elicitation import ANSWER_TIMEOUT, PendingElicitations, Send, read_answer
from agentapi_mcp.edges.mcp.errors import NO_BATCHES, explain
from agentapi_mcp.edges.mcp.http_dispatch import Answer, AsgiConnection, ClientRequester, Headers, HttpDispatch, respond
from agentapi_mcp.edges.mcp.server.server import EdgeServer
from agentapi_mcp.edges.mcp.server.subscriptions import Subscriptions
from agentapi_mcp.edges.mcp.transports.envelopes import as_meant, envelope_fault
from agentapi_mcp.edges.mcp.transports.negotiation import ONLY_EVENTS, accepted
from agentapi_mcp.web.requests import head_of, json_of

SESSION_HEADER = "mcp-session-id"
_MAX_ID = 200
_MAX_NAME = 200
_MAX_STORED_BYTES = 8 * 1024  # of a client's own description
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class LegacyHttp:
    """The endpoint: POST carries requests, GET streams notifications, DELETE ends the session."""

    server: EdgeServer
    callers: Callers
    cancellations: Cancellations
    subscriptions: Subscriptions
    background: TaskSupervisor
    elicitations: PendingElicitations = field(default_factory=PendingElicitations)
    subscribed_to: Services | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: AsgiSend) -> None:
        """Serve one HTTP request."""
        wire, request = AsgiConnection(scope, receive, send), Request(scope, receive)
        session_id = request.headers.get(SESSION_HEADER)
        try:
            client = None if session_id is None else await self._find(scope, session_id)
        except AgentApiError as exc:
            await wire.refuse(503, INTERNAL_ERROR, explain(exc))
            return
        if session_id is not None and client is None:
            # MCP 2025-06-18, transports, session management: 404 makes the client initialize again.
            await wire.refuse(404, INVALID_REQUEST, "There is no such MCP session, or it has ended: initialize again.")
            return
        match request.method, client:
            case "POST", _:
                await self._post(wire, request, client)
            case "GET", _SessionClient():
                await self._get(wire, client)
            case "DELETE", _SessionClient(caller, session):
                async with store_answers_within():
                    await caller.services.transport_sessions.close(caller.principal, session.id)
                await wire.reply(204)
            case _:
                # MCP 2025-06-18, transports: 405 tells a client that there is no stream for it.
                message = "Send a POST; GET and DELETE need the Mcp-Session-Id that initialize gave."
                await wire.refuse(405, INVALID_REQUEST, message, [(b"allow", b"POST")])

    async def _find(self, scope: Scope, session_id: str) -> "_SessionClient | None":
        caller = await self.callers.of_http(scope)
        self._subscribe(caller)
        if len(session_id) > _MAX_ID or not session_id.isprintable():
            return None
        async with store_answers_within():
            session = await caller.services.transport_sessions.find(caller.principal, session_id)
        return None if session is None else _SessionClient(caller, session)

    def _subscribe(self, caller: Caller) -> None:
        """Subscribe to responses and cancellations that arrive at another replica."""
        # Once for each instance of the services: a restart of the stores makes a new one.
        if self.subscribed_to is not caller.services:
            self.subscribed_to = caller.services
            self.subscribed_to.elicitations.on_answer(self.elicitations.wake)
            self.subscribed_to.transport_sessions.on_cancelled(self._cancel)

    def _cancel(self, session_id: str, request_id: str, how: str) -> None:
        with suppress(ValueError):  # a newer program's word
            self.cancellations.cancel((session_id, request_id), Departure(how))

    async def _get(self, wire: AsgiConnection, client: "_SessionClient") -> None:
        if not accepted(head_of(wire.scope)).events:
            await wire.refuse(406, INVALID_REQUEST, ONLY_EVENTS)
            return
        try:
            await self.subscriptions.stream(client.caller, client.session, wire)
        except MCPError as exc:
            seconds = cast("dict[str, object]", exc.error.data or {}).get("retry_after_seconds", 1)
            await wire.refuse(429, exc.error.code, exc.error.message, [(b"retry-after", str(seconds).encode())])

    async def _post(self, wire: AsgiConnection, request: Request, client: "_SessionClient | None") -> None:
        try:
            message = as_meant(json_of(wire.scope))
        except (ValueError, RecursionError):
            await wire.refuse(400, PARSE_ERROR, "The body is not JSON.")
            return
        if is_list(message):
            await wire.refuse(400, INVALID_REQUEST, NO_BATCHES)
            return
        if is_object(message) and "method" not in message and ("result" in message or "error" in message):
            await self._receive_answer(wire, client, message)
            return
        try:
            if is_object(message) and "id" not in message:
                # MCP: a notification or response that is accepted is answered by 202 without a body.
                await self._receive_notification(client, JSONRPCNotification.model_validate(message))
                await wire.reply(202)
                return
            call = JSONRPCRequest.model_validate(message)
        except ValidationError:
            fault = envelope_fault(message) or "The body must be one JSON-RPC 2.0 request or notification."
            await wire.refuse(400, INVALID_REQUEST, fault)
            return
        await self._serve(wire, request, client, call, streams=accepted(head_of(wire.scope)).events)

    async def _receive_answer(
        self, wire: AsgiConnection, client: "_SessionClient | None", message: dict[str, Any]
    ) -> None:
        """Pass on a client's response to the request that waits for it, here or in another replica."""
        try:
            answer = read_answer(message)
        except ValidationError:
            fault = envelope_fault(message) or "The body must be one JSON-RPC 2.0 message."
            await wire.refuse(400, INVALID_REQUEST, fault)
            return
        try:
            if client is not None:
                await self.elicitations.receive(client.caller, client.session.id, answer)
        except AgentApiError as exc:
            await wire.refuse(503, INTERNAL_ERROR, explain(exc))
            return
        await wire.reply(202)

    async def _receive_notification(self, client: "_SessionClient | None", message: JSONRPCNotification) -> None:
        """Handle a cancellation, of a request in this or another replica; ignore other notifications."""
        if message.method != "notifications/cancelled" or client is None:
            return
        params = as_object(message.params)
        request_id = as_request_id(params.get("requestId"))
        if request_id is None:
            return
        how = departure(params.get("reason"))
        if not self.cancellations.cancel((client.session.id, str(request_id)), how):
            sessions = client.caller.services.transport_sessions
            try:
                async with store_answers_within():
                    await sessions.notify_cancelled(
                        client.caller.principal, client.session.id, str(request_id)[:_MAX_ID], how
                    )
            except AgentApiError as exc:
                _log.warning("cancellation_not_told", extra={"code": exc.code})

    async def _serve(
        self,
        wire: AsgiConnection,
        request: Request,
        client: "_SessionClient | None",
        call: JSONRPCRequest,
        *,
        streams: bool,
    ) -> None:
        exchange = HttpDispatch(
            request_id=call.id,
            transport=TransportContext(
                kind="streamable-http", can_send_request=client is not None and streams, headers=request.headers
            ),
            message_metadata=ServerMessageMetadata(request_context=request),
            progress_token=_progress_token(call.params),
            streams=streams,
            request_client=None if client is None else self._client_requester(client),
        )
        connection = _connection(client, request)

        async def work() -> dict[str, Any]:
            return await serve_one(
                self.server,
                exchange,
                call.method,
                call.params,
                connection=connection,
                lifespan_state=self.background,
            )

        async def headers(answer: Answer) -> Headers:
            if call.method != "initialize" or not isinstance(answer, JSONRPCResponse):
                return []
            return await self._begin(request.scope, call, answer)

        # Request ids repeat between clients, so a request without a session cannot be cancelled by its id.
        key = None if client is None else (client.session.id, str(call.id))
        with self.cancellations.cancelling(key, exchange.scope.cancel):
            await respond(wire, exchange, work, headers)

    def _client_requester(self, client: "_SessionClient") -> ClientRequester:
        async def send_request(
            factory: Callable[[str], JSONRPCRequest], send: Send, within: float | None
        ) -> dict[str, Any]:
            seconds = ANSWER_TIMEOUT.total_seconds() if within is None else within
            return await self.elicitations.request(client.caller, client.session.id, factory, send, seconds)

        return send_request

    async def _begin(self, scope: Scope, call: JSONRPCRequest, answer: JSONRPCResponse) -> Headers:
        """Start an MCP session and return its header; none if the stores are down, which only subscriptions need."""
        params = call.params or {}
        session = McpSession(
            # The specification asks for ids that are unique and cryptographically secure.
            id=secrets.token_urlsafe(24),
            protocol=str(answer.result["protocolVersion"]),
            client=_client(params.get("clientInfo")),
            capabilities=_small(params.get("capabilities")),
        )
        try:
            caller = await self.callers.of_http(scope)
            async with store_answers_within():
                await caller.services.transport_sessions.open_(caller.principal, session)
        except AgentApiError as exc:
            _log.warning("mcp_session_not_begun", extra={"code": exc.code})
            return []
        except Exception as exc:  # noqa: BLE001  # the handshake succeeds without a session
            _log.error("mcp_session_not_begun", exc_info=exc)
            return []
        return [(SESSION_HEADER.encode(), session.id.encode())]


@dataclass(frozen=True, slots=True)
class _SessionClient:
    caller: Caller
    session: McpSession


def _connection(client: _SessionClient | None, request: Request) -> Connection:
    if client is None:
        # Without the header, the specification assumes 2025-03-26; `initialize` may name any revision there.
        version = request.headers.get("mcp-protocol-version", "")
        is_known = version in HANDSHAKE_PROTOCOL_VERSIONS
        return Connection.from_envelope(version if is_known else DEFAULT_NEGOTIATED_VERSION, None, None)
    session = client.session
    connection = Connection.from_envelope(session.protocol, dict(session.client), dict(session.capabilities))
    connection.session_id = session.id
    return connection


def _client(value: object) -> dict[str, object]:
    """Return a client's `clientInfo` to store; if it is too large, only the name and version."""
    info = as_object(storable_value(value))
    return _small(info) or {name: str(info.get(name, ""))[:_MAX_NAME] for name in ("name", "version")}


def _small(value: object) -> dict[str, object]:
    """Return an object to store with the session; empty if it is too large."""
    stored = as_object(storable_value(value))
    return stored if len(json.dumps(stored)) <= _MAX_STORED_BYTES else {}


def _progress_token(params: dict[str, Any] | None) -> str | int | None:
    return as_request_id(as_object((params or {}).get("_meta")).get("progressToken"))
