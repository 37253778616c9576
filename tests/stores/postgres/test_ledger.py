"""The ledger: each turn's bill once and for good, whoever ends the turn, and sums by day that are the same."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.base.ids import AgentId, ApiKeyId, OrgId, SessionId, UserId, new_id
from agentapi_mcp.core.backends.events import Usage
from agentapi_mcp.core.conversations.models import AcceptedTurn, EndReason, SettlingRule, Turn, TurnCost, TurnStatus
from agentapi_mcp.core.conversations.session_facts import SessionFilter
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope
from agentapi_mcp.core.keys.models import KeySource, PaidBy
from agentapi_mcp.core.usage.models import UsageSums
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.organizations import PostgresOrganizations
from agentapi_mcp.stores.postgres.schema_files import migrations
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.support.databases import Template, created
from tests.support.new_turns import ending, new_turn

OWNER = UUID(int=5)
_WAITS: LiteralString = "SELECT EXISTS (SELECT FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
_SUMS: LiteralString = """
SELECT count(*) FILTER (WHERE kind = 'turn') AS turns, coalesce(sum(unpriced), 0) AS unpriced,
       coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
       coalesce(sum(cached_tokens), 0) AS cached_tokens, coalesce(sum(cost_nanos), 0) AS cost_nanos
  FROM agentapi.ledger WHERE org_id = $1
"""
_DAYS: LiteralString = """
SELECT coalesce(sum(turns), 0) AS turns, coalesce(sum(unpriced), 0) AS unpriced,
       coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
       coalesce(sum(cached_tokens), 0) AS cached_tokens, coalesce(sum(cost_nanos), 0) AS cost_nanos
  FROM agentapi.usage_daily WHERE org_id = $1
"""
_TURNS: LiteralString = """
SELECT count(*) AS turns, count(*) FILTER (WHERE cost_usd IS NULL AND asked_at IS NOT NULL) AS unpriced,
       coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
       coalesce(sum(cached_tokens), 0) AS cached_tokens, coalesce(sum(cost_usd), 0) * 1000000000 AS cost_nanos
  FROM agentapi.turns WHERE org_id = $1 AND status NOT IN ('running', 'input_required')
"""


@dataclass(frozen=True)
class Scene:
    """An organisation with two members and an administrator, and one with nobody who is in the first."""

    database: Database
    agent: AgentId
    ann: Principal
    abe: Principal
    chief: Principal
    bo: Principal

    async def begin(self, principal: Principal, paid: PaidBy | None = None, session: SessionId | None = None) -> Turn:
        """Begin a turn."""
        new = replace(new_turn(self.agent, f"hello {new_id()}", session), lease_owner=OWNER, paid_by=paid or PaidBy())
        accepted = await PostgresTurns(self.database).begin(principal, new)
        assert isinstance(accepted, AcceptedTurn)
        return accepted.turn

    async def end(self, principal: Principal, turn: Turn, bill: TurnCost, **how: Any) -> Turn | None:  # noqa: ANN401  # fields of a turn
        """End a turn with a bill; None where it has been ended."""
        said = replace(turn, **{"status": TurnStatus.COMPLETED, "reply": "yes", "bill": bill, **how})
        return await PostgresTurns(self.database).finish(principal, said, ending(OWNER))

    async def read(self, sql: LiteralString, *values: object) -> list[dict[str, Any]]:
        """Read whatever there is."""
        async with self.database.as_system("test") as connection:
            return [dict(row) for row in await connection.fetch(sql, *values)]

    async def entries(self, turn: Turn) -> list[dict[str, Any]]:
        """Return what the ledger says of a turn, oldest first."""
        return await self.read("SELECT * FROM agentapi.ledger WHERE turn_id = $1 ORDER BY recorded_at", turn.id)

    async def check(self, org: OrgId, *, with_turns: bool = True) -> dict[str, Any]:
        """Check that the ledger's sums are those of the days, and of the turns that are there; return them."""
        [sums] = await self.read(_SUMS, org)
        assert [sums] == await self.read(_DAYS, org)
        if with_turns:
            assert [sums] == await self.read(_TURNS, org)
        return sums


@pytest.fixture
async def scene(database: Database) -> Scene:
    """Make the organisations."""
    return await make_scene(database)


async def make_scene(database: Database) -> Scene:
    """Make two organisations, with an agent."""
    one, two = OrgId(new_id()), OrgId(new_id())
    ann, abe, chief, bo = (UserId(new_id()) for _ in range(4))
    agent = AgentId(new_id())
    async with database.as_system("test") as connection:
        for org in (one, two):
            await connection.execute("INSERT INTO public.organizations (id, name) VALUES ($1, 'o')", org)
        for user, org, role in ((ann, one, "member"), (abe, one, "member"), (chief, one, "admin"), (bo, two, "owner")):
            await connection.execute("INSERT INTO public.profiles (id) VALUES ($1)", user)
            await connection.execute(
                "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, $3)",
                org,
                user,
                role,
            )
        await connection.execute(
            "INSERT INTO public.agents (id, name, type) VALUES ($1, $2, 'custom')", agent, f"l-{agent}"
        )
    return Scene(
        database,
        agent,
        Principal(ann, one, Role.MEMBER),
        Principal(abe, one, Role.MEMBER),
        Principal(chief, one, Role.ADMIN),
        Principal(bo, two, Role.OWNER),
    )


def bill(nanos: int | None, tokens: tuple[int, int, int] = (1000, 200, 300), **more: Any) -> TurnCost:  # noqa: ANN401  # fields
    """Make a bill; None is one that nobody knows."""
    cost = None if nanos is None else Decimal(nanos) / 1_000_000_000
    usage = Usage(
        input_tokens=tokens[0], output_tokens=tokens[1], cached_tokens=tokens[2], reasoning_tokens=7, cost_usd=cost
    )
    return TurnCost(usage=usage, latency=timedelta(milliseconds=1500), cost_source="price list of 2026-11-01", **more)


async def test_a_turn_is_entered_once_with_all_of_its_bill(scene: Scene) -> None:
    key = ApiKeyId(new_id())
    turn = await scene.begin(scene.ann, PaidBy(KeySource.USER, "openai", key))
    assert await scene.entries(turn) == []
    ended = await scene.end(scene.ann, turn, bill(77_500, model_used="m-2", provider="upstream"))
    assert ended is not None
    # Whoever repeats it, since the answer to its COMMIT was lost, finds it ended.
    assert await scene.end(scene.ann, turn, bill(77_500)) is not None
    [entry] = await scene.entries(turn)
    person = entry.pop("person")
    assert person not in {scene.ann.user_id, turn.id}
    assert entry.pop("recorded_at") >= entry.pop("at") == ended.ended_at
    del entry["id"]
    assert entry == {
        "kind": "turn",
        "org_id": scene.ann.org_id,
        "session_id": turn.session_id,
        "turn_id": turn.id,
        "attempt": 1,
        "agent": "guide",
        "backend": "guide",
        "model": None,
        "model_used": "m-2",
        "provider": "openai",
        "served_by": "upstream",
        "paid_by": "user",
        "paid_key": key,
        "input_tokens": 1000,
        "output_tokens": 200,
        "cached_tokens": 300,
        "reasoning_tokens": 7,
        "cost_nanos": 77_500,
        "unpriced": 0,
        "outcome": "completed",
        "cost_source": "price list of 2026-11-01",
        "priced_on": date(2026, 11, 1),
        "billing_may_go_on": False,
        "latency_ms": 1500,
        "time_to_first_token_ms": None,
        "interaction_type": None,
        "reported_input_tokens": None,
        "reported_output_tokens": None,
        "reported_nanos": None,
    }
    assert (await scene.check(scene.ann.org_id))["cost_nanos"] == 77_500
    [day] = await scene.read("SELECT * FROM agentapi.usage_daily WHERE org_id = $1", scene.ann.org_id)
    assert (day["agent"], day["model"], day["provider"], day["errors"], day["latency_ms"]) == (
        *("guide", "m-2", "openai"),
        *(0, 1500),
    )
    assert (sum(day["latency"]), day["latency"][7], day["last_at"]) == (1, 1, ended.ended_at)


@pytest.mark.parametrize("status", [TurnStatus.FAILED, TurnStatus.CANCELLED, TurnStatus.INTERRUPTED])
async def test_what_nobody_knows_stays_unknown_and_is_counted(scene: Scene, status: TurnStatus) -> None:
    turn = await scene.begin(scene.ann)
    await scene.end(scene.ann, turn, TurnCost(), status=status)
    [entry] = await scene.entries(turn)
    assert (entry["cost_nanos"], entry["unpriced"], entry["input_tokens"]) == (None, 1, None)
    sums = await scene.check(scene.ann.org_id)
    assert (sums["turns"], sums["unpriced"], sums["cost_nanos"]) == (1, 1, 0)


async def test_what_was_never_asked_is_known_to_cost_nothing(scene: Scene) -> None:
    turn = await scene.begin(scene.ann)
    said = replace(turn, status=TurnStatus.FAILED)
    await PostgresTurns(scene.database).finish(scene.ann, said, replace(ending(OWNER, reply=False), asked=False))
    [entry] = await scene.entries(turn)
    assert (entry["cost_nanos"], entry["unpriced"], entry["outcome"]) == (0, 0, "failed")
    await scene.check(scene.ann.org_id)


async def test_a_bill_outlives_its_conversation(scene: Scene) -> None:
    turn = await scene.begin(scene.ann)
    await scene.end(scene.ann, turn, bill(5))
    await PostgresSessions(scene.database).delete(scene.ann, turn.session_id)
    sums = await scene.check(scene.ann.org_id, with_turns=False)
    assert (sums["turns"], sums["cost_nanos"]) == (1, 5)


async def test_the_numbers_of_an_organisation_do_not_forget_what_was_deleted(scene: Scene) -> None:
    for nanos in (5, None):
        turn = await scene.begin(scene.ann)
        await scene.end(scene.ann, turn, bill(nanos) if nanos else TurnCost())
        await PostgresSessions(scene.database).delete(scene.ann, turn.session_id)
    unasked = await scene.begin(scene.ann)
    failed = replace(unasked, status=TurnStatus.FAILED)
    await PostgresTurns(scene.database).finish(scene.ann, failed, replace(ending(OWNER, reply=False), asked=False))
    numbers = (await PostgresOrganizations(scene.database).get(scene.chief)).numbers
    assert (numbers.turns, numbers.cost_usd) == ({"completed": 2, "failed": 1}, Decimal("5E-9"))
    assert (numbers.input_tokens, numbers.output_tokens) == (1000, 200)
    assert (numbers.unknown_costs, numbers.unknown_tokens, numbers.sessions) == (1, 1, 1)


async def test_a_session_has_the_sums_that_the_ledger_has_of_it(scene: Scene) -> None:
    sessions, first = PostgresSessions(scene.database), await scene.begin(scene.ann)
    await scene.end(scene.ann, first, bill(77_500))
    for nanos, status in ((None, TurnStatus.FAILED), (12, TurnStatus.CANCELLED)):
        turn = await scene.begin(scene.ann, session=first.session_id)
        await scene.end(scene.ann, turn, TurnCost() if nanos is None else bill(nanos), status=status)
    await scene.begin(scene.ann, session=first.session_id)  # which runs, and is not counted
    other = await scene.begin(scene.ann)
    page = await sessions.list_(scene.ann, SessionFilter(), cursor=None, limit=50)
    listed = {session.id: session.totals for session in page.items}
    assert listed[other.session_id] == UsageSums()
    [sums] = await scene.read(
        "SELECT count(*) AS turns, sum(unpriced) AS unpriced, sum(cost_nanos)::bigint AS cost_nanos, "
        "sum(input_tokens)::bigint AS input_tokens FROM agentapi.ledger WHERE session_id = $1",
        first.session_id,
    )
    for totals in (listed[first.session_id], (await sessions.get(scene.ann, first.session_id)).totals):
        assert {name: getattr(totals, name) for name in sums} == sums
        assert (totals.turns, totals.unpriced, totals.cost_nanos, totals.errors) == (3, 1, 77_512, 1)


async def test_a_turn_whose_conversation_is_deleted_meanwhile_is_entered_and_billed_once(scene: Scene) -> None:
    turn = await scene.begin(scene.ann)
    async with scene.database.as_system("test") as connection:
        await connection.execute("DELETE FROM public.chat_sessions WHERE id = $1", turn.session_id)
    [entry] = await scene.entries(turn)
    assert (entry["outcome"], entry["cost_nanos"], entry["unpriced"]) == ("deleted", None, 1)
    # Another's program cannot put its bill there.
    assert await scene.end(scene.abe, turn, bill(9)) is None
    assert len(await scene.entries(turn)) == 1
    for _ in range(2):
        assert await scene.end(scene.ann, turn, bill(12)) is None
    [_, correction] = await scene.entries(turn)
    assert (correction["kind"], correction["cost_nanos"], correction["unpriced"]) == ("correction", 12, -1)
    sums = await scene.check(scene.ann.org_id, with_turns=False)
    assert (sums["turns"], sums["cost_nanos"], sums["unpriced"], sums["input_tokens"]) == (1, 12, 0, 1000)


async def test_a_late_bill_that_is_repeated_while_it_is_written_is_entered_once(
    scene: Scene, database_urls: DatabaseUrls
) -> None:
    turn = await scene.begin(scene.ann)
    async with scene.database.as_system("test") as connection:
        await connection.execute("DELETE FROM public.chat_sessions WHERE id = $1", turn.session_id)
    claims = json.dumps({"sub": str(scene.ann.user_id), "agentapi_org": str(scene.ann.org_id)})
    late = (
        "SELECT agentapi.bill_deleted($1, jsonb_populate_record(NULL::agentapi.turns, '{\"cost_usd\": 0.000000012}'))"
    )
    async with AsyncExitStack() as stack:
        first, second = [await asyncpg.connect(database_urls.owner) for _ in range(2)]
        for each in (first, second):
            stack.push_async_callback(each.close)
            await each.execute("SELECT set_config('request.jwt.claims', $1, false)", claims)
        begun = first.transaction()
        await begun.start()
        await first.execute(late, turn.id)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            repeated = group.create_task(second.execute(late, turn.id))
            while not await first.fetchval(_WAITS):
                assert not repeated.done()
            await begun.commit()
    assert [entry["unpriced"] for entry in await scene.entries(turn)] == [1, -1]
    sums = await scene.check(scene.ann.org_id, with_turns=False)
    assert (sums["cost_nanos"], sums["unpriced"]) == (12, 0)


async def test_a_late_bill_is_that_of_the_person_who_was_entered(scene: Scene) -> None:
    turn = await scene.begin(scene.ann)
    rule = SettlingRule(own=frozenset(), dead=frozenset({OWNER}))
    assert await PostgresTurns(scene.database).settle(rule)
    async with scene.database.as_system("test") as connection:
        await connection.execute("DELETE FROM agentapi.people WHERE user_id = $1", scene.ann.user_id)
    assert await scene.end(scene.ann, turn, bill(31)) is None
    first, second = await scene.entries(turn)
    assert (second["kind"], second["person"]) == ("correction", first["person"])
    sums = await scene.check(scene.ann.org_id)
    assert (sums["turns"], sums["cost_nanos"], sums["unpriced"]) == (1, 31, 0)


async def test_the_bill_of_a_turn_that_was_settled_meanwhile_is_kept_once(scene: Scene) -> None:
    turn = await scene.begin(scene.ann)
    rule = SettlingRule(own=frozenset(), dead=frozenset({OWNER}))
    assert [settled.id for settled in await PostgresTurns(scene.database).settle(rule)] == [turn.id]
    [entry] = await scene.entries(turn)
    assert (entry["outcome"], entry["cost_nanos"], entry["unpriced"]) == ("interrupted", None, 1)
    assert await scene.end(scene.ann, turn, bill(31, model_used="m-2")) is None
    assert await scene.end(scene.ann, turn, bill(77)) is None
    sums = await scene.check(scene.ann.org_id)
    assert (sums["turns"], sums["cost_nanos"], sums["unpriced"]) == (1, 31, 0)
    kept = await PostgresTurns(scene.database).get(scene.ann, turn.id)
    assert (kept.status, kept.end_reason, kept.bill.usage.cost_usd) == (
        TurnStatus.INTERRUPTED,
        EndReason.LEASE_EXPIRED,
        Decimal("3.1E-8"),
    )
    [first, second] = await scene.entries(turn)
    assert (second["at"], second["kind"]) == (first["at"], "correction")
    assert len(await scene.read("SELECT FROM agentapi.usage_daily WHERE org_id = $1", scene.ann.org_id)) == 1


async def test_many_turns_that_end_at_once_are_all_there(scene: Scene) -> None:
    turns = [(who, await scene.begin(who)) for who in (scene.ann, scene.abe) for _ in range(10)]
    async with asyncio.TaskGroup() as group:
        for number, (who, turn) in enumerate(turns):
            group.create_task(scene.end(who, turn, bill(number)))
    sums = await scene.check(scene.ann.org_id)
    assert (sums["turns"], sums["cost_nanos"]) == (20, sum(range(20)))


async def test_a_day_is_that_of_utc_and_a_month_has_its_own_part(scene: Scene, database_urls: DatabaseUrls) -> None:
    turn = await scene.begin(scene.ann)
    owner = await asyncpg.connect(database_urls.owner)
    try:
        moment = datetime(2027, 1, 31, 23, 59, 59, 999999, tzinfo=UTC)
        for at in (moment, moment + timedelta(microseconds=1)):
            # A clock that was set back: the end is never before the beginning.
            await owner.execute("UPDATE agentapi.turns SET created_at = $2 WHERE id = $1", turn.id, at)
            await owner.execute("SET timezone = 'Asia/Tokyo'")
            await scene.end(scene.ann, turn, bill(1))
            turn = await scene.begin(scene.ann)
        days = await scene.read(
            "SELECT day, turns FROM agentapi.usage_daily WHERE org_id = $1 ORDER BY day", scene.ann.org_id
        )
        assert [(row["day"], row["turns"]) for row in days] == [(date(2027, 1, 31), 1), (date(2027, 2, 1), 1)]
        parts = "SELECT tableoid::regclass::text AS part FROM agentapi.ledger WHERE org_id = $1 ORDER BY at"
        assert {row["part"] for row in await scene.read(parts, scene.ann.org_id)} == {"agentapi.ledger_default"}
        await owner.execute("SELECT agentapi.keep_partitions('2027-01-15')")
        assert [row["part"] for row in await scene.read(parts, scene.ann.org_id)] == [
            *("agentapi.ledger_2027_01", "agentapi.ledger_2027_02"),
        ]
    finally:
        await owner.close()
    await scene.check(scene.ann.org_id)


async def test_who_is_deleted_leaves_what_they_spent_and_not_that_it_was_them(scene: Scene) -> None:
    turn, running = await scene.begin(scene.ann), await scene.begin(scene.ann)
    await scene.end(scene.ann, turn, bill(5))
    async with scene.database.as_system("test") as connection:
        before = await connection.fetch("SELECT * FROM agentapi.ledger WHERE org_id = $1", scene.ann.org_id)
        await connection.execute("DELETE FROM public.chat_sessions WHERE user_id = $1", scene.ann.user_id)
        await connection.execute("DELETE FROM public.profiles WHERE id = $1", scene.ann.user_id)
    assert await scene.end(scene.ann, running, bill(3)) is None
    after = await scene.read("SELECT * FROM agentapi.ledger WHERE org_id = $1 ORDER BY recorded_at", scene.ann.org_id)
    assert after[0] == dict(before[0])
    assert [(entry["outcome"], entry["cost_nanos"], entry["kind"]) for entry in after] == [
        *(("completed", 5, "turn"), ("deleted", None, "turn"), ("deleted", 3, "correction")),
    ]
    assert len({entry["person"] for entry in after}) == 1
    assert await scene.read("SELECT FROM agentapi.people WHERE user_id = $1", scene.ann.user_id) == []
    everything = await scene.read("SELECT to_jsonb(l)::text AS it FROM agentapi.ledger l")
    assert not any(str(scene.ann.user_id) in row["it"] for row in everything)
    await scene.check(scene.ann.org_id, with_turns=False)


# --- who reads it


@asynccontextmanager
async def outside(database: Database, user: UserId) -> AsyncGenerator[Any]:
    """Read as a client with a token of the project, and without the program."""
    async with database.as_system("test") as connection:
        await connection.execute("SET LOCAL ROLE authenticated")
        claims = f'{{"sub": "{user}", "role": "authenticated"}}'
        await connection.fetchval("SELECT set_config('request.jwt.claims', $1, true)", claims)
        yield connection


@pytest.mark.parametrize("table", ["ledger", "usage_daily"])
async def test_everybody_reads_their_own_and_administrators_all_of_their_organisation(
    scene: Scene, table: LiteralString
) -> None:
    for who, nanos in ((scene.ann, 1), (scene.abe, 2), (scene.chief, 4), (scene.bo, 8)):
        await scene.end(who, await scene.begin(who), bill(nanos))
    statement: LiteralString = "SELECT coalesce(sum(cost_nanos), 0)::integer FROM agentapi." + table  # noqa: S608  # a literal
    chief = scene.chief
    seen = {
        scene.ann: 1,
        scene.abe: 2,
        chief: 7,
        scene.bo: 8,
        replace(scene.ann, role=Role.VIEWER): 1,
        replace(chief, scopes=frozenset({TokenScope.READ})): 4,
        replace(chief, scopes=frozenset({TokenScope.ADMIN})): 7,
        # Of another organisation than the claims say, whatever role they say.
        replace(scene.bo, org_id=scene.ann.org_id): 0,
    }
    for who, nanos in seen.items():
        async with scene.database.as_principal(who) as connection:
            assert (who, await connection.fetchval(statement)) == (who, nanos)
    for user, nanos in ((scene.ann, 1), (chief, 7), (scene.bo, 8)):
        async with outside(scene.database, user.user_id) as connection:
            assert (user, await connection.fetchval(statement)) == (user, nanos)
    async with scene.database.as_system("test") as connection:
        await connection.execute("DELETE FROM public.organization_members WHERE user_id = $1", chief.user_id)
    async with scene.database.as_principal(chief) as connection:
        assert await connection.fetchval(statement) == 0
    async with outside(scene.database, chief.user_id) as connection:
        assert await connection.fetchval(statement) == 0


async def test_nobody_has_a_right_to_write_it_or_to_know_who_a_person_is(database: Database) -> None:
    async with database.as_system("test") as connection:
        rows = await connection.fetch(
            "SELECT r.rolname::text AS role, c.relname::text AS relation, p.privilege "
            "FROM pg_class c, pg_roles r, "
            "unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS p (privilege) "
            "WHERE c.relnamespace = 'agentapi'::regnamespace AND c.relname ~ '^(ledger|usage|people)' "
            "AND c.relkind IN ('r', 'p') AND r.rolname IN "
            "('anon', 'authenticated', 'service_role', 'agentapi_writer', 'agentapi_system') "
            "AND has_table_privilege(r.oid, c.oid, p.privilege)"
        )
    assert {tuple(row.values()) for row in rows} == {
        *(
            (role, table, "SELECT")
            for role in ("authenticated", "agentapi_system")
            for table in (
                *("ledger", "usage_daily", "usage_daily_of_organizations", "usage_daily_of_persons"),
                "usage_agents_of_persons",
            )
        ),
        ("agentapi_system", "people", "SELECT"),
        ("agentapi_system", "people", "DELETE"),
    }


# --- what was there before


async def test_turns_of_before_are_entered_once(template: Template) -> None:
    files = migrations()
    before = next(number for number, file in enumerate(files) if file.id == "0020_ledger")
    async with created(template.admin, "OWNER agentapi_owner") as name, AsyncExitStack() as stack:
        url = template.owner.replace(f"/{template.name}?", f"/{name}?")
        await migrate(url, program="0.1.0", files=files[:before])
        owner = await asyncpg.connect(url)
        stack.push_async_callback(owner.close)
        user, org, agent = new_id(), new_id(), new_id()
        await owner.execute("INSERT INTO public.organizations (id, name) VALUES ($1, 'o')", org)
        await owner.execute("INSERT INTO public.profiles (id) VALUES ($1)", user)
        await owner.execute("INSERT INTO public.agents (id, name, type) VALUES ($1, 'a', 'custom')", agent)
        model = await owner.fetchval(
            "INSERT INTO public.models (agent_id, name, provider, model_id) VALUES ($1, 'm', ' OpenAI', 'm') "
            "RETURNING id",
            agent,
        )
        for status, cost, days in (
            ("completed", Decimal("0.0000775"), 40),
            ("interrupted", None, 1),
            ("running", None, 0),
        ):
            session = await owner.fetchval(
                "INSERT INTO public.chat_sessions (user_id, org_id) VALUES ($1, $2) RETURNING id", user, org
            )
            await owner.execute(
                "INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_id, agent_name, "
                "backend, model_row_id, model_name, fingerprint, status, cost_usd, lease_owner, lease_until, ended_at, "
                "route) VALUES (gen_random_uuid(), $1, $2, $3, gen_random_uuid(), $4, 'a', 'openai', $5, 'm', '', $6, "
                "$7, CASE WHEN $6::text = 'running' THEN gen_random_uuid() END, "
                "CASE WHEN $6::text = 'running' THEN now() END, "
                "CASE WHEN $6::text <> 'running' THEN now() - make_interval(days => $8) END, '[{\"key\": \"user\"}]')",
                *(session, user, org, agent, model, status, cost, days),
            )
        await migrate(url, program="0.1.0")
        rows = await owner.fetch("SELECT * FROM agentapi.ledger ORDER BY at")
        assert [
            (row["outcome"], row["cost_nanos"], row["unpriced"], row["provider"], row["paid_by"]) for row in rows
        ] == [
            ("completed", 77_500, 0, "openai", "user"),
            ("interrupted", None, 1, "openai", "user"),
        ]
        assert len({row["person"] for row in rows}) == 1
        assert await owner.fetchval("SELECT count(*) FROM agentapi.ledger_default") == 0
        assert await owner.fetchval("SELECT sum(cost_nanos) FROM agentapi.usage_daily") == 77_500
        assert await migrate(url, program="0.1.0") == ()
        assert await owner.fetchval("SELECT count(*) FROM agentapi.ledger") == 2
