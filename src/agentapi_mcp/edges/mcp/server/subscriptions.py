"""Update notifications in both protocol eras, fed by signals of all processes on one database."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import cast

import anyio
from mcp.server.connection import Connection
from mcp.server.subscriptions import ListenHandler, ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    EmptyResult,
    JSONRPCNotification,
    NotificationParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from agentapi_mcp.base.concurrency import TaskSupervisor
from agentapi_mcp.base.errors import AgentApiError, LimitExceededError
from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.identity.principals import Action, require
from agentapi_mcp.core.identity.shares import Resource, holder_of
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.edges.mcp.callers import Caller, Callers, Context, connection_of
from agentapi_mcp.edges.mcp.errors import resource_not_found, rpc_error
from agentapi_mcp.edges.mcp.http_dispatch import EVENT_STREAM, PING, PING_SECONDS, AsgiConnection, event_of
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.resources import CATALOGUE_URI, Resources
from agentapi_mcp.edges.mcp.tasks.stream import TaskStream, requested_tasks
from agentapi_mcp.presentation.uris import transcript_uri
from agentapi_mcp.web.stream_reauth import closed_on_expiry, grant_of

_log = logging.getLogger(__name__)
_BUFFERED = 256
_NOTHING = ExitStack()
# Lists that never change, as the capabilities say; the SDK would acknowledge a subscription to them.
_UNSERVED = {"tools_list_changed": None, "prompts_list_changed": None}


def events_of(signal: Signal) -> list[ServerEvent]:
    """Translate a signal into events of the resources that it concerns."""
    if signal.kind is SignalKind.CATALOGUE_CHANGED:
        return [ResourcesListChanged(), ResourceUpdated(CATALOGUE_URI)]
    events: list[ServerEvent] = []
    if signal.kind is SignalKind.SESSIONS_CHANGED:
        events.append(ResourcesListChanged())
    if signal.session_id is not None:
        events += [ResourceUpdated(transcript_uri(signal.session_id, json=as_json)) for as_json in (False, True)]
    return events


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """A client's transport session ended, or its subscriptions changed."""


class Throttle:
    """Delivers an event at once and its repetitions at most once an interval; the last one is never lost."""

    def __init__(self, every: timedelta, deliver: Callable[[ServerEvent], None]) -> None:
        self._every = every.total_seconds()
        self._deliver = deliver
        self._timers: dict[ServerEvent, asyncio.TimerHandle] = {}
        self._pending: set[ServerEvent] = set()

    def offer(self, event: ServerEvent) -> None:
        """Deliver the event now, or at the end of the interval if it was delivered within it."""
        if event in self._timers:
            self._pending.add(event)
            return
        self._timers[event] = asyncio.get_running_loop().call_later(self._every, self._expire, event)
        self._deliver(event)

    def close(self) -> None:
        """Deliver nothing more."""
        for timer in self._timers.values():
            timer.cancel()

    def _expire(self, event: ServerEvent) -> None:
        del self._timers[event]
        if event in self._pending:
            self._pending.remove(event)
            self.offer(event)


class UserBus:
    """The SDK's subscription bus for one user's events; each listener has its own throttle."""

    def __init__(self, caller: Caller, every: timedelta) -> None:
        self._caller = caller
        self._every = every
        self._throttles: dict[object, Throttle] = {}

    async def publish(self, event: ServerEvent) -> None:
        """Deliver an event to the listeners; changes in the stores arrive as signals instead."""
        for throttle in tuple(self._throttles.values()):
            throttle.offer(event)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Call the listener for every event until the returned function is called."""
        token, throttle = object(), Throttle(self._every, listener)
        self._throttles[token] = throttle

        def deliver(signal: Signal) -> None:
            for event in events_of(signal):
                throttle.offer(event)

        stop_signals = self._caller.services.change_feed.subscribe(self._caller.principal, deliver)

        def unsubscribe() -> None:
            stop_signals()
            throttle.close()
            self._throttles.pop(token, None)

        return unsubscribe


class Subscriptions:
    """Subscriptions of all clients; each receives only events that its user may see."""

    def __init__(self, callers: Callers, resources: Resources, tasks: TaskStream, options: McpOptions) -> None:
        self._callers = callers
        self._resources = resources
        self._tasks = tasks
        self._options = options
        self._ends: dict[object, Callable[[], object]] = {}

    def close(self) -> None:
        """End every stream before the server stops, so that clients reconnect to another replica."""
        for end in tuple(self._ends.values()):
            end()

    async def listen(self, context: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """Serve one `subscriptions/listen` stream; the acknowledgement omits what the caller may not read."""
        task_ids = requested_tasks(context, params.notifications)
        caller = await self._callers.identify(context)
        require(caller.principal, Action.READ_SESSIONS)
        requested = dict.fromkeys(params.notifications.resource_subscriptions or ())
        watched = len(requested) + len(task_ids)
        if watched > self._options.max_watched:
            raise self._too_many()
        handler = ListenHandler(UserBus(caller, self._options.update_every), max_buffered_events=_BUFFERED)
        grant = grant_of(getattr(context.request, "scope", {}))
        with self._counted(caller, handler.close, watched):
            # A resource that cannot be read is left out, as if it did not exist.
            honoured = [uri for uri in requested if await self._resources.exists(caller, uri)]
            filters = params.notifications.model_copy(update={**_UNSERVED, "resource_subscriptions": honoured})
            async with (
                closed_on_expiry(grant, handler.close),
                self._tasks.told(context, caller, task_ids) as telling,
            ):
                return await handler(telling, params.model_copy(update={"notifications": filters}))

    async def subscribe(self, context: Context, params: SubscribeRequestParams) -> EmptyResult:
        """Subscribe a 2025-era client to a resource."""
        caller, connection = await self._callers.identify(context), connection_of(context)
        require(caller.principal, Action.READ_SESSIONS)
        if not await self._resources.exists(caller, params.uri):
            raise resource_not_found(params.uri)
        most = self._options.max_watched
        if connection.session_id is not None:
            sessions, shares = caller.services.transport_sessions, caller.services.shares
            of_user = shares.most_of_user(Resource.SUBSCRIPTIONS)
            own = caller.principal, connection.session_id
            if not await sessions.watch(*own, params.uri, most=most, most_of_user=of_user):
                raise self._too_many()
            return EmptyResult()
        if not connection.has_standalone_channel:
            raise MCPError(INVALID_REQUEST, "Send initialize first, and this with the Mcp-Session-Id that it gives.")
        watched = _watched(connection)
        if params.uri not in watched:
            if len(watched) >= most:
                raise self._too_many()
            # This connection lives in this process, so its subscriptions need no row.
            watched[params.uri] = _held(caller, Resource.SUBSCRIPTIONS)
        self._start_notifications(context)
        return EmptyResult()

    async def unsubscribe(self, context: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        """Unsubscribe a 2025-era client from a resource."""
        connection = connection_of(context)
        if connection.session_id is not None:
            caller = await self._callers.identify(context)
            await caller.services.transport_sessions.unwatch(caller.principal, connection.session_id, params.uri)
        else:
            _watched(connection).pop(params.uri, _NOTHING).close()
        return EmptyResult()

    async def on_initialized(self, context: Context, _params: NotificationParams) -> None:
        """Start notifications of list changes to a 2025-era client."""
        self._start_notifications(context)

    async def stream(self, caller: Caller, session: McpSession, wire: AsgiConnection) -> None:
        """Serve the notification stream of a 2025-era client over HTTP, until it disconnects or its session ends."""
        scope = anyio.CancelScope()
        with self._counted(caller, scope.cancel, len(session.watched)):
            await wire.send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
            await wire.write(b": ok\r\n\r\n")
            with scope:
                async with closed_on_expiry(grant_of(wire.scope), scope.cancel), anyio.create_task_group() as group:
                    group.start_soon(_end_when_gone, wire, scope)
                    await self._send_notifications(caller, session, wire)
                    scope.cancel()
            await wire.write(b"", more=False)

    async def _send_notifications(self, caller: Caller, session: McpSession, wire: AsgiConnection) -> None:
        watched, sessions = session.watched, caller.services.transport_sessions
        events_of_session = event_queue(caller, self._options.update_every, mcp_session=session.id)
        async with events_of_session as events, AsyncExitStack() as more:
            while True:
                event: ServerEvent | SessionChanged | None = None
                with anyio.move_on_after(PING_SECONDS):
                    event = await events.get()
                if isinstance(event, SessionChanged):
                    # The subscriptions, or the end of the session, may come through another replica.
                    try:
                        changed = await sessions.find(caller.principal, session.id)
                        if changed is None:
                            break
                        # What is watched since the stream was opened is counted as well.
                        await more.aclose()
                        grown = max(0, len(changed.watched) - len(session.watched))
                        more.enter_context(
                            caller.services.shares.held(Resource.SUBSCRIPTIONS, holder_of(caller.principal), grown)
                        )
                    except AgentApiError as exc:
                        _log.info("updates_not_told", extra={"code": exc.code})
                        break  # the client opens the stream again, and is then told what there is
                    watched = changed.watched
                elif event is None:
                    await wire.write(PING)
                elif not isinstance(event, ResourceUpdated) or event.uri in watched:
                    await wire.write(event_of(_notification(event)))

    @contextmanager
    def _counted(self, caller: Caller, end: Callable[[], object], watched: int) -> Generator[None]:
        token = object()
        with _held(caller, Resource.STREAMS), _held(caller, Resource.SUBSCRIPTIONS, watched):
            self._ends[token] = end
            try:
                yield
            finally:
                del self._ends[token]

    def _too_many(self) -> MCPError:
        return MCPError(
            INVALID_PARAMS, f"At most {self._options.max_watched} resources and tasks may be watched at once."
        )

    def _start_notifications(self, context: Context) -> None:
        connection = connection_of(context)
        if connection.has_standalone_channel and "agentapi.notifying" not in connection.state:
            background = cast("TaskSupervisor", context.lifespan_context)
            connection.state["agentapi.notifying"] = True
            connection.exit_stack.callback(background.start(self._notify(context, connection)))

    async def _notify(self, context: Context, connection: Connection) -> None:
        """Send notifications to a 2025-era client until it disconnects."""
        try:
            caller = await self._callers.identify(context)
        except AgentApiError as exc:
            _log.info("updates_not_told", extra={"code": exc.code})
            del connection.state["agentapi.notifying"]  # a later subscription tries again
            return
        watched = _watched(connection)
        async with event_queue(caller, self._options.update_every) as events:
            while True:
                event = await events.get()
                if isinstance(event, ResourceUpdated) and event.uri in watched:
                    await connection.send_resource_updated(event.uri)
                elif isinstance(event, ResourcesListChanged):
                    await connection.send_resource_list_changed()


@asynccontextmanager
async def event_queue(
    caller: Caller, every: timedelta, mcp_session: str | None = None
) -> AsyncGenerator[asyncio.Queue[ServerEvent | SessionChanged]]:
    """Yield a queue of the caller's events, with the changes of their MCP session; a full queue drops events."""
    # Dropping is safe: a notification carries no content, and clients read the resource again.
    events: asyncio.Queue[ServerEvent | SessionChanged] = asyncio.Queue(_BUFFERED)

    def deliver(event: ServerEvent | SessionChanged) -> None:
        if not events.full():
            events.put_nowait(event)

    with ExitStack() as stack:
        stack.callback(UserBus(caller, every).subscribe(deliver))
        if mcp_session is not None:
            sessions = caller.services.transport_sessions
            stack.callback(sessions.on_change(caller.principal, mcp_session, partial(deliver, SessionChanged())))
        yield events


async def _end_when_gone(wire: AsgiConnection, scope: anyio.CancelScope) -> None:
    await wire.gone()
    scope.cancel()


def _watched(connection: Connection) -> dict[str, ExitStack]:
    """Return what the client of a connection watches, each with what it holds of its user's share."""
    watched = cast("dict[str, ExitStack] | None", connection.state.get("agentapi.watched"))
    if watched is None:
        connection.state["agentapi.watched"] = watched = dict[str, ExitStack]()
        connection.exit_stack.callback(_close_all, watched)
    return watched


def _close_all(watched: dict[str, ExitStack]) -> None:
    while watched:
        watched.popitem()[1].close()


def _held(caller: Caller, resource: Resource, amount: int = 1) -> ExitStack:
    """Hold some of a caller's share until the stack is closed."""
    with ExitStack() as held:
        try:
            held.enter_context(caller.services.shares.held(resource, holder_of(caller.principal), amount))
        except LimitExceededError as exc:
            raise rpc_error(exc) from exc
        return held.pop_all()


def _notification(event: ServerEvent) -> JSONRPCNotification:
    if isinstance(event, ResourceUpdated):
        return JSONRPCNotification(jsonrpc="2.0", method="notifications/resources/updated", params={"uri": event.uri})
    return JSONRPCNotification(jsonrpc="2.0", method="notifications/resources/list_changed")
