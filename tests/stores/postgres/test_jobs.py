"""Periodic work over a real database: one process at a time runs a job, and expired rows alone are deleted."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import LiteralString

import asyncpg
import pytest

from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.jobs.expiry import BATCH, delete_expired
from agentapi_mcp.core.jobs.models import Job, JobState
from agentapi_mcp.core.jobs.ports import ExpiringRows
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.jobs import DELETE_EXPIRED, PostgresExpiredRows, PostgresJobs
from agentapi_mcp.stores.postgres.migrate import migrate
from tests.conftest import DatabaseUrls
from tests.support.members import new_member
from tests.support.supabase import APP, OWNER, Project

HOUR, LEASE = timedelta(hours=1), timedelta(minutes=15)
NOW = timedelta(0)

# Rows of a user, of which $3 live for an hour yet and $4 have expired; $5 makes their keys unique.
ROWS: Mapping[ExpiringRows, LiteralString] = {
    ExpiringRows.IDEMPOTENCY_KEYS: """
INSERT INTO agentapi.idempotency_keys (user_id, org_id, key, fingerprint, turn_id, expires_at)
SELECT $1::uuid, $2::uuid, $5::text || n, '', gen_random_uuid(),
       now() + CASE WHEN n <= $3::integer THEN interval '1 hour' ELSE interval '-1 second' END
  FROM generate_series(1, $3::integer + $4::integer) n
""",
    ExpiringRows.MCP_SESSIONS: """
INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, expires_at)
SELECT $1::uuid, $2::uuid::text || $5::text || n, '{"protocol": null}',
       now() + CASE WHEN n <= $3::integer THEN interval '1 hour' ELSE interval '-1 second' END
  FROM generate_series(1, $3::integer + $4::integer) n
""",
    ExpiringRows.KEY_REQUESTS: """
INSERT INTO agentapi.key_requests (token_sha256, user_id, org_id, issuer, provider, expires_at)
SELECT sha256(convert_to($5::text || n, 'UTF8')), $1::uuid, $2::uuid, 'i', 'p',
       now() + CASE WHEN n <= $3::integer THEN interval '1 hour' ELSE interval '-1 second' END
  FROM generate_series(1, $3::integer + $4::integer) n
""",
    ExpiringRows.INVITATIONS: """
INSERT INTO agentapi.invitations (org_id, email, role, expires_at)
SELECT $2::uuid, lower($1::uuid::text || $5::text || n), 'member',
       now() + CASE WHEN n <= $3::integer THEN interval '1 hour' ELSE interval '-1 second' END
  FROM generate_series(1, $3::integer + $4::integer) n
""",
    ExpiringRows.TASKS: """
WITH spoken AS (
    INSERT INTO public.chat_sessions (user_id, org_id) VALUES ($1::uuid, $2::uuid) RETURNING id, user_id, org_id
), asked AS (
    INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_name, backend, fingerprint,
                                status, ended_at)
    SELECT gen_random_uuid(), id, user_id, org_id, gen_random_uuid(), 'a', 'a', '', 'completed', now() FROM spoken
    RETURNING id, user_id, org_id
)
INSERT INTO agentapi.tasks (id, turn_id, user_id, org_id, joined, has_key, in_session, expires_at)
SELECT user_id::text || $5::text || n, id, user_id, org_id, false, false, false,
       now() + CASE WHEN n <= $3::integer THEN interval '1 hour' ELSE interval '-1 second' END
  FROM asked, generate_series(1, $3::integer + $4::integer) n
""",
    ExpiringRows.SIGNALS: """
INSERT INTO agentapi.signals (sender, signal, expires_at)
SELECT $1::uuid, $2::uuid::text || $5::text,
       now() + CASE WHEN n <= $3::integer THEN interval '1 hour' ELSE interval '-1 second' END
  FROM generate_series(1, $3::integer + $4::integer) n
""",
}
TABLES: Mapping[ExpiringRows, LiteralString] = {
    ExpiringRows.IDEMPOTENCY_KEYS: "agentapi.idempotency_keys",
    ExpiringRows.MCP_SESSIONS: "public.mcp_sessions",
    ExpiringRows.KEY_REQUESTS: "agentapi.key_requests",
    ExpiringRows.INVITATIONS: "agentapi.invitations",
    ExpiringRows.SIGNALS: "agentapi.signals",
    ExpiringRows.TASKS: "agentapi.tasks",
}
each_kind = pytest.mark.parametrize("rows", ExpiringRows)


@pytest.fixture
def store(database: Database) -> PostgresJobs:
    return PostgresJobs(database)


def job(name: str = "work") -> Job:
    async def run() -> int:
        raise AssertionError

    return Job(name=name, summary="work", interval=HOUR, run=run)


@asynccontextmanager
async def owner(urls: DatabaseUrls) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(urls.owner)
    try:
        yield connection
    finally:
        await connection.close()


async def age(database: Database, by: timedelta) -> None:
    """Let all runs have started and ended longer ago."""
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE agentapi.jobs SET last_started_at = last_started_at - $1::interval, "
            "last_ended_at = last_ended_at - $1::interval, lease_until = lease_until - $1::interval, "
            "created_at = created_at - $1::interval",
            by,
        )


async def state(store: PostgresJobs) -> JobState:
    return (await store.states())["work"]


async def test_of_processes_that_claim_a_job_at_once_one_gets_it(store: PostgresJobs) -> None:
    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            claims = [group.create_task(store.claim(job(), new_id(), LEASE)) for _ in range(20)]
        claimed = [each for claim in claims if (each := claim.result()) is not None]
        assert len(claimed) == 1
        await store.release(claimed[0])


async def test_a_job_is_due_at_first_after_its_interval_and_when_its_lease_is_over(
    store: PostgresJobs, database: Database
) -> None:
    jobs = [job(), job("other")]
    assert await store.due_in(jobs) == {"work": NOW, "other": NOW}
    running = await store.claim(job(), new_id(), LEASE)
    assert running is not None
    assert LEASE - timedelta(minutes=1) < (await store.due_in(jobs))["work"] <= LEASE
    await store.finish(running, None)
    assert HOUR - timedelta(minutes=1) < (await store.due_in(jobs))["work"] <= HOUR
    assert await store.claim(job(), new_id(), LEASE) is None
    await age(database, HOUR)
    assert (await store.due_in(jobs))["work"] <= NOW
    long = await store.claim(job(), new_id(), 3 * HOUR)
    assert long is not None
    await age(database, 2 * HOUR)  # a run that takes longer than the interval is not run beside itself
    assert (await store.due_in(jobs))["work"] > NOW
    assert await store.claim(job(), new_id(), LEASE) is None
    await age(database, HOUR)
    assert await store.claim(job(), new_id(), LEASE) is not None


async def test_the_end_of_a_run_is_kept_and_failures_are_counted(store: PostgresJobs, database: Database) -> None:
    for error, failures in (("no", 1), ("never", 2), (None, 0), ("no", 1)):
        claim = await store.claim(job(), new_id(), LEASE)
        assert claim is not None
        await store.finish(claim, error)
        found = await state(store)
        assert (found.last_error, found.consecutive_failures) == (error, failures)
        await age(database, HOUR)
        assert HOUR <= (await state(store)).idle_for < HOUR + timedelta(minutes=1)


async def test_a_process_that_comes_back_after_its_lease_changes_nothing(
    store: PostgresJobs, database: Database
) -> None:
    late = await store.claim(job(), new_id(), LEASE)
    assert late is not None
    await age(database, LEASE)
    current = await store.claim(job(), new_id(), LEASE)
    assert current is not None
    before = await state(store)
    assert (before.last_error, before.consecutive_failures) == ("The process that ran it ended before it did.", 1)
    await store.finish(late, None)
    await store.release(late)
    assert (await state(store)).consecutive_failures == 1
    assert await store.claim(job(), new_id(), LEASE) is None
    await store.finish(current, None)
    await store.release(current)  # of a run that is over there is nothing to give back
    assert (await state(store)).consecutive_failures == 0
    assert await store.claim(job(), new_id(), LEASE) is None


async def test_a_claim_that_is_given_back_is_due_at_once_and_no_failure(store: PostgresJobs) -> None:
    claim = await store.claim(job(), new_id(), LEASE)
    assert claim is not None
    await store.release(claim)
    assert (await store.due_in([job()]))["work"] <= NOW
    assert await store.claim(job(), new_id(), LEASE) is not None
    assert (await state(store)).consecutive_failures == 0


async def test_a_job_runs_although_the_clock_of_the_database_was_set_back(
    store: PostgresJobs, database: Database
) -> None:
    claim = await store.claim(job(), new_id(), LEASE)
    assert claim is not None
    await store.finish(claim, None)
    await age(database, -365 * 24 * HOUR)
    assert (await store.due_in([job()]))["work"] <= NOW
    assert await store.claim(job(), new_id(), LEASE) is not None


async def fill(database: Database, whose: Principal, rows: ExpiringRows, *, live: int, expired: int) -> None:
    async with database.as_system("test") as connection:
        await connection.execute(ROWS[rows], whose.user_id, whose.org_id, live, expired, new_id().hex)


async def count(database: Database, rows: ExpiringRows) -> int:
    async with database.as_system("test") as connection:
        return await connection.fetchval(f"SELECT count(*) FROM {TABLES[rows]}")  # noqa: S608  # a table's name


@each_kind
async def test_expired_rows_are_deleted_and_no_others(rows: ExpiringRows, database: Database) -> None:
    ann, bob = await new_member(database), await new_member(database)
    for whose in (ann, bob):
        await fill(database, whose, rows, live=3, expired=BATCH + 7)
    expired = PostgresExpiredRows(database)
    assert await expired.delete_expired(rows, 5) == 5
    assert await delete_expired(expired, rows) == 2 * (BATCH + 7) - 5
    assert await count(database, rows) == 6
    assert await delete_expired(expired, rows) == 0


@each_kind
async def test_a_row_that_is_in_use_is_left_to_the_next_run(
    rows: ExpiringRows, database: Database, database_urls: DatabaseUrls
) -> None:
    await fill(database, await new_member(database), rows, live=0, expired=2)
    expired = PostgresExpiredRows(database)
    async with owner(database_urls) as other:
        async with other.transaction():
            await other.execute(f"SELECT FROM {TABLES[rows]} LIMIT 1 FOR UPDATE")
            assert await delete_expired(expired, rows) == 1
        assert await delete_expired(expired, rows) == 1


@each_kind
async def test_a_batch_reads_expired_rows_alone(
    rows: ExpiringRows, database: Database, database_urls: DatabaseUrls
) -> None:
    await fill(database, await new_member(database), rows, live=5000, expired=10)
    async with owner(database_urls) as connection:
        await connection.execute(f"ANALYZE {TABLES[rows]}")
    async with database.as_system("test") as connection:
        lines = await connection.fetch(f"EXPLAIN {DELETE_EXPIRED[rows]}", BATCH)
    plan = "\n".join(line[0] for line in lines)
    assert f"using agentapi_{rows}_expires" in plan
    assert "Seq Scan" not in plan


async def test_rows_of_other_programs_and_rows_without_an_end_are_not_deleted(deployed: Project) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    await deployed.run(
        "INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, oauth_data, expires_at) "
        "SELECT user_id, w.id, w.state::jsonb, '{}', now() - interval '1 day' FROM public.mcp_sessions, "
        """(VALUES ('theirs', '{"theme": "dark"}'), ('mine', '{"protocol": "2025-11-25"}')) AS w (id, state)"""
    )
    async with open_database(RemoteServer(deployed.app), PoolOptions(max_size=1)) as database:
        assert await delete_expired(PostgresExpiredRows(database), ExpiringRows.MCP_SESSIONS) == 1
    left = "SELECT string_agg(session_id, ' ' ORDER BY session_id) FROM public.mcp_sessions"
    assert await deployed.value(left) == "old-client theirs"


async def test_only_the_program_reads_or_writes_jobs_and_it_deletes_none(deployed: Project) -> None:
    await deployed.run(
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT ALL ON TABLES TO anon, authenticated, service_role"
    )
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    rights = "SELECT has_any_column_privilege('{}', 'agentapi.jobs', 'SELECT, INSERT, UPDATE, REFERENCES')"
    for role in ("anon", "authenticated", "service_role", "agentapi_writer"):
        assert await deployed.value(rights.format(role)) is False, role
    assert await deployed.value(rights.format("agentapi_system")) is True
    assert (
        await deployed.value("SELECT has_table_privilege('agentapi_system', 'agentapi.jobs', 'DELETE, TRUNCATE')")
        is False
    )
