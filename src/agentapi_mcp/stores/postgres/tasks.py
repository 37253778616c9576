"""Calls that are answered later, in Postgres: their state is that of their turn."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.ids import TaskId
from agentapi_mcp.core.conversations.models import NewTask, Sent, Task
from agentapi_mcp.core.conversations.ports import TaskStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Resource, most_rows
from agentapi_mcp.stores.postgres.database import Database, Row
from agentapi_mcp.stores.postgres.turn_mapping import TURN, to_turn

MOST_TASKS = most_rows(Resource.TASKS)
# A new one makes room by removing the oldest.
_CREATE: LiteralString = """
WITH dropped AS (
    DELETE FROM agentapi.tasks
     WHERE id IN (SELECT id FROM agentapi.tasks WHERE user_id = $3 AND org_id = $4
                   ORDER BY created_at DESC, id DESC OFFSET $9 LIMIT 100)
)
INSERT INTO agentapi.tasks (id, turn_id, user_id, org_id, joined, has_key, in_session, created_at, expires_at)
SELECT $1, $2, $3, $4, $5, $6, $7, now, now + $8::interval FROM clock_timestamp() AS now
RETURNING created_at
"""
# OFFSET 0 keeps each task and its turn look-ups of their own: for several, the planner would read all tasks (that of
# Postgres 15) or messages of a user.
_FIND: LiteralString = f"""
SELECT k.id AS task_id, k.joined, k.has_key, k.in_session, k.result, k.created_at AS task_created_at, k.concluded_at,
       k.expires_at, turn.*
  FROM unnest($1::text[]) AS wanted (id)
 CROSS JOIN LATERAL (SELECT * FROM agentapi.tasks WHERE id = wanted.id AND user_id = $2 AND org_id = $3
                        AND expires_at > clock_timestamp() OFFSET 0) AS k
 CROSS JOIN LATERAL ({TURN} WHERE t.id = k.turn_id AND t.user_id = $2 AND t.org_id = $3 OFFSET 0) AS turn
"""  # noqa: S608  # made of literals
_CONCLUDE: LiteralString = """
UPDATE agentapi.tasks SET result = $4, concluded_at = clock_timestamp()
 WHERE id = $1 AND user_id = $2 AND org_id = $3 AND result IS NULL
"""


class PostgresTasks(TaskStore):
    """The tasks of all processes on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def create(self, principal: Principal, new: NewTask) -> datetime:
        async with self._database.as_writer(principal) as connection:
            return await connection.fetchval(
                _CREATE,
                new.id,
                new.turn_id,
                principal.user_id,
                principal.org_id,
                new.joined,
                new.sent.has_key,
                new.sent.in_session,
                new.lifetime,
                MOST_TASKS - 1,
            )

    @override
    async def find(self, principal: Principal, task_ids: Sequence[TaskId]) -> tuple[Task, ...]:
        async with self._database.as_principal(principal) as connection:
            rows = await connection.fetch(_FIND, list(task_ids), principal.user_id, principal.org_id)
        return tuple(map(_task, rows))

    @override
    async def conclude(self, principal: Principal, task_id: TaskId, result: str) -> None:
        async with self._database.as_writer(principal) as connection:
            await connection.execute(_CONCLUDE, task_id, principal.user_id, principal.org_id, result)


def _task(row: Row) -> Task:
    return Task(
        id=row["task_id"],
        turn=replace(to_turn(row), joined=row["joined"]),
        sent=Sent(has_key=row["has_key"], in_session=row["in_session"]),
        created_at=row["task_created_at"],
        expires_at=row["expires_at"],
        result=row["result"],
        concluded_at=row["concluded_at"],
    )
