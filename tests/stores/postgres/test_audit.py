"""The audit log over real databases: nobody changes it, nobody reads another's, months come and go."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import InvalidRequestError, StoreError
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.base.paging import Page
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditEvent, AuditFilter, AuditOutcome, AuditTarget
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.audit import PostgresAudit, prune_audit
from agentapi_mcp.stores.postgres.database import Database
from tests.conftest import DatabaseUrls
from tests.support.databases import Seed
from tests.support.embedded import SharedHome, kill

ALL = AuditFilter()
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'agentapi.audit_events'::regclass"

HAS_RIGHTS = "SELECT has_any_column_privilege($1, $2, 'SELECT, INSERT, UPDATE, REFERENCES')"


@pytest.fixture
def store(database: Database) -> PostgresAudit:
    return PostgresAudit(database)


def somebody() -> Principal:
    return Principal(UserId(new_id()), OrgId(new_id()))


def event(principal: Principal, at: datetime | None = None) -> AuditEvent:
    return AuditEvent(
        id=new_id(),
        at=at or datetime.now(UTC),
        action=AuditAction.SIGN_IN,
        org_id=principal.org_id,
        user_id=principal.user_id,
        via="local",
        client="ide 1.0",
        address="192.0.2.7",
        request_id="r-1",
        target=AuditTarget("turn", "1"),
        details={"status": "completed", "cost_usd": 0.25, "count": 2},
    )


@asynccontextmanager
async def owner(urls: DatabaseUrls) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(urls.owner)
    try:
        yield connection
    finally:
        await connection.close()


async def as_role(connection: "asyncpg.Connection[asyncpg.Record]", role: str, statement: str) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {role}")
        await connection.execute(statement)


async def place_of(urls: DatabaseUrls, written: AuditEvent) -> str | None:
    async with owner(urls) as connection:
        return await connection.fetchval(
            "SELECT tableoid::regclass::text FROM agentapi.audit_events WHERE id = $1", written.id
        )


async def test_an_event_is_read_as_it_was_written_and_once(store: PostgresAudit) -> None:
    principal = somebody()
    written = event(principal)
    await store.append([written])
    await store.append([written, replace(written, outcome=AuditOutcome.FAILED)])
    page = await store.list_(principal, ALL, include_unowned=False, cursor=None, limit=10)
    assert page.items == (written,)
    assert page.next_cursor is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET outcome = 'ok'",
        "DELETE FROM {}",
        "TRUNCATE {}",
        "INSERT INTO {} (id, at, action, outcome, recorded_at) VALUES (gen_random_uuid(), now(), 'x', 'ok', now())",
        "DROP TABLE {}",
        "ALTER TABLE {} ADD COLUMN x int",
        "CREATE TRIGGER t BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ],
)
@pytest.mark.parametrize("role", ["agentapi_system", "authenticated", "anon", "service_role"])
async def test_nobody_but_the_owner_changes_or_deletes_an_event(
    role: str, statement: str, store: PostgresAudit, database_urls: DatabaseUrls
) -> None:
    written = event(somebody())
    await store.append([written])
    async with owner(database_urls) as connection:
        partitions = [row[0] for row in await connection.fetch(PARTITIONS)]
        assert len(partitions) >= 3
        for table in ("agentapi.audit_events", *partitions):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await as_role(connection, role, statement.format(table))
        assert await connection.fetchval("SELECT count(*) FROM agentapi.audit_events WHERE id = $1", written.id) == 1


@pytest.mark.parametrize("role", ["authenticated", "anon", "service_role"])
async def test_only_the_program_reads_or_adds(role: str, database_urls: DatabaseUrls) -> None:
    async with owner(database_urls) as connection:
        for table in ("agentapi.audit_events", *[row[0] for row in await connection.fetch(PARTITIONS)]):
            assert not await connection.fetchval(HAS_RIGHTS, role, table)
            assert await connection.fetchval("SELECT relrowsecurity FROM pg_class WHERE oid = $1::regclass", table)
        for function in ("keep_audit_partitions", "prune_audit_events"):
            named = f"agentapi.{function}(timestamptz)"
            assert not await connection.fetchval("SELECT has_function_privilege($1, $2, 'EXECUTE')", role, named)


async def test_the_program_comes_to_no_partition_by_its_own_name(database_urls: DatabaseUrls) -> None:
    async with owner(database_urls) as connection:
        for (table,) in await connection.fetch(PARTITIONS):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await as_role(connection, "agentapi_system", f"SELECT FROM {table}")


async def test_pages_follow_each_other_and_belong_to_one_list_and_reader(store: PostgresAudit) -> None:
    principal, stranger = somebody(), somebody()
    at = datetime.now(UTC)
    written = [event(principal, at - timedelta(seconds=n // 2)) for n in range(7)]
    await store.append([*written, event(stranger)])
    found: list[AuditEvent] = []
    cursor: str | None = None
    for _ in range(3):
        page = await store.list_(principal, ALL, include_unowned=False, cursor=cursor, limit=3)
        found += page.items
        cursor = page.next_cursor
        if cursor is not None:
            for other, asked in ((stranger, ALL), (principal, AuditFilter(action=AuditAction.TURN_ENDED))):
                with pytest.raises(InvalidRequestError):
                    await store.list_(other, asked, include_unowned=False, cursor=cursor, limit=3)
    assert cursor is None
    assert found == sorted(written, key=lambda one: (one.at, one.id), reverse=True)


async def test_filters_narrow(store: PostgresAudit) -> None:
    principal = somebody()
    colleague = Principal(UserId(new_id()), principal.org_id)
    old = event(principal, datetime.now(UTC) - timedelta(hours=2))
    refused = replace(event(principal), outcome=AuditOutcome.REFUSED)
    other = replace(event(colleague), action=AuditAction.TURN_ENDED)
    await store.append([old, refused, other])

    for asked, expected in (
        (AuditFilter(user_id=colleague.user_id), [other]),
        (AuditFilter(action=AuditAction.TURN_ENDED), [other]),
        (AuditFilter(outcome=AuditOutcome.REFUSED), [refused]),
        (AuditFilter(since=datetime.now(UTC) - timedelta(hours=1)), [other, refused]),
        (ALL, [other, refused, old]),
    ):
        page = await store.list_(principal, asked, include_unowned=False, cursor=None, limit=9)
        assert {one.id for one in page.items} == {one.id for one in expected}


async def test_what_is_nobodys_is_shown_to_the_operator_alone(store: PostgresAudit) -> None:
    principal = somebody()
    nobodys = replace(event(principal), org_id=None, user_id=None)
    await store.append([nobodys])
    for shown in (True, False):
        page = await store.list_(principal, ALL, include_unowned=shown, cursor=None, limit=200)
        assert (nobodys.id in {one.id for one in page.items}) is shown


async def test_a_list_reads_by_the_index(store: PostgresAudit, database_urls: DatabaseUrls) -> None:
    principal = somebody()
    await store.append([event(somebody()) for _ in range(3000)])
    async with owner(database_urls) as connection:
        await connection.execute("ANALYZE agentapi.audit_events")
        lines = await connection.fetch(
            "EXPLAIN SELECT id FROM agentapi.audit_events WHERE org_id = $1 ORDER BY at DESC, id DESC LIMIT 50",
            principal.org_id,
        )
    plan = "\n".join(line[0] for line in lines)
    month = f"{datetime.now(UTC):audit_events_%Y_%m}"
    assert f"Seq Scan on {month}" not in plan
    assert "Index" in plan


async def test_a_month_that_nobody_prepared_loses_nothing_and_is_moved_when_its_partition_comes(
    store: PostgresAudit, database_urls: DatabaseUrls
) -> None:
    principal = somebody()
    ahead = datetime.now(UTC) + timedelta(days=200)
    early = event(principal, ahead)
    await store.append([early])
    assert await place_of(database_urls, early) == "agentapi.audit_events_default"
    for _ in range(2):  # the second finds all there
        await store.ensure_partitions(ahead)
    assert await place_of(database_urls, early) == f"{ahead:agentapi.audit_events_%Y_%m}"
    following = event(principal, ahead.replace(day=28) + timedelta(days=5))
    await store.append([following])
    assert await place_of(database_urls, following) == f"{following.at:agentapi.audit_events_%Y_%m}"
    page = await store.list_(principal, ALL, include_unowned=False, cursor=None, limit=9)
    assert page.items == (following, early)
    async with owner(database_urls) as connection:
        for at in (early.at, following.at):
            table = f"{at:agentapi.audit_events_%Y_%m}"
            assert await connection.fetchval("SELECT relrowsecurity FROM pg_class WHERE oid = $1::regclass", table)
            for role in ("anon", "authenticated", "service_role", "agentapi_system"):
                assert not await connection.fetchval(HAS_RIGHTS, role, table)


async def test_partitions_are_not_made_for_any_time(store: PostgresAudit) -> None:
    for years in (-3, 3, 1000):
        with pytest.raises(StoreError):
            await store.ensure_partitions(datetime.now(UTC) + timedelta(days=365 * years))


async def test_whole_months_are_dropped_by_the_owner_alone(store: PostgresAudit, database_urls: DatabaseUrls) -> None:
    principal = somebody()
    long_ago = datetime.now(UTC) - timedelta(days=600)
    await store.ensure_partitions(long_ago)
    old, next_month, now = event(principal, long_ago), event(principal, long_ago + timedelta(days=31)), event(principal)
    stray = event(principal, long_ago - timedelta(days=300))  # of a month without a partition
    await store.append([old, next_month, now, stray])
    before = next_month.at
    assert await store.has_expired(before)
    with pytest.raises(StoreError):
        await prune_audit(database_urls.app, before)
    assert await prune_audit(database_urls.owner, before) == (f"{old.at:%Y_%m}",)
    assert not await store.has_expired(before)
    assert await prune_audit(database_urls.owner, before) == ()
    page = await store.list_(principal, ALL, include_unowned=False, cursor=None, limit=9)
    assert page.items == (now, next_month)
    async with owner(database_urls) as connection:
        assert await connection.fetchval(
            "SELECT (details ->> 'count')::int FROM agentapi.audit_events WHERE action = 'audit_pruned' "
            "ORDER BY at DESC LIMIT 1"
        )


async def test_events_survive_a_killed_database_and_those_of_meanwhile_are_written_when_it_is_back(
    seed: Seed,
) -> None:
    with tempfile.TemporaryDirectory(prefix="au-", dir="/tmp", ignore_cleanup_errors=True) as path:
        await asyncio.to_thread(Path(path).chmod, 0o711)
        shared = SharedHome(Path(path) / "home")
        await seed.copy_to(shared.path)
        try:
            async with open_app(Settings(home=shared.path, shutdown_grace_seconds=0), {}) as app:
                services = await app.services_provider.services()
                await services.audit.record(services.principal, AuditAction.SECRETS_ROTATED)
                await services.audit.flush()
                kill(shared.server().pid)
                await services.audit.record(services.principal, AuditAction.SIGN_IN)
                await flushed(services.audit)
                page = await listed(services.audit, services.principal)
            assert [one.action for one in page.items] == [AuditAction.SIGN_IN, AuditAction.SECRETS_ROTATED]
        finally:
            shared.remove()


async def flushed(audit: AuditLog) -> None:
    """Try until all is written: each connection that the pool still has is lost."""
    while True:
        with suppress(StoreError):
            return await audit.flush()


async def listed(audit: AuditLog, principal: Principal) -> Page[AuditEvent]:
    """Try until it can be read: one that is lost may be left."""
    while True:
        with suppress(StoreError):
            return await audit.list_(principal, ALL)
