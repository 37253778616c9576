"""Connect a Python program to the server, and ask agents."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypedDict, TypeVar
from uuid import uuid4

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client import Transport
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, Implementation
from typing_extensions import Unpack

from agentapi_mcp.base.exceptions import innermost
from agentapi_mcp.base.paging import Page, read_all
from agentapi_mcp.client.answers import Answer
from agentapi_mcp.client.errors import ConnectionLostError
from agentapi_mcp.client.refusals import Refusals
from agentapi_mcp.client.turns import Estimate
from agentapi_mcp.client.wire import Wire
from agentapi_mcp.environ import environment
from agentapi_mcp.presentation.models import (
    AgentOut,
    BudgetOut,
    BudgetsOut,
    CancelOut,
    ModelOut,
    RatingOut,
    RecordedOut,
    SessionOut,
)
from agentapi_mcp.presentation.output_model import OutputModel
from agentapi_mcp.presentation.usage import UsageOut
from agentapi_mcp.settings import VERSION, with_prefixed_names

OutT = TypeVar("OutT", bound=OutputModel)
# The server writes something every 15 s while a call runs.
_MISTAKES = (TypeError, AttributeError, NameError, AssertionError, ImportError)  # of a program, not of a network
_TIMEOUT = httpx2.Timeout(30, read=60)


class ChatOptions(TypedDict, total=False):
    """The arguments of the tool `chat`, as docs/tools.md describes them; None is as good as left out."""

    agent: str | None
    model: str | None
    session_id: str | None
    system_prompt: str | None
    temperature: float | None
    max_tokens: int | None
    max_cost_usd: float | None
    idempotency_key: str | None
    new: bool | None
    retry: bool | None


class RatingOptions(TypedDict, total=False):
    """The arguments of the tool `rate`, but for what is rated; None is as good as left out."""

    rating: int | None
    usefulness: int | None
    note: str | None
    clear: bool | None


class InteractionOptions(TypedDict, total=False):
    """The arguments of the tool `record_interaction`, but for the title; None is as good as left out."""

    external_link: str | None
    external_id: str | None
    agent: str | None
    model: str | None
    provider: str | None
    type: str | None
    tags: Sequence[str] | None
    content: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    started_at: str | None
    ended_at: str | None


class AgentClient:
    """Asks agents through the server; made by `connect`.

    Each call raises RefusedError where the server refuses it, and ConnectionLostError where the server is gone.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def chat(self, message: str, **options: Unpack[ChatOptions]) -> Answer:
        """Ask an agent; nothing is sent before a piece of the answer, or its turn, is asked for.

        Without an `idempotency_key` the message gets one of its own: two calls with the same message are two turns.
        """
        arguments: dict[str, object] = {"message": message, **options}
        if options.get("idempotency_key") is None:
            # A key that nobody else has asks anew by itself, and finds the turn where the connection is lost.
            arguments |= {"idempotency_key": str(uuid4()), "new": None}
        return Answer(self._wire, "chat", arguments)

    async def estimate(self, message: str, **options: Unpack[ChatOptions]) -> Estimate:
        """Return what a message may cost and what is left for it, without asking anybody."""
        return Estimate.model_validate(await self._wire.call("chat", {"message": message, **options, "estimate": True}))

    def ask(self, arguments: Mapping[str, object]) -> Answer:
        """Call the tool `chat` with these arguments alone: the same message may join the turn of an earlier call."""
        return Answer(self._wire, "chat", arguments)

    def turn(self, turn_id: str, *, known: int = 0) -> Answer:
        """Take up a turn, whoever began it; the first `known` characters of its reply do not come again."""
        return Answer(self._wire, "get_turn", {"turn_id": turn_id}, turn_id=turn_id, known=known)

    async def cancel(self, turn_id: str) -> CancelOut:
        """Stop a turn, and return what became of it; what it said so far is kept, and billed."""
        return await self._wire.cancel(turn_id)

    async def agents(self) -> list[AgentOut]:
        """List the agents, also those that are not set up: `missing` says what they need."""
        return await self._list("list_agents", "agents", AgentOut, {})

    async def models(self, agent: str | None = None) -> list[ModelOut]:
        """List the models of an agent, or of all."""
        return await self._list("list_models", "models", ModelOut, {"agent": agent})

    async def sessions(
        self, query: str | None = None, *, tag: str | None = None, archived: bool = False
    ) -> list[SessionOut]:
        """List the sessions, the newest first: all but those that are archived, with these words or this tag."""
        wanted = {"query": query, "tag": tag, "archived": archived or None}
        return await self._list("list_sessions", "sessions", SessionOut, wanted)

    async def rate_session(self, session_id: str, **said: Unpack[RatingOptions]) -> RatingOut:
        """Rate a session, which replaces the rating before. The server has this in its toolset `usage`."""
        return RatingOut.model_validate(await self._wire.call("rate", {"session_id": session_id, **said}))

    async def rate_turn(self, turn_id: str, **said: Unpack[RatingOptions]) -> RatingOut:
        """Rate one answer; it has no `usefulness`. The server has this in its toolset `usage`."""
        return RatingOut.model_validate(await self._wire.call("rate", {"turn_id": turn_id, **said}))

    async def tag(
        self, session_id: str, *, add: Sequence[str] = (), remove: Sequence[str] = (), kind: str | None = None
    ) -> SessionOut:
        """Change the tags of a session, or its kind. The server has this in its toolset `usage`."""
        changes = {"session_id": session_id, "add": list(add), "remove": list(remove), "type": kind}
        return SessionOut.model_validate(await self._wire.call("tag", changes))

    async def archive(self, session_id: str, *, undo: bool = False) -> SessionOut:
        """Leave a session out of lists, or take that back. The server has this in its toolset `usage`."""
        return SessionOut.model_validate(await self._wire.call("archive", {"session_id": session_id, "undo": undo}))

    async def record_interaction(self, title: str, **said: Unpack[InteractionOptions]) -> RecordedOut:
        """Record a conversation elsewhere. The server has this in its toolset `usage`."""
        return RecordedOut.model_validate(await self._wire.call("record_interaction", {"title": title, **said}))

    async def usage(
        self,
        *,
        by: str | None = None,
        since: str | None = None,
        until: str | None = None,
        whose: str | None = None,
        limit: int | None = None,
    ) -> UsageOut:
        """Return what was used in a period and what it cost, as the tool `get_usage` of the toolset `usage` tells it.

        By default it is your own of the last thirty days; `by`, `since`, `until`, `whose` and `limit` are the tool's.
        """
        arguments = {"by": by, "since": since, "until": until, "whose": whose, "limit": limit}
        return UsageOut.model_validate(await self._wire.call("get_usage", arguments))

    async def budgets(self) -> list[BudgetOut]:
        """Return the budgets that hold for you, for an administrator all, as `list_budgets` of the toolset `usage`."""
        return list(BudgetsOut.model_validate(await self._wire.call("list_budgets", {})).budgets)

    async def call(self, tool: str, arguments: Mapping[str, object]) -> Mapping[str, Any]:
        """Call any tool of the server, and return the fields of its result; arguments of None are left out."""
        return await self._wire.call(tool, arguments)

    async def _list(self, tool: str, name: str, of: type[OutT], arguments: Mapping[str, object]) -> list[OutT]:
        async def read(cursor: str | None) -> Page[OutT]:
            answer = await self._wire.call(tool, {**arguments, "cursor": cursor})
            return Page(tuple(of.model_validate(each) for each in answer[name]), answer["next_cursor"])

        return list(await read_all(read))


@asynccontextmanager
async def connect(
    url: str | None = None, *, token: str | None = None, env: Mapping[str, str] | None = None, name: str = "python"
) -> AsyncGenerator[AgentClient]:
    """Connect to the server: to the one at `url`, which ends in `/mcp`, with its token; else to this machine's own.

    That one is started as MCP clients start it, with the environment of this process and `env`. `name` is how the
    server's lists and preferences call this client.

    Nobody waits any more for an answer that is still being written when the block is left: the server stops it after a
    while (docs/turns.md), unless it is taken up with `turn`.

    Raises:
        ConnectionLostError: there is no server at the address, or it does not start.
        RefusedError: the server does not take the token, or what answers there is no MCP server.
    """
    failure: Exception | None = None
    left = asyncio.Event()
    opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    # The connection closes before the group waits: what an answer then still waits for is known to be gone.
    async with asyncio.TaskGroup() as group:
        wire = Wire(group)
        group.create_task(_hold(wire, opened, left, partial(_opened, wire, url, token, env or {}, name)))
        try:
            wire.use(await _first(opened, url, wire))
            yield AgentClient(wire)
        except Exception as exc:  # noqa: BLE001  # raised below: a task group would hide it in a group of exceptions
            failure = exc
        finally:
            wire.close()
            left.set()
    if failure is not None:
        raise failure


async def _hold(
    wire: Wire,
    opened: asyncio.Future[Client],
    left: asyncio.Event,
    opening: Callable[[AsyncExitStack], Coroutine[Any, Any, Client]],
) -> None:
    """Hold a connection in a task of its own: the SDK cancels the task that opened it where a request fails."""
    try:
        async with AsyncExitStack() as stack:
            opened.set_result(await opening(stack))
            await left.wait()
    except Exception as exc:  # noqa: BLE001  # who waits for an answer has been told that the connection is closed
        if not opened.done():
            opened.set_exception(exc)
    finally:
        wire.close()


async def _opened(
    wire: Wire, url: str | None, token: str | None, env: Mapping[str, str], name: str, stack: AsyncExitStack
) -> Client:
    target: Transport | StdioServerParameters
    if url is None:
        # The same database as that of a command, which reads DATABASE_URL as well.
        environ = {**with_prefixed_names(environment()), **env}
        target = StdioServerParameters(
            command=sys.executable, args=["-m", "agentapi_mcp"], env=environ, encoding_error_handler="replace"
        )
    else:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        wire.refusals = Refusals(url, has_token=token is not None)
        hooks = {"response": [wire.refusals.heard]}
        http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=_TIMEOUT, event_hooks=hooks))
        target = streamable_http_client(url, http_client=http)
    client = Client(target, client_info=Implementation(name=name, version=VERSION), message_handler=wire.hear)
    await stack.enter_async_context(client)
    # Else the SDK lists the tools after the first answer, which is lost where the server is then shutting down.
    await client.list_tools()
    return client


async def _first(opened: Awaitable[Client], url: str | None, wire: Wire) -> Client:
    try:
        return await opened
    except Exception as exc:
        raise _unopened(exc, url, wire) from exc


def _unopened(exc: Exception, url: str | None, wire: Wire) -> Exception:
    """Say why there is no connection: the SDK raises the reason within groups of exceptions."""
    reason = innermost(exc)
    if isinstance(reason, _MISTAKES):
        return reason
    if isinstance(reason, MCPError) and reason.error.code != CONNECTION_CLOSED:
        return wire.told(reason)
    if url is None:
        return ConnectionLostError("The server does not start: `agentapi-mcp doctor` says why.")
    return ConnectionLostError(f"The server at {url} cannot be reached: {str(reason) or type(reason).__name__}")
