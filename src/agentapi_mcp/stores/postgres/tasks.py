"""Calls that are answered later, in Postgres: their state is that of their turn."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.ids import TaskId
from agentapi_mcp.core.conversations.models import NewTask, Sent, Task, Turn
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
# OFFSET 0 keeps each task and each turn a look-up of its own: for several, the planner would read all tasks (that of
# Postgres 15) or messages of a user.
_FIND: LiteralString = """
SELECT k.*
  FROM unnest($1::text[]) AS wanted (id)
 CROSS JOIN LATERAL (SELECT * FROM agentapi.tasks WHERE id = wanted.id AND user_id = $2 AND org_id = $3
                        AND expires_at > clock_timestamp() OFFSET 0) AS k
"""
_TURNS: LiteralString = f"""
SELECT turn.*
  FROM unnest($1::uuid[]) AS wanted (id)
 CROSS JOIN LATERAL ({TURN} WHERE t.id = wanted.id AND t.user_id = $2 AND t.org_id = $3 OFFSET 0) AS turn
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
        owner = principal.user_id, principal.org_id
        async with self._database.as_principal(principal) as connection:
            tasks = await connection.fetch(_FIND, list(task_ids), *owner)
            # Each once, however many tasks wait for it: a user may have hundreds, of a turn with a megabyte of text.
            wanted = list({row["turn_id"] for row in tasks})
            rows = await connection.fetch(_TURNS, wanted, *owner) if wanted else []
        turns = {turn.id: turn for turn in map(to_turn, rows)}
        return tuple(_task(row, turns[row["turn_id"]]) for row in tasks if row["turn_id"] in turns)

    @override
    async def conclude(self, principal: Principal, task_id: TaskId, result: str) -> None:
        async with self._database.as_writer(principal) as connection:
            await connection.execute(_CONCLUDE, task_id, principal.user_id, principal.org_id, result)


def _task(row: Row, turn: Turn) -> Task:
    return Task(
        id=row["id"],
        turn=replace(turn, joined=row["joined"]),
        sent=Sent(has_key=row["has_key"], in_session=row["in_session"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        result=row["result"],
        concluded_at=row["concluded_at"],
    )
