"""Rows of what a user has said, as many as are wanted, as nobody could say in the time of a test."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

_TABLES = ("agentapi.turns", "agentapi.session_facts", "agentapi.turn_ratings")


@asynccontextmanager
async def _without_triggers(owner: "asyncpg.Connection[asyncpg.Record]") -> AsyncGenerator[None]:
    async with owner.transaction():
        for table in _TABLES:
            await owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        yield
        for table in _TABLES:
            await owner.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


async def rate_many(owner: "asyncpg.Connection[asyncpg.Record]", turn_id: UUID, number: int) -> None:
    """Rate so many further turns of the session and user that a turn has."""
    async with _without_triggers(owner):
        await owner.execute(
            "WITH made AS (INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_name, "
            "backend, fingerprint, status, ended_at) SELECT gen_random_uuid(), t.session_id, t.user_id, t.org_id, "
            "t.user_message_id, 'a', 'b', '', 'completed', now() FROM agentapi.turns t, generate_series(1, $2) "
            "WHERE t.id = $1 RETURNING id, user_id, org_id) "
            "INSERT INTO agentapi.turn_ratings (turn_id, user_id, org_id, rating) "
            "SELECT id, user_id, org_id, 1 FROM made",
            turn_id,
            number,
        )


async def record_many(owner: "asyncpg.Connection[asyncpg.Record]", user_id: UUID, org_id: UUID, number: int) -> None:
    """Record so many conversations elsewhere."""
    async with _without_triggers(owner):
        await owner.execute(
            "WITH made AS (INSERT INTO public.chat_sessions (user_id, org_id) SELECT $1, $2 "
            "FROM generate_series(1, $3) RETURNING id) INSERT INTO agentapi.session_facts "
            "(session_id, user_id, org_id, recorded_at) SELECT id, $1, $2, now() FROM made",
            user_id,
            org_id,
            number,
        )
