"""Calls of tools, with their errors as exceptions, and the pieces of replies that come before results."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from uuid import uuid4

import anyio
import httpx2
from mcp import Client
from mcp.client.session import IncomingMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    CallToolResult,
    ProgressNotification,
    RequestParamsMeta,
    TextContent,
)

from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.client.errors import ClientError, ConnectionLostError, RefusedError, refused
from agentapi_mcp.client.refusals import Refusals
from agentapi_mcp.client.turns import Turn
from agentapi_mcp.presentation.deltas import DELTA_META_KEY, DELTAS_META_KEY
from agentapi_mcp.presentation.errors import ERROR_META_KEY
from agentapi_mcp.presentation.models import CancelOut

T = TypeVar("T")
Hear = Callable[[str, int, str], None]  # a turn's id, the place of a piece in its reply, and the piece


@dataclass(slots=True)
class Wire:
    """A connection to the server."""

    group: asyncio.TaskGroup
    hearing: dict[str | int, Hear] = field(default_factory=dict[str | int, Hear])
    wait_seconds: int = 240  # of one call; a turn that takes longer is asked for again
    refusals: Refusals | None = None
    _client: Client | None = None

    def use(self, client: Client) -> None:
        """Call tools with this client, whose notifications `hear` gets."""
        self._client = client
        if self.refusals is not None:
            self.refusals.is_open = True

    def close(self) -> None:
        """Call no more tools."""
        self._client = None

    def connected(self) -> Client:
        """Return the client.

        Raises:
            ConnectionLostError: the connection was closed.
        """
        if self._client is None:
            raise ConnectionLostError("The connection is closed: open another one with `agentapi_mcp.connect()`.")
        return self._client

    async def hear(self, message: IncomingMessage) -> None:
        """Hand a piece to the answer that it is of."""
        if not isinstance(message, ProgressNotification):
            return
        hear = self.hearing.get(message.params.progress_token)
        delta = as_object((message.params.meta or {}).get(DELTA_META_KEY))
        match delta:
            case {"turn_id": str() as turn_id, "offset": int() as offset, "text": str() as text} if hear is not None:
                hear(turn_id, offset, text)
            case _:
                pass

    async def turn_call(self, tool: str, arguments: Mapping[str, object], known: int, hear: Hear) -> Turn:
        """Call a tool that answers with a turn, whatever became of it."""
        token = uuid4().hex
        self.hearing[token] = hear
        meta = cast("RequestParamsMeta", {"progress_token": token, DELTAS_META_KEY: known})
        try:
            return Turn.model_validate(await self.call(tool, {**arguments, "wait_seconds": self.wait_seconds}, meta))
        finally:
            del self.hearing[token]

    async def call(
        self, tool: str, arguments: Mapping[str, object], meta: RequestParamsMeta | None = None
    ) -> Mapping[str, Any]:
        """Call a tool, and return its fields.

        Raises:
            RefusedError: the server refused the call.
            ConnectionLostError: the server is gone.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            raise RefusedError("An argument holds half of a character (a lone surrogate): nothing was sent.") from None
        except ValueError:
            # The SDK would send null in its place, as if the argument, perhaps a bound, were left out.
            raise RefusedError(
                "An argument is a number that JSON does not have (NaN, infinite): nothing was sent."
            ) from None
        result = await self._answered(lambda client: client.call_tool(tool, given, meta=meta))
        if result.structured_content is None:
            raise refused(_text(result), as_object((result.meta or {}).get(ERROR_META_KEY)))
        return cast("Mapping[str, Any]", result.structured_content)

    async def cancel(self, turn_id: str) -> CancelOut:
        """End a turn."""
        return CancelOut.model_validate(await self.call("cancel_turn", {"turn_id": turn_id}))

    async def whole_reply(self, turn: Turn) -> str:
        """Read from the transcript, from its end on, a reply that was cut in the result.

        Raises:
            RefusedError: it is there no more.
        """
        cursor: object = None
        while True:
            arguments = {"session_id": turn.session_id, "format": "json", "cursor": cursor}
            part = await self.call("get_transcript", arguments)
            for message in reversed(part["document"]["messages"]):
                if message["role"] == "assistant" and message["turn"]["id"] == turn.turn_id:
                    return str(message["content"])
            cursor = part["next_cursor"]
            if cursor is None:
                raise RefusedError(f"The reply of the turn {turn.turn_id} is no longer in its session.")

    def told(self, exc: MCPError) -> ClientError:
        """Return what the server, what stands before it, or the SDK answers instead of a result."""
        error = as_error(exc)
        return error if self.refusals is None else self.refusals.instead_of(error)

    async def _answered(self, call: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        client = self.connected()
        try:
            return await call(client)
        except MCPError as exc:
            raise self.told(exc) from exc
        except (httpx2.TransportError, OSError, anyio.ClosedResourceError, anyio.BrokenResourceError) as exc:
            raise ConnectionLostError("The server is gone.") from exc


def as_error(exc: MCPError) -> ClientError:
    """Return what the server, or the SDK, answers instead of a result."""
    if exc.error.code == CONNECTION_CLOSED:
        return ConnectionLostError("The server is gone.")
    return refused(exc.error.message, as_object(exc.error.data))


def _text(result: CallToolResult) -> str:
    return " ".join(part.text for part in result.content if isinstance(part, TextContent))
