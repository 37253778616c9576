"""Accounts in Postgres: one row of a user, which no client's end, sweep or limit touches; one process has the lease."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.core.accounts.models import Account, AccountState, SealedAccount
from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.jobs.ports import ExpiringRows
from agentapi_mcp.stores.postgres.accounts import PostgresAccounts
from agentapi_mcp.stores.postgres.clients import MOST_CLIENTS, PostgresClients
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.jobs import DELETE_EXPIRED
from agentapi_mcp.stores.postgres.mcp_sessions import MOST_SESSIONS, PostgresMcpSessions
from tests.conftest import DatabaseUrls
from tests.support.members import new_member
from tests.support.suspensions import run_as_owner

NOW = datetime(2026, 11, 1, tzinfo=UTC)
# Another application's rights and policy.
OPEN = """
GRANT ALL ON public.mcp_sessions TO anon, authenticated;
DROP POLICY agentapi_bound ON public.mcp_sessions;
CREATE POLICY open ON public.mcp_sessions TO anon, authenticated USING (true) WITH CHECK (true);
"""
INSERT = """
INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, expires_at) VALUES ($1, $2, '{}', now())
"""


def sealed(who: Principal, provider: str = "vendor", content: bytes = b"first") -> SealedAccount:
    account = Account(
        user_id=who.user_id,
        provider=provider,
        connected_at=NOW,
        issued_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        scopes=("chat",),
    )
    return SealedAccount(account, content, "one")


async def test_accounts_are_read_as_they_were_stored_each_for_its_user(database: Database) -> None:
    store, ann, eve = PostgresAccounts(database), await new_member(database), await new_member(database)
    vendor, bank = (
        sealed(ann),
        replace(sealed(ann, "bank"), account=replace(sealed(ann, "bank").account, expires_at=None)),
    )
    for each in (vendor, bank, sealed(eve, content=b"hers")):
        await store.put(each)
    assert await store.find(ann.user_id) == {"vendor": vendor, "bank": bank}
    again = sealed(ann, content=b"second")
    await store.put(again)
    assert await store.find(ann.user_id) == {"vendor": again, "bank": bank}
    assert await store.remove(again)
    assert await store.find(ann.user_id) == {"bank": bank}
    assert await store.find(eve.user_id) == {"vendor": sealed(eve, content=b"hers")}


async def test_the_row_outlives_all_clients_and_is_none_of_them(database: Database) -> None:
    store, ann = PostgresAccounts(database), await new_member(database)
    clients, sessions = PostgresClients(database), PostgresMcpSessions(database)
    await store.put(sealed(ann))
    for number in range(MOST_CLIENTS + 1):
        await clients.record(ann, f"client {number}", {"client": f"client {number}", "protocol": "2025-11-25"})
    for number in range(MOST_SESSIONS + 1):
        await sessions.open_(ann, McpSession(id=f"{ann.user_id} {number}", protocol="2025-11-25", client={"name": "x"}))
    assert len(await clients.list_(ann)) == MOST_CLIENTS
    async with database.as_system("test") as connection:
        await connection.execute("UPDATE public.mcp_sessions SET expires_at = now() - interval '1 day'")
        await connection.execute(DELETE_EXPIRED[ExpiringRows.MCP_SESSIONS], 10_000)
        left = await connection.fetchval("SELECT count(*) FROM public.mcp_sessions WHERE user_id = $1", ann.user_id)
    assert left == 1
    assert await store.find(ann.user_id) == {"vendor": sealed(ann)}


async def test_of_many_who_claim_the_lease_one_has_it_until_the_tokens_change(database: Database) -> None:
    store, ann = PostgresAccounts(database), await new_member(database)
    old, new = sealed(ann), sealed(ann, content=b"second")
    await store.put(old)
    async with asyncio.TaskGroup() as group:
        claims = [group.create_task(store.claim(old, str(number))) for number in range(8)]
    assert sum(claim.result() for claim in claims) == 1
    assert await store.replace(old, new)
    assert not await store.replace(old, sealed(ann, content=b"late"))
    # The tokens that were read before are void: nobody may renew with them.
    assert not await store.claim(old, "late")
    assert await store.claim(new, "next")
    revoked = replace(new, account=replace(new.account, state=AccountState.REVOKED))
    assert await store.replace(new, revoked)
    assert not await store.claim(revoked, "after the end")


async def test_a_lease_ends_with_its_time_or_shortly_after_its_owner_gives_it_up(database: Database) -> None:
    store, ann = PostgresAccounts(database), await new_member(database)
    old = sealed(ann)
    await store.put(old)

    async def left() -> float:
        async with database.as_system("test") as connection:
            return float(
                await connection.fetchval(
                    "SELECT (oauth_data #>> '{vendor,lease,until}')::numeric - extract(epoch FROM clock_timestamp()) "
                    "FROM public.mcp_sessions WHERE user_id = $1",
                    ann.user_id,
                )
            )

    assert await store.claim(old, "one")
    await store.release(old, "another")
    assert await left() > 10
    await store.release(old, "one")
    assert await left() <= 1
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE public.mcp_sessions SET oauth_data = jsonb_set(oauth_data, '{vendor,lease,until}', '1') "
            "WHERE user_id = $1",
            ann.user_id,
        )
    assert await store.claim(old, "another")


async def test_a_row_that_is_anothers_by_name_is_not_written_to(database: Database) -> None:
    store, ann, eve = PostgresAccounts(database), await new_member(database), await new_member(database)
    async with database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, oauth_data, expires_at) "
            "VALUES ($1, 'oauth/' || $2::uuid, '{}', '{}', NULL)",
            eve.user_id,
            ann.user_id,
        )
    with pytest.raises(StoreError):
        await store.put(sealed(ann))
    assert (await store.find(ann.user_id), await store.find(eve.user_id)) == ({}, {})


@pytest.mark.parametrize("entry", ["3", "{}", '{"sealed": "x"}', "[]", '{"state": "else", "sealed": "eA=="}'])
async def test_what_the_program_did_not_write_is_no_account(entry: str, database: Database) -> None:
    store, ann = PostgresAccounts(database), await new_member(database)
    await store.put(sealed(ann))
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE public.mcp_sessions SET oauth_data = oauth_data || jsonb_build_object('bank', $2::text::jsonb) "
            "WHERE user_id = $1",
            ann.user_id,
            entry,
        )
    assert list(await store.find(ann.user_id)) == ["vendor"]


@pytest.mark.parametrize("role", ["anon", "authenticated"])
async def test_no_outside_client_reads_or_writes_accounts_where_it_may_do_all_else(
    role: str, own_database: DatabaseUrls
) -> None:
    await run_as_owner(own_database.owner, OPEN)
    async with open_database(RemoteServer(own_database.app), PoolOptions()) as database:
        store, ann, bo = PostgresAccounts(database), await new_member(database), await new_member(database)
        await store.put(sealed(ann))
        connection = await asyncpg.connect(own_database.owner)
        outer = connection.transaction()  # never committed: the roles are those of all databases
        await outer.start()
        try:
            claims = json.dumps({"sub": str(ann.user_id), "role": role})
            await connection.execute(f"GRANT {role} TO CURRENT_USER")
            await connection.execute("SELECT set_config('request.jwt.claims', $1, true)", claims)
            await connection.execute(f"SET LOCAL ROLE {role}")
            await connection.execute(INSERT, ann.user_id, "hers")
            seen = await connection.fetch("SELECT * FROM public.mcp_sessions")
            assert [row["session_id"] for row in seen] == ["hers"]
            assert await connection.execute("UPDATE public.mcp_sessions SET oauth_data = '{}'") == "UPDATE 1"
            assert await connection.execute("DELETE FROM public.mcp_sessions") == "DELETE 1"
            for of_whom in (ann, bo):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="agentapi_accounts"):
                    async with connection.transaction():
                        await connection.execute(INSERT, ann.user_id, f"oauth/{of_whom.user_id}")
        finally:
            await outer.rollback()
            await connection.close()
