"""Calls that are answered later: each waits for a turn, and is found again by an id of its own."""

import re
import secrets
from collections.abc import Sequence
from datetime import timedelta

from agentapi_mcp.base.errors import NotFoundError
from agentapi_mcp.base.ids import TaskId
from agentapi_mcp.base.store_waits import STORE_SECONDS, store_answers_within
from agentapi_mcp.core.conversations.models import NewTask, Sent, Task, Turn
from agentapi_mcp.core.conversations.ports import TaskStore
from agentapi_mcp.core.conversations.turns import Turns
from agentapi_mcp.core.identity.principals import Action, Principal, require

# As long as an idempotency key finds the turn.
LIFETIME = timedelta(hours=24)
_RANDOM_BYTES = 24
_ID = re.compile(r"[A-Za-z0-9_-]{32}")


class Tasks:
    """Use cases of tasks: the state of one is that of its turn, so that every process answers for it alike."""

    def __init__(self, store: TaskStore, turns: Turns) -> None:
        self._store = store
        self._turns = turns

    async def create(self, principal: Principal, turn: Turn, sent: Sent) -> Task:
        """Answer the call that waits for this turn later; the task is stored when this returns."""
        require(principal, Action.CHAT)
        task_id = TaskId(secrets.token_urlsafe(_RANDOM_BYTES))
        new = NewTask(id=task_id, turn_id=turn.id, joined=turn.joined, sent=sent, lifetime=LIFETIME)
        async with store_answers_within(STORE_SECONDS):
            created_at = await self._store.create(principal, new)
        return Task(id=task_id, turn=turn, sent=sent, created_at=created_at, expires_at=created_at + LIFETIME)

    async def get(self, principal: Principal, task_id: str) -> Task:
        """Read a task with its turn.

        Raises:
            NotFoundError: there is none with this id, it is somebody else's, or it has expired.
        """
        require(principal, Action.READ_SESSIONS)
        return await self._get(principal, task_id)

    async def get_to_answer(self, principal: Principal, task_id: str) -> Task:
        """Read a task whose agent is to be given an answer, as `get`."""
        require(principal, Action.CHAT)
        return await self._get(principal, task_id)

    async def list_(self, principal: Principal, task_ids: Sequence[str]) -> tuple[Task, ...]:
        """Read the tasks that there are of these."""
        require(principal, Action.READ_SESSIONS)
        return await self._list(principal, task_ids)

    async def cancel(self, principal: Principal, task_id: str) -> Task:
        """Cancel the turn of a task, as `Turns.cancel`; a call that has been answered is not changed.

        Raises:
            NotFoundError: there is none with this id, it is somebody else's, or it has expired.
        """
        require(principal, Action.CHAT)
        task = await self._get(principal, task_id)
        if task.result is None and not task.turn.status.is_final:
            await self._turns.cancel(principal, str(task.turn.id))
        return task

    async def conclude(self, principal: Principal, task_id: str, result: str) -> Task:
        """Answer a call before its turn ends, and return the task with the answer that was the first."""
        async with store_answers_within(STORE_SECONDS):
            await self._store.conclude(principal, TaskId(task_id), result)
        return await self._get(principal, task_id)

    async def _get(self, principal: Principal, task_id: str) -> Task:
        found = await self._list(principal, [task_id])
        if not found:
            # Somebody else's is not told apart, so that its existence is not disclosed.
            raise NotFoundError("There is no such task, or it has expired.")
        return found[0]

    async def _list(self, principal: Principal, task_ids: Sequence[str]) -> tuple[Task, ...]:
        ids = [TaskId(each) for each in dict.fromkeys(task_ids) if _ID.fullmatch(each)]
        if not ids:
            return ()
        async with store_answers_within(STORE_SECONDS):
            return await self._store.find(principal, ids)
