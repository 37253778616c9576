"""What a front end reads by `select('*')`: before the migrations, after them, and in tables of ours."""

import json
from collections.abc import AsyncGenerator

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.ids import new_id
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.front_ends import NARROW
from agentapi_mcp.stores.postgres.identities import PostgresIdentities
from agentapi_mcp.stores.postgres.migrate import Migrated, Plan, migrate, run_migration, run_preview
from agentapi_mcp.stores.postgres.row_secrets import looks_secret, secret_places
from agentapi_mcp.stores.postgres.schema_files import migrations
from tests.conftest import DatabaseUrls
from tests.support.dumps import dump
from tests.support.supabase import ALICE, BOB, OWNER, Project

NINE = (
    *("profiles", "organizations", "organization_members", "mcp_sessions"),
    *("agents", "models", "chat_sessions", "chat_messages", "agent_health"),
)
VIEWS = ("v_recent_sessions", "v_agent_status")
ROLES = ("authenticated", "service_role")
CLEAN = "UPDATE public.agents SET config = config - 'api_key'"
LEAK = """
UPDATE public.models SET config = '{"headers": {"Authorization": "Bearer abcdefgh12345"}}' WHERE name = 'gpt-4o'
"""
ALL_OF = "SELECT count(*) FROM (SELECT * FROM public.{}) AS t"


async def count(project: Project, table: str, role: str, user: object = ALICE) -> object:
    """Count the rows that a role sees of all columns of a table, or say that it may not."""
    try:
        return await project.value(ALL_OF.format(table), user=user, role=role)  # type: ignore[arg-type]  # a UUID
    except asyncpg.InsufficientPrivilegeError:
        return "denied"


async def counts(project: Project) -> dict[tuple[str, str], object]:
    """Count what each role sees of each table."""
    return {(table, role): await count(project, table, role) for table in (*NINE, *VIEWS) for role in ROLES}


async def run(project: Project, *, narrow: bool | None = None) -> Migrated:
    """Migrate as the operator does."""
    return await run_migration(project.owner, Plan("0.1.0", narrow_columns=narrow))


async def test_what_a_front_end_read_by_all_columns_it_reads_after_the_migrations(deployed: Project) -> None:
    await deployed.run(CLEAN)
    await deployed.run("ALTER TABLE public.chat_messages ADD feedback text", role=OWNER)
    before = await counts(deployed)
    assert "denied" not in before.values()
    done = await run(deployed)
    after = await counts(deployed)
    # Row-level security is on from now: of conversations a user sees her own.
    own = {
        ("chat_sessions", "authenticated"): 2,
        ("chat_messages", "authenticated"): 7,
        ("v_recent_sessions", "authenticated"): 2,
    }
    assert after == before | own
    assert done.notes == ()


@pytest.mark.parametrize("secured", [False, True])
async def test_a_server_key_reads_what_it_read_also_where_it_cannot_bypass(deployed: Project, *, secured: bool) -> None:
    if secured:
        await deployed.run("ALTER TABLE public.agents ENABLE ROW LEVEL SECURITY", role=OWNER)
    await deployed.run("ALTER ROLE service_role NOBYPASSRLS")
    try:
        before = {table: await count(deployed, table, "service_role") for table in NINE}
        assert before["agents"] == (0 if secured else 2)
        await run(deployed)
        assert {table: await count(deployed, table, "service_role") for table in NINE} == before
    finally:
        await deployed.run("ALTER ROLE service_role BYPASSRLS")


async def test_a_column_with_secrets_is_named_and_no_longer_read(deployed: Project) -> None:
    done = await run(deployed)
    assert done.notes == (
        (
            "authenticated may not read public.agents.config, which seems to hold secrets (droid: api_key); a query "
            "for all columns of the table is refused, as in select('*')"
        ),
    )
    assert await count(deployed, "agents", "authenticated") == "denied"
    assert await count(deployed, "models", "authenticated") == 7
    assert await count(deployed, "agents", "service_role") == 2
    assert await deployed.value("SELECT count(name || type || description) FROM public.agents", user=ALICE) == 2
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await deployed.value("SELECT count(config) FROM public.agents", user=ALICE)


async def test_secrets_that_come_or_go_change_what_is_read_at_the_next_run(deployed: Project) -> None:
    await run(deployed)
    await deployed.run(CLEAN)
    await deployed.run(LEAK)
    plan = await run_preview(deployed.owner, Plan("0.1.0"))
    assert "grant SELECT on public.agents to authenticated" in plan.changes
    assert await count(deployed, "agents", "authenticated") == "denied"
    done = await run(deployed)
    assert done.notes == plan.notes
    assert done.notes == (
        "authenticated may now read public.agents.config",
        (
            "authenticated may not read public.models.config, which seems to hold secrets (gpt-4o: "
            "headers.Authorization); a query for all columns of the table is refused, as in select('*')"
        ),
    )
    assert await count(deployed, "agents", "authenticated") == 2
    assert await count(deployed, "models", "authenticated") == "denied"
    once = await dump(deployed.admin)
    assert (await run(deployed)).notes == done.notes[1:]
    assert await dump(deployed.admin) == once


async def test_columns_are_narrowed_where_the_operator_says_so_until_he_says_otherwise(deployed: Project) -> None:
    await deployed.run(CLEAN)
    await run(deployed, narrow=True)
    for repeated in (None, True):
        for table in ("agents", "models", "agent_health", "mcp_sessions"):
            assert await count(deployed, table, "authenticated") == "denied"
            columns = ", ".join(NARROW[table])
            assert await deployed.value(f"SELECT count(({columns})) FROM public.{table}", user=ALICE)  # noqa: S608  # ours
        assert (await run(deployed, narrow=repeated)).notes == ()
    widened = await run(deployed, narrow=False)
    assert "authenticated may now read public.agents.config" in widened.notes
    assert "denied" not in (await counts(deployed)).values()


async def test_single_columns_that_were_granted_stay_granted_and_no_more(deployed: Project) -> None:
    await deployed.run(
        f"{CLEAN}; REVOKE ALL ON public.agents, public.models FROM authenticated; "
        "GRANT SELECT (name, config) ON public.agents TO authenticated"
    )
    await run(deployed)
    assert await deployed.value("SELECT count((name, config)) FROM public.agents", user=ALICE) == 2
    for table in ("agents", "models"):
        assert await count(deployed, table, "authenticated") == ("denied" if table == "models" else 2)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await deployed.value("SELECT count(config) FROM public.models", user=ALICE)


async def test_what_an_earlier_version_narrowed_stays_until_it_is_asked_for(deployed: Project) -> None:
    await deployed.run(CLEAN)
    await migrate(deployed.owner, program="0.1.0", files=migrations()[:7])
    await run(deployed)
    assert await count(deployed, "agents", "authenticated") == "denied"
    await deployed.run("REVOKE ALL ON public.profiles, public.projects FROM authenticated")
    await run(deployed, narrow=False)
    assert await count(deployed, "agents", "authenticated") == 2
    assert await count(deployed, "profiles", "authenticated") == "denied"
    assert await count(deployed, "projects", "authenticated") == "denied"
    await run(deployed)
    assert await count(deployed, "agents", "authenticated") == 2


async def test_of_clients_without_row_level_security_users_read_their_own_and_others_all(deployed: Project) -> None:
    await deployed.run(
        "INSERT INTO public.mcp_sessions (session_id, user_id, oauth_data, expires_at) "  # noqa: S608  # ids
        f"VALUES ('bobs', '{BOB}', '{{}}', now()); CREATE ROLE reporting NOLOGIN; "
        "GRANT SELECT, INSERT, UPDATE ON public.mcp_sessions TO reporting"
    )
    try:
        await run(deployed)
        assert [await count(deployed, "mcp_sessions", "authenticated", user) for user in (ALICE, BOB)] == [1, 1]
        assert await count(deployed, "mcp_sessions", "reporting") == 2
        assert await count(deployed, "mcp_sessions", "service_role") == 2
        assert await count(deployed, "mcp_sessions", "anon") == "denied"
    finally:
        await deployed.run("DROP OWNED BY reporting; DROP ROLE reporting")


async def test_tokens_of_users_are_a_reason_to_narrow(deployed: Project) -> None:
    await deployed.run("""UPDATE public.mcp_sessions SET oauth_data = '{"access_token": "x-12345"}'""")
    notes = (await run(deployed)).notes
    assert "public.mcp_sessions.oauth_data, which seems to hold secrets (a session: access_token)" in notes[1]
    assert await count(deployed, "mcp_sessions", "authenticated") == "denied"
    assert await deployed.value("SELECT count((session_id, mcp_state)) FROM public.mcp_sessions", user=ALICE) == 1


# --- tables of ours


@pytest.fixture
async def own(database_urls: DatabaseUrls) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect as the owner, in a transaction that is undone."""
    connection = await asyncpg.connect(database_urls.owner)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def two_users(own: "asyncpg.Connection[asyncpg.Record]") -> tuple[object, object]:
    """Make two users of two organisations, each with a session and a client."""
    users = list[object]()
    for name in ("Ann", "Ben"):
        user, org, session = new_id(), new_id(), new_id()
        await own.execute("INSERT INTO public.profiles (id, email) VALUES ($1, $2)", user, f"{name}@example.com")
        await own.execute("INSERT INTO public.organizations (id, name) VALUES ($1, 'Crème & Co.')", org)
        await own.execute(
            "INSERT INTO public.organization_members (organization_id, user_id) VALUES ($1, $2)", org, user
        )
        await own.execute(
            "INSERT INTO public.chat_sessions (id, user_id, org_id) VALUES ($1, $2, $3)", session, user, org
        )
        await own.execute(
            "INSERT INTO public.chat_messages (session_id, role, content) VALUES ($1, 'user', 'x')", session
        )
        await own.execute(
            "INSERT INTO public.mcp_sessions (user_id, session_id, oauth_data) VALUES ($1, $2, '{}')", user, str(org)
        )
        users.append(user)
    return users[0], users[1]


async def become(own: "asyncpg.Connection[asyncpg.Record]", role: str, user: object) -> None:
    """Take a role for a user, as PostgREST does."""
    await own.execute("RESET ROLE")
    await own.execute("GRANT service_role TO CURRENT_USER")
    await own.execute(f"SET LOCAL ROLE {role}")
    await own.execute("SELECT set_config('request.jwt.claims', $1, true)", json.dumps({"sub": str(user), "role": role}))


async def test_in_tables_of_ours_a_user_reads_all_columns_of_own_rows(
    own: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await own.execute("INSERT INTO public.agents (name, type) VALUES ('seen-by-all', 'guide')")
    for user in await two_users(own):
        await become(own, "authenticated", user)
        for table in (*NINE, *VIEWS):
            rows = await own.fetch(f"SELECT * FROM public.{table}")  # noqa: S608  # names
            if table in {"agents", "v_agent_status"}:
                assert "seen-by-all" in {row["name"] for row in rows}
            elif table not in {"models", "agent_health"}:
                assert len(rows) == 1, table
            if "user_id" in (rows[0].keys() if rows else ()):
                assert {row["user_id"] for row in rows} == {user}


async def test_in_tables_of_ours_a_server_key_may_do_everything(own: "asyncpg.Connection[asyncpg.Record]") -> None:
    first, second = await two_users(own)
    await become(own, "service_role", None)
    seen = {row["id"] for row in await own.fetch("SELECT * FROM public.profiles")}
    assert {first, second} <= seen
    for table in (*NINE, *VIEWS):
        assert await own.fetchval(ALL_OF.format(table)) is not None
    for table in reversed(NINE):
        kind = await own.fetchval(
            "SELECT string_agg(p, ' ') FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', "
            "'REFERENCES', 'TRIGGER']) AS p WHERE NOT has_table_privilege('service_role', 'public.' || $1, p)",
            table,
        )
        assert kind is None, (table, kind)
    assert await own.execute("UPDATE public.profiles SET status = 'suspended' WHERE id = $1", first) == "UPDATE 1"
    assert await own.execute("DELETE FROM public.profiles WHERE id = $1", first) == "DELETE 1"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await own.execute("SELECT FROM agentapi.turns")


async def test_an_organization_gets_a_slug_of_its_name_that_is_its_own(
    own: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    make = "INSERT INTO public.organizations (name) VALUES ($1) RETURNING slug"
    assert await own.fetchval(make, "  Crème & Co. ÜBER  ") == "creme-co-uber"
    again = await own.fetchval(make, "crème & co über")
    assert again.startswith("creme-co-uber-")
    assert len(again) == len("creme-co-uber-") + 6
    assert await own.fetchval(make, "東京") == "organization"
    assert len(await own.fetchval(make, "x" * 300)) == 60
    chosen = "INSERT INTO public.organizations (name, slug) VALUES ('a', $1) RETURNING (slug, is_deleted)::text"
    assert await own.fetchval(chosen, "Mine") == "(Mine,f)"
    with pytest.raises(asyncpg.UniqueViolationError, match="organizations_slug_key"):
        await own.execute(chosen, "Mine")


async def test_organizations_that_were_there_get_slugs_and_keep_their_times(project: Project) -> None:
    await project.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION supabase_owner")
    await migrate(project.owner, program="0.1.0", files=migrations()[:7])
    await project.run(
        "INSERT INTO public.organizations (name, updated_at) SELECT 'Personal', '2020-01-01' FROM generate_series(1, 3)"
    )
    await migrate(project.owner, program="0.1.0")
    assert await project.value("SELECT count(DISTINCT slug) FROM public.organizations") == 3
    assert await project.value("SELECT count(*) FROM public.organizations WHERE slug = 'personal'") == 1
    assert await project.value("SELECT count(*) FROM public.organizations WHERE updated_at = '2020-01-01'") == 3


async def test_two_organizations_of_a_name_that_are_made_at_once_get_two_slugs(database_urls: DatabaseUrls) -> None:
    first, second = await asyncpg.connect(database_urls.owner), await asyncpg.connect(database_urls.owner)
    make = "INSERT INTO public.organizations (name) VALUES ('At once') RETURNING slug"
    try:
        one = first.transaction()
        await one.start()
        slug = await first.fetchval(make)
        async with second.transaction():
            await second.execute("SET LOCAL lock_timeout = '20ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                async with second.transaction():
                    await second.execute(make)
            await one.commit()
            assert str(await second.fetchval(make)).startswith(f"{slug}-")
    finally:
        await first.execute("DELETE FROM public.organizations WHERE name = 'At once'")
        await first.close()
        await second.close()


async def test_a_sign_in_is_noted_in_the_profile_and_not_at_every_request(
    database: Database, database_urls: DatabaseUrls
) -> None:
    identities = PostgresIdentities(database)
    account = await identities.create("https://issuer", "ann", email=None, name=None, org_id=None, role="member")
    owner = await asyncpg.connect(database_urls.owner)
    read = "SELECT last_login_at FROM public.profiles WHERE id = $1"
    long_ago = "UPDATE public.profiles SET last_login_at = now() - interval '1 hour' WHERE id = $1"
    try:
        first = await owner.fetchval(read, account.user_id)
        usual = "SELECT (status, avatar_url, preferences)::text FROM public.profiles WHERE id = $1"
        assert await owner.fetchval(usual, account.user_id) == "(active,,{})"
        assert first is not None
        await identities.find("https://issuer", "ann")
        assert await owner.fetchval(read, account.user_id) == first
        await owner.execute(long_ago, account.user_id)
        async with owner.transaction():
            await owner.execute("SELECT FROM public.profiles WHERE id = $1 FOR UPDATE", account.user_id)
            assert await identities.find("https://issuer", "ann") is not None  # waits for nobody
        assert await owner.fetchval(read, account.user_id) < first
        await identities.find("https://issuer", "ann")
        assert await owner.fetchval(read, account.user_id) > first
    finally:
        await owner.close()


async def test_where_nothing_may_be_written_a_sign_in_is_not_noted(database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        async with owner.transaction(readonly=True):
            assert await owner.execute("SELECT agentapi.note_sign_in($1)", new_id()) == "SELECT 1"
    finally:
        await owner.close()


# --- what looks like a secret


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api_key", "x"),
        ("apiKey", "abc"),
        ("X-Api-Key", "abc"),
        ("OPENROUTER_API_KEY", "abc"),
        ("openrouterKey", "abc"),
        ("password", "letmein"),
        ("clientSecret", "abc"),
        ("access_token", "abc"),
        ("", "sk-or-v1-0123456789abcdef"),
        ("note", "use AIzaSyA1234567890abcdef"),
        ("url", "postgresql://me:pw@db.example/x"),
        ("header", "Bearer abcdefgh12345"),
        ("pem", "-----BEGIN RSA PRIVATE KEY-----\nabc"),
    ],
)
def test_a_secret_is_seen_by_its_key_or_its_form(key: str, value: str) -> None:
    assert looks_secret(key, value)
    assert list(secret_places({"config": {"a": [{key: value}]}})) == [("config", f"a.{key}")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api_key", ""),
        ("api_key", "${OPENROUTER_API_KEY}"),
        ("api_key", "$KEY"),
        ("api_key", "<your key>"),
        ("password", "********"),
        ("token", "env:TOKEN"),
        ("key", "theme"),
        ("public_key", "abc"),
        ("sortKey", "name"),
        ("tokenizer", "cl100k_base"),
        ("auth", "application-default"),
        ("provider", "vertex-ai"),
        ("description", "Asks the secretary for keys and tokens"),
        ("url", "https://api.example.com/v1"),
        ("monkey", "abc"),
    ],
)
def test_what_names_a_secret_or_is_none_is_not_taken_for_one(key: str, value: str) -> None:
    assert not looks_secret(key, value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_row_can_be_searched(value: object) -> None:
    assert all(column == "config" for column, _ in secret_places({"config": value}))
