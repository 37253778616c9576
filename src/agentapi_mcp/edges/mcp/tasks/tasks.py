"""Tasks: the calls that are answered later, and the methods that their clients come back with."""

import json
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, ElicitResult, EmptyResult, ErrorData
from pydantic import BaseModel, ValidationError

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.core.conversations.models import Sent, Task, Turn, TurnStatus
from agentapi_mcp.edges.mcp.callers import Caller, Callers, Context
from agentapi_mcp.edges.mcp.deliveries import after_response
from agentapi_mcp.edges.mcp.tasks.messages import (
    CreateTaskResult,
    DetailedTask,
    Json,
    TaskParams,
    UpdateTaskParams,
    can_be_asked,
    check_name_header,
    declares_tasks,
    require_tasks,
)
from agentapi_mcp.edges.mcp.tasks.views import TurnView, TurnViews
from agentapi_mcp.presentation import values

Status = Literal["working", "input_required", "completed", "cancelled", "failed"]
_log = logging.getLogger(__name__)
# Of the time that a call may wait, and within these bounds: short turns are answered in place.
_MOMENT, _SHORTEST, _LONGEST = 0.05, timedelta(seconds=0.2), timedelta(seconds=2)
# Clients come back after a tenth of the age of a task, and within these bounds.
_POLL, _POLL_SOON, _POLL_LATE = 0.1, timedelta(seconds=1), timedelta(seconds=5)
_MS = timedelta(milliseconds=1)


class McpTasks:
    """The tasks of all clients; `views` says what becomes of their turns."""

    def __init__(self, callers: Callers, views: TurnViews) -> None:
        self._callers = callers
        self.views = views

    async def answer_later(self, context: Context, caller: Caller, turn: Turn, sent: Sent) -> CreateTaskResult | None:
        """Answer a call with a task that waits for its turn; None if it cannot be, or need not be answered later.

        A turn has begun by now, so what fails here is no reason to refuse the call: it is answered as others are.
        """
        if turn.status.is_final or not declares_tasks(context):
            return None
        try:
            task = await caller.services.tasks.create(caller.principal, turn, sent)
        except AgentApiError as exc:
            _log.warning("task_not_created", extra={"turn_id": str(turn.id), "code": exc.code})
            return None
        return CreateTaskResult.model_validate({"status": "working", **_facts(task)})

    async def get(self, context: Context, params: TaskParams) -> DetailedTask:
        """Serve `tasks/get`."""
        caller = await self._caller(context, params)
        return await self.detailed(context, caller, await caller.services.tasks.get(caller.principal, params.task_id))

    async def update(self, context: Context, params: UpdateTaskParams) -> EmptyResult:
        """Serve `tasks/update`; keys of questions that are not open are passed over before their value is read."""
        caller = await self._caller(context, params)
        task = await caller.services.tasks.get_to_answer(caller.principal, params.task_id)
        view = await self.views.view(caller, task)
        if status_of(task, view) == "input_required":
            answers = {
                key: _answer(key, given) for key, given in params.input_responses.items() if key in view.questions
            }
            for key, answer in answers.items():
                if answer.action != "cancel":
                    await self.views.answer(caller, task, key, answer)
            # A form that was closed is no answer: the question stays open, and the call ends with it.
            if any(answer.action == "cancel" for answer in answers.values()):
                await self._conclude(caller, task, view)
        return EmptyResult()

    async def cancel(self, context: Context, params: TaskParams) -> EmptyResult:
        """Serve `tasks/cancel`."""
        caller = await self._caller(context, params)
        await caller.services.tasks.cancel(caller.principal, params.task_id)
        return EmptyResult()

    async def detailed(self, context: Context, caller: Caller, task: Task) -> DetailedTask:
        """Describe a task to the client of this request, with its result or with what its agent asks."""
        view = await self.views.view(caller, task)
        if status_of(task, view) == "input_required" and not can_be_asked(context):
            # It would come back for ever.
            task = await self._conclude(caller, task, view)
        status = status_of(task, view)
        if task.result is None:  # it is the answer of the turn, once that has one
            after_response(partial(caller.services.turns.delivered, task.turn))
        fields: Json = {"status": status, "statusMessage": view.message, **_facts(task)}
        match status:
            case "completed":
                fields |= {"result": _result(task, view), "statusMessage": None}
            case "failed":
                fields |= {"error": _plain(view.outcome), "statusMessage": getattr(view.outcome, "message", None)}
            case "input_required":
                fields["inputRequests"] = {key: _plain(question) for key, question in view.questions.items()}
            case "working" | "cancelled":
                pass
        return DetailedTask.model_validate(fields)

    async def _caller(self, context: Context, params: TaskParams) -> Caller:
        require_tasks(context)
        check_name_header(context, params.task_id)
        return await self._callers.identify(context)

    async def _conclude(self, caller: Caller, task: Task, view: TurnView) -> Task:
        result = json.dumps(_plain(view.outcome))
        return await caller.services.tasks.conclude(caller.principal, task.id, result)


def moment(wait: timedelta) -> timedelta:
    """Return how long a call that may wait so long is waited for before it is answered by a task."""
    return min(max(wait * _MOMENT, _SHORTEST), _LONGEST)


def status_of(task: Task, view: TurnView) -> Status:
    """Return the status of a task by that of its turn; one that has been answered stays so."""
    if task.result is not None:
        return "completed"
    if not task.turn.status.is_final:
        return "input_required" if view.questions else "working"
    if task.turn.status is TurnStatus.CANCELLED:
        return "cancelled"
    return "failed" if isinstance(view.outcome, ErrorData) else "completed"


def _facts(task: Task) -> Json:
    updated = max(task.created_at, task.concluded_at or task.turn.ended_at or task.created_at)
    age = datetime.now(UTC) - task.created_at
    return {
        "taskId": task.id,
        "createdAt": values.moment(task.created_at),
        "lastUpdatedAt": values.moment(updated),
        "ttlMs": (task.expires_at - task.created_at) // _MS,
        "pollIntervalMs": min(max(age * _POLL, _POLL_SOON), _POLL_LATE) // _MS,
    }


def _result(task: Task, view: TurnView) -> Json:
    result: Json = _plain(view.outcome) if task.result is None else json.loads(task.result)
    # The result of the call, not of tasks/get: clients read it as one.
    return {**result, "resultType": "complete"}


def _plain(message: BaseModel) -> Json:
    return message.model_dump(mode="json", by_alias=True, exclude_none=True)


def _answer(key: str, given: object) -> ElicitResult:
    try:
        return ElicitResult.model_validate(given, by_name=False)
    except ValidationError:
        raise MCPError(
            INVALID_PARAMS, f"inputResponses.{key} is no answer: it is an object with action accept, decline or cancel."
        ) from None
