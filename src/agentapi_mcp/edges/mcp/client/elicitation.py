"""Requests from the server to a 2025-era client over HTTP; any replica may receive the response."""

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import REQUEST_TIMEOUT, JSONRPCError, JSONRPCRequest, JSONRPCResponse

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.edges.mcp.callers import Caller

Answer = JSONRPCResponse | JSONRPCError
Send = Callable[[JSONRPCRequest], Awaitable[None]]

# A person may have to answer; a caller with less time sets the timeout in the options of the request.
ANSWER_TIMEOUT = timedelta(minutes=5)
_POLL_EVERY = timedelta(seconds=5)  # a signal may be lost
_WITHDRAW_WITHIN = 2.0
_OURS = re.compile(r"ask-[A-Za-z0-9_-]{22}")
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Pending:
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Answer | None = None


class PendingElicitations:
    """Requests that wait for the client's response; it may arrive at any process on the database."""

    def __init__(self, poll_every: timedelta = _POLL_EVERY) -> None:
        self._poll_every = poll_every.total_seconds()
        self._pending: dict[tuple[str, str], _Pending] = {}

    async def request(
        self, caller: Caller, session_id: str, factory: Callable[[str], JSONRPCRequest], send: Send, within: float
    ) -> dict[str, Any]:
        """Send the request that the factory makes for an id, and wait for its result.

        Raises:
            MCPError: the client responded with an error, or not in time.
            AgentApiError: the stores are down, which pass responses between processes.
        """
        elicitation_id = f"ask-{secrets.token_urlsafe(16)}"
        pending = self._pending.setdefault((session_id, elicitation_id), _Pending())
        elicitations = caller.services.elicitations
        try:
            # Before it is sent: the response may reach another replica before `send` returns.
            await elicitations.create(caller.principal, session_id, elicitation_id)
            await send(factory(elicitation_id))
            with anyio.move_on_after(within):
                return _result(await self._answer(caller, session_id, elicitation_id, pending))
            raise MCPError(REQUEST_TIMEOUT, "The client did not answer in time.", {"requestId": elicitation_id})
        finally:
            del self._pending[session_id, elicitation_id]
            # Shielded: a client that disconnects cancels the request, whose row must be removed all the same. Bounded,
            # since the database may be down.
            with anyio.CancelScope(shield=True), anyio.move_on_after(_WITHDRAW_WITHIN):
                await _withdraw(caller, session_id, elicitation_id)

    async def receive(self, caller: Caller, session_id: str, answer: Answer) -> None:
        """Accept a client's response; ignore one to an unknown request.

        Raises:
            AgentApiError: the stores are down, and the request is another process's.
        """
        elicitation_id = answer.id
        # Ids that we never made cost no query.
        if not isinstance(elicitation_id, str) or not _OURS.fullmatch(elicitation_id):
            return
        pending = self._pending.get((session_id, elicitation_id))
        if pending is None:
            # It waits in another process: the response goes through the store, since a signal has only ids.
            content = answer.model_dump(by_alias=True, exclude_none=True)  # plain values already: it was JSON
            await caller.services.elicitations.answer(caller.principal, session_id, elicitation_id, content)
        elif pending.answer is None:
            pending.answer = answer
            pending.arrived.set()

    def wake(self, session_id: str, elicitation_id: str) -> None:
        """Look for the response in the store, where another process has put it."""
        pending = self._pending.get((session_id, elicitation_id))
        if pending is not None:
            pending.arrived.set()

    async def _answer(self, caller: Caller, session_id: str, elicitation_id: str, pending: _Pending) -> Answer:
        elicitations = caller.services.elicitations
        while True:
            with anyio.move_on_after(self._poll_every):
                await pending.arrived.wait()
            # Before the look-up: a signal during it leads to another one.
            pending.arrived.clear()
            if pending.answer is not None:
                return pending.answer
            found = await elicitations.find_answer(caller.principal, session_id, elicitation_id)
            if found is not None:
                return read_answer(found)


def read_answer(message: Mapping[str, object]) -> Answer:
    """Parse a response.

    Raises:
        ValidationError: it is not a JSON-RPC response.
    """
    kind = JSONRPCResponse if "result" in message else JSONRPCError
    return kind.model_validate(message)


def _result(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, JSONRPCError):
        raise MCPError.from_jsonrpc_error(answer)
    return answer.result


async def _withdraw(caller: Caller, session_id: str, elicitation_id: str) -> None:
    try:
        await caller.services.elicitations.withdraw(caller.principal, session_id, elicitation_id)
    except AgentApiError as exc:
        _log.warning("question_not_withdrawn", extra={"code": exc.code})
