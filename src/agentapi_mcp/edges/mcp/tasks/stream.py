"""`notifications/tasks` on a stream of `subscriptions/listen`, beside the notifications of the SDK's own handler."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, cast

from mcp.server.session import ServerSession
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import (
    INVALID_PARAMS,
    RequestId,
    ServerNotification,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
)

from agentapi_mcp.base.concurrency import guarded
from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.json_values import is_list
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.edges.mcp.callers import Caller, Context
from agentapi_mcp.edges.mcp.deliveries import no_response
from agentapi_mcp.edges.mcp.tasks.messages import DetailedTask, TaskNotification, TaskNotificationParams, require_tasks
from agentapi_mcp.edges.mcp.tasks.tasks import McpTasks

_log = logging.getLogger(__name__)
_FIELD = "taskIds"
_POLL_EVERY = timedelta(seconds=5)  # a signal may be lost


def requested_tasks(context: Context, wanted: SubscriptionFilter) -> Sequence[str]:
    """Return the tasks that a stream is to tell of."""
    ids = (wanted.model_extra or {}).get(_FIELD)
    if ids is None:
        return ()
    require_tasks(context)
    if not is_list(ids) or not all(isinstance(each, str) for each in ids):
        raise MCPError(INVALID_PARAMS, f"notifications.{_FIELD} is a list of ids of tasks.")
    return list(dict.fromkeys(map(str, ids)))


class TaskStream:
    """Tells clients of their tasks: of their state at first, and of each change of it."""

    def __init__(self, tasks: McpTasks) -> None:
        self._tasks = tasks

    @asynccontextmanager
    async def told(self, context: Context, caller: Caller, task_ids: Sequence[str]) -> AsyncGenerator[Context]:
        """Tell of these tasks while the context lasts, in which the stream is to be served with what it yields.

        A task that the caller may not read is left out of the acknowledgement.
        """
        if not task_ids:
            yield context
            return
        honoured = [task.id for task in await caller.services.tasks.list_(caller.principal, task_ids)]
        session = _Session(context.session, honoured)
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell(context, caller, session))
            try:
                yield replace(context, session=cast("ServerSession", session))
            finally:
                telling.cancel()

    async def _tell(self, context: Context, caller: Caller, session: "_Session") -> None:
        changed = asyncio.Event()

        def on_signal(signal: Signal) -> None:
            if signal.kind is SignalKind.ENDED:
                changed.set()

        stop = caller.services.change_feed.subscribe(caller.principal, on_signal)
        news = _News(context, caller, set(session.task_ids))
        try:
            await session.acknowledged.wait()
            while news.open_ids:
                changed.clear()
                await guarded(self._look(news))
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_EVERY.total_seconds()):
                        await changed.wait()
        finally:
            stop()

    async def _look(self, news: "_News") -> None:
        """Tell what has changed since the last look, and keep which tasks may change again."""
        context, caller = news.context, news.caller
        try:
            found = await caller.services.tasks.list_(caller.principal, sorted(news.open_ids))
        except AgentApiError as exc:
            _log.info("tasks_not_told", extra={"code": exc.code})
            return
        news.open_ids.intersection_update(task.id for task in found)
        for task in found:
            # Its client fetches the result; a notification may be lost, and an answer that has arrived is given once.
            with no_response():
                now = await self._tasks.detailed(context, caller, task)
            state = now.status, tuple(now.input_requests or ())
            if news.told.get(task.id) != state:
                await context.session.send_notification(_notification(now, context.request_id), context.request_id)
                news.told[task.id] = state
            if now.status not in {"working", "input_required"}:
                news.open_ids.discard(task.id)


@dataclass(slots=True)
class _News:
    """Who is told of which tasks that may still change, and the state that was told last."""

    context: Context
    caller: Caller
    open_ids: set[str]
    told: dict[str, object] = field(default_factory=dict[str, object])


class _Session:
    """The session of a stream, whose acknowledgement names the tasks, too: the SDK's handler knows of none."""

    def __init__(self, session: ServerSession, task_ids: Sequence[str]) -> None:
        self._session = session
        self.task_ids = task_ids
        self.acknowledged = asyncio.Event()

    async def send_notification(
        self, notification: ServerNotification, related_request_id: RequestId | None = None
    ) -> None:
        """Send a notification."""
        if not isinstance(notification, SubscriptionsAcknowledgedNotification):
            await self._session.send_notification(notification, related_request_id)
            return
        honoured = notification.params.notifications.model_copy(update={_FIELD: self.task_ids or None})
        params = notification.params.model_copy(update={"notifications": honoured})
        await self._session.send_notification(notification.model_copy(update={"params": params}), related_request_id)
        self.acknowledged.set()


def _notification(task: DetailedTask, subscription: RequestId | None) -> Any:  # noqa: ANN401  # an extension's, not one of the SDK's union
    fields = task.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"result_type"})
    meta = {SUBSCRIPTION_ID_META_KEY: subscription}
    return TaskNotification(params=TaskNotificationParams.model_validate({**fields, "_meta": meta}))
