"""Migrations on an organisation's database: what was there keeps its meaning, and only what is announced is added."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.diagnosis import read_facts
from agentapi_mcp.stores.postgres.migrate import Plan, migrate, preview, run_migration, status
from agentapi_mcp.stores.postgres.schema_files import migrations
from agentapi_mcp.stores.postgres.sessions import LIST, MESSAGES
from tests.support.dumps import dump
from tests.support.supabase import ACME, ALICE, APP, BOB, OLD_SESSION, OWNER, Project, copied

ALL = tuple(migration.id for migration in migrations())
FIVE = ("agents", "models", "chat_sessions", "chat_messages", "agent_health")
VIEWS = ("v_recent_sessions", "v_agent_status")
# Names that other programs look for.
SEEDS = ("ai_interactions", "recent_interactions", "ai_usage_stats", "agent_metrics")
FUNCTIONS = ("update_daily_usage_stats(date)", "get_agent_usage_summary(uuid,integer)")
BROAD = """
ALTER TABLE public.agents ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.chat_sessions ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Colleagues share" ON public.chat_sessions TO authenticated USING (true) WITH CHECK (true);
CREATE POLICY "Only members" ON public.chat_sessions AS RESTRICTIVE TO authenticated
    USING (org_id IN (SELECT organization_id FROM public.organization_members WHERE user_id = auth.uid()));
"""


# Three thousand sessions of each user with five messages each, and one long conversation.
MANY = f"""
INSERT INTO public.chat_sessions (user_id, org_id, created_at, last_message_at)
SELECT u, '{ACME}', now() - n * interval '1 hour', now() - n * interval '1 hour'
  FROM unnest(ARRAY['{ALICE}', '{BOB}']::uuid[]) AS u, generate_series(1, 3000) AS n;
INSERT INTO public.chat_messages (session_id, role, content, created_at)
SELECT s.id, 'user', 'x', s.created_at + n * interval '1 second'
  FROM public.chat_sessions s, generate_series(1, 5) AS n;
INSERT INTO public.chat_messages (session_id, role, content, created_at)
SELECT '{OLD_SESSION}', 'user', 'x', now() + n * interval '1 second' FROM generate_series(1, 2000) AS n;
ANALYZE public.chat_sessions, public.chat_messages;
"""  # noqa: S608  # ids of the tests
WRITES = {"INSERT", "UPDATE", "DELETE", "TRUNCATE"}
PLAN: LiteralString = "EXPLAIN (ANALYZE, FORMAT JSON) "
# Some of what a preview says of the deployed project.
ANNOUNCED = {
    f"grant the role agentapi_writer to {APP}",
    f"grant the role authenticated to {APP}",
    "create schema agentapi",
    "create table agentapi.turns",
    "create index public.agentapi_sessions_owner on public.chat_sessions",
    "create policy agentapi_system on public.profiles",
    "enable row-level security on public.chat_messages",
    "set security_invoker = true on public.v_recent_sessions",
    "grant SELECT (created_at, description, enabled, id, name, type, updated_at) on public.agents to authenticated",
    "grant SELECT (current_organization_id, email, id, workos_id) on public.profiles to agentapi_system",
    "revoke DELETE, INSERT, SELECT, TRUNCATE, UPDATE on public.agents from authenticated",
}
SMALL = {"agents", "models", "organization_members"}


def plan_nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """List a plan's nodes."""
    yield node
    for child in node.get("Plans", []):
        yield from plan_nodes(child)


async def test_nothing_that_was_there_changes_but_what_is_announced(deployed: Project) -> None:
    before = await dump(deployed.admin)
    assert await migrate(deployed.owner, program="0.1.0", grant_to=APP) == ALL
    after = await dump(deployed.admin)

    changed = {key for key in before if key in after and before[key] != after[key]}
    written = {f"grant on public.{name} to authenticated" for name in ("agents", "models", "agent_health")}
    written |= {f"grant on public.mcp_sessions to {role}" for role in ("anon", "authenticated")}
    written |= {"grant on public.chat_messages to authenticated"}
    secured = {f"row security of public.{name}" for name in (*FIVE, "mcp_sessions")}
    assert changed == secured | written | {f"relation public.{v}" for v in VIEWS}
    # A secret is found in a configuration of agents; of the others all columns stay readable.
    lost = {key: set(before[key].split()) - set(after[key].split()) for key in written}
    closed = {"grant on public.agents to authenticated", "grant on public.mcp_sessions to anon"}
    assert {key for key in written if "SELECT" in lost[key]} == closed
    assert all(lost[key] >= WRITES for key in written)
    assert all(after[key] == "t f" for key in secured)
    assert all(after[f"relation public.{view}"].endswith("{security_invoker=true}") for view in VIEWS)
    taken = {f"grant on public.{name} to anon" for name in (*FIVE, *VIEWS)}
    assert before.keys() - after.keys() == taken

    added = {key for key in after.keys() - before.keys() if " agentapi." not in key}
    others = {key for key in added if "agentapi_" not in key and not key.startswith("policy ")}
    seeds = {key for key in others for name in (*SEEDS, *FUNCTIONS) if f" public.{name}" in key}
    assert {key for key in seeds if not key.startswith(("grant on ", "column "))} == {
        *(f"{kind} public.{name}" for name in SEEDS for kind in ("relation", "view")),
        *(f"function public.{name}" for name in FUNCTIONS),
        "trigger public.ai_interactions write_interaction",
    }
    others -= seeds
    columns = {key for key in others if key.startswith("grant on public.") and key.endswith(" to authenticated")}
    assert {key.split(".")[1] for key in columns} == {"agents"}
    assert not [key for key in columns if ".config " in key]
    assert {after[key] for key in columns} == {"SELECT"}
    assert others - columns == {
        "schema agentapi",
        f"grant on schema agentapi to {OWNER}",
        "grant on schema agentapi to authenticated",
        "grant on schema agentapi to service_role",
        f"grant on schema agentapi to {APP}",
        f"member {APP} of authenticated",
    }


async def test_a_project_without_the_tables_gets_them_closed_to_anon(project: Project) -> None:
    before = await dump(project.admin)
    await migrate(project.owner, program="0.1.0")
    after = await dump(project.admin)
    assert before.keys() <= after.keys()
    changed = {key for key in before if before[key] != after[key]}
    clients = {role: f"grant on public.mcp_sessions to {role}" for role in ("anon", "authenticated")}
    assert changed == {*clients.values(), "row security of public.mcp_sessions"}
    lost = {role: set(before[key].split()) - set(after[key].split()) for role, key in clients.items()}
    assert lost == {"anon": WRITES | {"SELECT"}, "authenticated": WRITES}
    assert not [key for key in after.keys() - before.keys() if key.endswith(" to anon")]
    assert "grant on public.agents to service_role" in after
    assert after["grant on public.agents to authenticated"] == "SELECT"
    assert "index public.agentapi_messages_order" in after


async def test_default_privileges_give_away_nothing_of_the_programs_own(project: Project) -> None:
    await project.run(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO anon, authenticated;"
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon, authenticated",
        role=OWNER,
    )
    await migrate(project.owner, program="0.1.0")
    after = await dump(project.admin)
    assert after["grant on schema agentapi to authenticated"] == "USAGE"
    assert after["grant on agentapi.agent_names to authenticated"] == "SELECT"
    given = {key.split(" to ")[0] for key in after if " agentapi." in key and key.endswith(" to authenticated")}
    tables, columns = ({key for key in given if key.count(".") == dots} for dots in (1, 2))
    read = {
        *("agent_names", "model_names", "own_organizations", "own_message_counts", "own_openings", "ledger"),
        *("usage_daily", "usage_daily_of_organizations", "usage_daily_of_persons", "usage_agents_of_persons"),
        *("providers", "terms", "session_facts", "turn_ratings"),
        *("budgets", "budget_periods", "visible_usage", *SEEDS),
    }
    assert tables == {f"grant on agentapi.{name}" for name in read}
    assert {after[f"grant on agentapi.{name} to authenticated"] for name in read} == {"SELECT"}
    assert {key.split(".")[1] for key in columns} == {"tasks", "turns"}
    assert not {"backend_state", "fingerprint", "lease_owner"} & {key.split(".")[2] for key in columns}
    assert after["grant on public.chat_messages to authenticated"] == "SELECT"
    assert not [key for key in after if "agentapi" in key and key.endswith(" to anon")]


async def test_a_second_run_and_three_at_once_change_nothing_more(deployed: Project) -> None:
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(migrate(deployed.owner, program="0.1.0", grant_to=APP)) for _ in range(3)]
    assert sorted(run.result() for run in runs) == [(), (), ALL]
    once = await dump(deployed.admin)
    assert await migrate(deployed.owner, program="0.1.0", grant_to=APP) == ()
    assert await dump(deployed.admin) == once


async def test_a_preview_tells_all_and_changes_nothing(deployed: Project) -> None:
    before = await dump(deployed.admin)
    plan = await preview(deployed.owner, program="0.1.0", grant_to=APP)
    assert await dump(deployed.admin) == before
    assert (plan.migrations, plan.carries_over, plan.login) == (ALL, False, OWNER)
    assert plan.database == urlsplit(deployed.owner).path.removeprefix("/")
    assert plan.server.split(".")[0].isdecimal()
    assert set(plan.changes) >= ANNOUNCED
    changed = {line for line in plan.changes if "agentapi" not in line and "row-level security" not in line}
    seeds = {line for line in changed for name in (*SEEDS, *FUNCTIONS) if f" public.{name}" in line}
    assert {line for line in seeds if line.startswith("create ")} == {
        *(f"create view public.{name}" for name in SEEDS),
        *(f"create function public.{name}" for name in FUNCTIONS),
    }
    assert {line.split()[0] for line in changed - seeds} == {"grant", "revoke", "set"}
    assert not [line for line in plan.changes if "on public.projects" in line]

    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    assert (await preview(deployed.owner, program="0.1.0", grant_to=APP)).changes == ()


async def test_a_preview_on_a_second_run_names_what_is_granted_only(deployed: Project) -> None:
    await migrate(deployed.owner, program="0.1.0")
    roles = ("agentapi_system", "agentapi_writer", "authenticated")
    functions = (
        "begin_turn_1(text,jsonb,text)",
        "begin_turn_2(text,jsonb,jsonb,text)",
        "end_turn_1(text,jsonb,text,jsonb)",
        "end_turn_2(text,jsonb,text,jsonb)",
        "estimate_turn_1(text,uuid,text,uuid)",
        "mark_delivered_1(uuid[])",
        "tell_1(uuid,text[])",
        "turn_defaults_1(text,uuid)",
    )
    assert (await preview(deployed.owner, program="0.1.0", grant_to=APP)).changes == (
        *(f"grant the role {role} to {APP}" for role in roles),
        f"grant USAGE on agentapi to {APP}",
        *(f"grant EXECUTE on agentapi.{function} to {APP}" for function in functions),
    )


async def test_the_state_of_each_migration_is_told(deployed: Project) -> None:
    assert [state.applied_at for state in await status(deployed.owner)] == [None] * len(ALL)
    await migrate(deployed.owner, program="0.1.0")
    applied = await status(deployed.owner)
    assert [(state.id, state.note) for state in applied] == [(id_, None) for id_ in ALL]
    assert None not in [state.applied_at for state in applied]
    await deployed.run(
        "UPDATE agentapi.migrations SET sha256 = 'x' WHERE id = '0001_schema';"
        "INSERT INTO agentapi.migrations (id, sha256, needs) VALUES ('9999_later', 'x', '9.1.0')"
    )
    states = {state.id: state for state in await status(deployed.owner)}
    assert "another form" in (states["0001_schema"].note or "")
    assert "9.1.0" in (states["9999_later"].note or "")


async def test_readers_of_the_views_see_their_own_rows(deployed: Project) -> None:
    count = "SELECT count(*) FROM public.v_recent_sessions"
    assert await deployed.value(count, user=ALICE) == 3
    assert await deployed.value(count, user=ALICE, role="anon") == 3
    await migrate(deployed.owner, program="0.1.0")
    assert await deployed.value(count, user=ALICE) == 2
    assert await deployed.value(count, user=BOB) == 1
    assert await deployed.value(count, user=BOB, role="service_role") == 3
    names = "SELECT string_agg(agent_name || '/' || model_name, ',') FROM public.v_recent_sessions"
    assert await deployed.value(names, user=ALICE) == "droid/gpt-4o"
    assert await deployed.value("SELECT count(*) FROM public.v_agent_status", user=ALICE) == 2
    for relation in (*FIVE, *VIEWS):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await deployed.value(f"SELECT count(*) FROM public.{relation}", user=ALICE, role="anon")  # noqa: S608  # a name
    assert await deployed.value("SELECT count(*) FROM public.projects", user=ALICE, role="anon") == 1


async def test_policies_that_were_there_stay_and_hidden_rows_stay_hidden(deployed: Project) -> None:
    await deployed.run(BROAD, role=OWNER)
    before = await dump(deployed.admin)
    await migrate(deployed.owner, program="0.1.0")
    after = await dump(deployed.admin)
    kept = [key for key in before if key.startswith("policy ")]
    assert len(kept) == 5
    assert [before[key] for key in kept] == [after[key] for key in kept]
    # Row-level security hid the agents from signed-in users, and a secret in their configuration is hidden now.
    assert await deployed.value("SELECT count(name) FROM public.agents", user=ALICE) == 0
    assert await deployed.value("SELECT count(name) FROM public.models", user=ALICE) == 7
    assert await deployed.value("SELECT count(config) FROM public.models", user=ALICE) == 7
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await deployed.value("SELECT count(config) FROM public.agents", user=ALICE)
    assert await deployed.value("SELECT count(*) FROM agentapi.agent_names", user=ALICE) == 2


async def test_messages_cannot_be_changed_nor_taken_back_by_their_user(deployed: Project) -> None:
    await migrate(deployed.owner, program="0.1.0")
    connection = await asyncpg.connect(deployed.admin)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL ROLE authenticated")
            claims = json.dumps({"sub": str(ALICE)})
            await connection.execute("SELECT set_config('request.jwt.claims', $1, true)", claims)
            assert await connection.fetchval("SELECT count(*) FROM public.chat_messages") == 7
            for written in ("UPDATE public.chat_messages SET content = 'forged'", "DELETE FROM public.chat_messages"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with connection.transaction():
                        await connection.execute(written)
    finally:
        await connection.close()


async def test_an_empty_schema_of_that_name_is_used(deployed: Project) -> None:
    await deployed.run(f"CREATE SCHEMA agentapi AUTHORIZATION {OWNER}")
    assert await migrate(deployed.owner, program="0.1.0") == ALL


async def test_a_table_in_use_is_not_waited_for(deployed: Project) -> None:
    before = await dump(deployed.admin)
    holder = await asyncpg.connect(deployed.admin)
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE public.chat_sessions IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailableError, match="Another transaction"):
                await migrate(deployed.owner, program="0.1.0", lock_timeout=timedelta(milliseconds=50))
    finally:
        await holder.close()
    assert await dump(deployed.admin) == before
    assert await migrate(deployed.owner, program="0.1.0") == ALL


async def test_policies_cost_no_scan_of_what_is_not_asked_for(deployed: Project) -> None:
    await deployed.run(f"ALTER TABLE public.chat_messages ENABLE ROW LEVEL SECURITY; {BROAD}", role=OWNER)
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    await deployed.run(MANY)
    first = (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))
    principal = Principal(UserId(ALICE), OrgId(ACME))
    async with (
        open_database(RemoteServer(deployed.app), PoolOptions()) as database,
        database.as_principal(principal) as connection,
    ):
        wanted = (ALICE, ACME, *first, None, None, 51, False, None)
        page = await connection.fetchval(PLAN + LIST, *wanted)
        messages = await connection.fetchval(PLAN + MESSAGES, OLD_SESSION, *first, 50, 1_000_000)
    for plan in (page, messages):
        nodes = list(plan_nodes(json.loads(plan)[0]["Plan"]))
        assert {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"} <= SMALL
        assert max(node["Actual Rows"] * node["Actual Loops"] for node in nodes) <= 600
        asked = {
            child["Index Name"]
            for node in nodes
            if node.get("Subplan Name", "").startswith("SubPlan")
            for child in plan_nodes(node)
            if "Index Name" in child
        }
        assert "agentapi_sessions_owner" in asked  # of each message, whose session it is


async def test_several_databases_of_one_server_are_migrated_at_once(
    supabase_server: str, deployed_template: str
) -> None:
    async with (
        copied(supabase_server, deployed_template) as one,
        copied(supabase_server, deployed_template) as two,
        copied(supabase_server, deployed_template) as three,
        asyncio.TaskGroup() as group,
    ):
        runs = [group.create_task(migrate(each.owner, program="0.1.0", grant_to=APP)) for each in (one, two, three)]
    assert [run.result() for run in runs] == [ALL, ALL, ALL]


# What another program has under these names: a table, a view, a type, functions of other arguments.
TAKEN = """
CREATE TABLE public.ai_interactions (id uuid PRIMARY KEY, title text);
CREATE VIEW public.recent_interactions AS SELECT 1 AS one;
CREATE DOMAIN public.agent_metrics AS text;
CREATE FUNCTION public.get_agent_usage_summary(who text) RETURNS text LANGUAGE sql AS $$ SELECT who $$;
CREATE FUNCTION public.update_daily_usage_stats() RETURNS integer LANGUAGE sql AS $$ SELECT 7 $$;
"""


async def test_names_that_are_taken_are_left_to_others_and_it_is_told(deployed: Project) -> None:
    await deployed.run(TAKEN, role=OWNER)
    before = {key: value for key, value in (await dump(deployed.admin)).items() if _is_seed(key)}
    assert len(before) > 4
    done = await run_migration(deployed.owner, Plan("0.1.0"))
    left = (
        "public.agent_metrics, public.ai_interactions, public.get_agent_usage_summary, public.recent_interactions, "
        "public.update_daily_usage_stats"
    )
    assert [note for note in done.notes if left in note] == [
        f"other programs have {left}, so nothing of this program was made under these names"
    ]
    after = await dump(deployed.admin)
    assert {key: after.get(key) for key in before} == before
    new = {key for key in after.keys() - before.keys() if _is_seed(key) and "ai_usage_stats" not in key}
    assert new == set()
    assert await deployed.value("SELECT count(*) FROM public.ai_usage_stats", user=ALICE) == 0
    assert await deployed.value("SELECT count(*) FROM agentapi.ai_interactions", user=ALICE) == 2
    assert await deployed.value("SELECT update_daily_usage_stats()") == 7
    # A later run says nothing: doctor does.
    assert (await run_migration(deployed.owner, Plan("0.1.0", APP))).notes == tuple(
        note for note in done.notes if left not in note
    )
    async with open_database(RemoteServer(deployed.app), PoolOptions()) as database:
        facts = await read_facts(database, SystemClock())
    assert ", ".join(facts.left_to_others) == left


def _is_seed(key: str) -> bool:
    return any(f" public.{name.partition('(')[0]}" in key for name in (*SEEDS, *FUNCTIONS))
