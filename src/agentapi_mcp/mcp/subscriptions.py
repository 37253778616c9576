"""Update notifications in both protocol eras, fed by what the processes on one database tell each other."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

from mcp.server.connection import Connection
from mcp.server.subscriptions import ListenHandler, ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    EmptyResult,
    NotificationParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from agentapi_mcp.core.errors import AgentApiError
from agentapi_mcp.core.identity import UserId
from agentapi_mcp.core.records.turns import Signal, SignalKind
from agentapi_mcp.core.transcripts import transcript_uri
from agentapi_mcp.mcp.background import Background
from agentapi_mcp.mcp.callers import Caller, Callers, Context
from agentapi_mcp.mcp.errors import resource_not_found
from agentapi_mcp.mcp.options import McpOptions
from agentapi_mcp.mcp.resources import CATALOGUE_URI, Resources

_log = logging.getLogger(__name__)
_BUFFERED = 256
_OF_A_SESSION = {SignalKind.SESSION_CHANGED, SignalKind.SESSIONS_CHANGED, SignalKind.ENDED}


def events_of(signal: Signal, user_id: UserId) -> list[ServerEvent]:
    """Translate a signal into what this user may hear of it."""
    if signal.kind is SignalKind.CATALOGUE_CHANGED:
        return [ResourceUpdated(CATALOGUE_URI)]
    if signal.kind not in _OF_A_SESSION or signal.user_id != user_id:
        return []
    events: list[ServerEvent] = []
    if signal.kind is SignalKind.SESSIONS_CHANGED:
        events.append(ResourcesListChanged())
    if signal.session_id is not None:
        events += [ResourceUpdated(transcript_uri(signal.session_id, json=as_json)) for as_json in (False, True)]
    return events


class Pace:
    """Lets an event through at once and its repetitions at most every so often; the last one is never lost."""

    def __init__(self, every: timedelta, deliver: Callable[[ServerEvent], None]) -> None:
        self._every = every.total_seconds()
        self._deliver = deliver
        self._resting: dict[ServerEvent, asyncio.TimerHandle] = {}
        self._again: set[ServerEvent] = set()

    def offer(self, event: ServerEvent) -> None:
        """Deliver the event now or, when it was delivered a moment ago, later."""
        if event in self._resting:
            self._again.add(event)
            return
        self._resting[event] = asyncio.get_running_loop().call_later(self._every, self._rested, event)
        self._deliver(event)

    def close(self) -> None:
        """Deliver nothing more."""
        for timer in self._resting.values():
            timer.cancel()

    def _rested(self, event: ServerEvent) -> None:
        del self._resting[event]
        if event in self._again:
            self._again.remove(event)
            self.offer(event)


class UserBus:
    """What one user may hear, as the SDK's subscription bus; each listener has a pace of its own."""

    def __init__(self, caller: Caller, every: timedelta) -> None:
        self._caller = caller
        self._every = every
        self._paces: dict[object, Pace] = {}

    async def publish(self, event: ServerEvent) -> None:
        """Deliver an event to this bus's listeners; what happens in the stores arrives as signals."""
        for pace in tuple(self._paces.values()):
            pace.offer(event)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Call the listener for every event until the returned function is called."""
        token, pace, user_id = object(), Pace(self._every, listener), self._caller.principal.user_id
        self._paces[token] = pace

        def hear(signal: Signal) -> None:
            for event in events_of(signal, user_id):
                pace.offer(event)

        stop_hearing = self._caller.services.signals.subscribe(hear)

        def unsubscribe() -> None:
            stop_hearing()
            pace.close()
            self._paces.pop(token, None)

        return unsubscribe


class Subscriptions:
    """Who listens to what; nobody listens to what is not theirs."""

    def __init__(self, callers: Callers, resources: Resources, options: McpOptions) -> None:
        self._callers = callers
        self._resources = resources
        self._options = options
        self._open: Counter[UserId] = Counter()

    async def listen(self, context: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """Serve one `subscriptions/listen` stream; what the caller may not read is left out of the acknowledgement."""
        caller = await self._callers.identify(context)
        wanted = dict.fromkeys(params.notifications.resource_subscriptions or ())
        self._check_count(len(wanted))
        if self._open[caller.principal.user_id] >= self._options.max_listeners:
            raise MCPError(INVALID_REQUEST, f"You have {self._options.max_listeners} streams open; close one first.")
        self._open[caller.principal.user_id] += 1
        try:
            honoured = [uri for uri in wanted if await self._resources.is_there(caller, uri)]
            filters = params.notifications.model_copy(update={"resource_subscriptions": honoured})
            handler = ListenHandler(UserBus(caller, self._options.update_every), max_buffered_events=_BUFFERED)
            return await handler(context, params.model_copy(update={"notifications": filters}))
        finally:
            self._open[caller.principal.user_id] -= 1

    async def subscribe(self, context: Context, params: SubscribeRequestParams) -> EmptyResult:
        """Begin to tell a 2025-era client of a resource's updates."""
        caller = await self._callers.identify(context)
        if not await self._resources.is_there(caller, params.uri):
            raise resource_not_found(params.uri)
        watched = self._watched(context)
        self._check_count(len(watched | {params.uri}))
        watched.add(params.uri)
        self._start_telling(context)
        return EmptyResult()

    async def unsubscribe(self, context: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        """Stop telling it."""
        self._watched(context).discard(params.uri)
        return EmptyResult()

    async def greet(self, context: Context, _params: NotificationParams) -> None:
        """Begin to tell a 2025-era client, which has just initialised, of changes of the list."""
        self._start_telling(context)

    def _check_count(self, count: int) -> None:
        if count > self._options.max_watched:
            raise MCPError(INVALID_PARAMS, f"At most {self._options.max_watched} resources may be watched at once.")

    def _watched(self, context: Context) -> set[str]:
        return cast("set[str]", connection_of(context).state.setdefault("agentapi.watched", set[str]()))

    def _start_telling(self, context: Context) -> None:
        connection = connection_of(context)
        if connection.has_standalone_channel and "agentapi.telling" not in connection.state:
            background = cast("Background", context.lifespan_context)
            connection.state["agentapi.telling"] = True
            connection.exit_stack.callback(background.start(self._tell(context, connection)))

    async def _tell(self, context: Context, connection: Connection) -> None:
        """Tell a 2025-era client for as long as it is there; it re-reads after a gap, so a full queue may drop."""
        try:
            caller = await self._callers.identify(context)
        except AgentApiError as exc:
            _log.info("updates_not_told", extra={"code": exc.code})
            del connection.state["agentapi.telling"]  # a later subscription tries again
            return
        events: asyncio.Queue[ServerEvent] = asyncio.Queue(_BUFFERED)
        watched = self._watched(context)

        def hear(event: ServerEvent) -> None:
            of_interest = not isinstance(event, ResourceUpdated) or event.uri in watched
            if of_interest and not events.full():
                events.put_nowait(event)

        unsubscribe = UserBus(caller, self._options.update_every).subscribe(hear)
        try:
            while True:
                await _send(connection, await events.get())
        finally:
            unsubscribe()


async def _send(connection: Connection, event: ServerEvent) -> None:
    if isinstance(event, ResourceUpdated):
        await connection.send_resource_updated(event.uri)
    else:
        await connection.send_resource_list_changed()


def connection_of(context: Context) -> Connection:
    """Return the client's connection: the SDK's one private seam that we use (tests/mcp/test_seams.py)."""
    return cast("Any", context.session)._connection  # noqa: SLF001  # 2025-era updates need its state and its end
