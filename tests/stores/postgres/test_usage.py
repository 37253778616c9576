"""Usage: what the sums by day and the ledger say of a period, to the microsecond and the nano-dollar."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any, LiteralString
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentapi_mcp.base.errors import PermissionDeniedError
from agentapi_mcp.base.ids import OrgId, SessionId, UserId, new_id
from agentapi_mcp.core.identity.principals import Action, Exceptions, Principal, Role
from agentapi_mcp.core.usage.models import UsageGroup, UsageQuery, UsageReport, UsageSums
from agentapi_mcp.core.usage.usage import Usage, split
from agentapi_mcp.presentation.usage import sums_fields
from agentapi_mcp.presentation.usage_words import sums_words
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.schema_files import migrations
from agentapi_mcp.stores.postgres.usage import PostgresUsage, statement_of
from tests.conftest import DatabaseUrls
from tests.support.clocks import ManualClock
from tests.support.databases import Template, created

NOW = datetime(2026, 11, 30, 15, 30, tzinfo=UTC)
FIRST = datetime(2026, 11, 26, tzinfo=UTC)
MINUTES = int((NOW - FIRST).total_seconds() // 60)
ENTER = "SELECT agentapi.enter(jsonb_populate_record(NULL::agentapi.ledger, $1::text::jsonb))"
Entry = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """Two members and an administrator of an organisation, and what its ledger has of them."""

    ann: Principal
    abe: Principal
    chief: Principal
    persons: Mapping[UserId, str]
    entries: list[Entry]
    usage: Usage

    def expected(self, query: UsageQuery, *, of: Principal | None) -> dict[str, dict[str, Any]]:
        """Add up what the ledger has of a period, or of one person in it, by group and together."""
        found: dict[str, dict[str, Any]] = {}
        for entry in self.entries:
            at = datetime.fromisoformat(entry["at"])
            if not query.since <= at < (query.until or NOW) or (of and entry["person"] != self.persons[of.user_id]):
                continue
            for key in {"", KEYS[query.by](entry)}:
                sums = found.setdefault(key, dict.fromkeys(COUNTED, 0) | {"agents": set()})
                is_turn = entry["kind"] == "turn"
                sums["turns"] += is_turn
                sums["errors"] += is_turn and entry["outcome"] in {"failed", "interrupted"}
                sums["agents"].add(entry["agent"])
                sums["reported"] += entry["kind"] == "reported"
                for name in SUMMED:
                    sums[name] += entry.get(name) or 0
        return found


SUMMED = (
    *("unpriced", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_nanos", "latency_ms"),
    *("reported_input_tokens", "reported_output_tokens", "reported_nanos"),
)
COUNTED = (*SUMMED, "turns", "errors", "reported")
KEYS: Mapping[UsageGroup | None, Callable[[Entry], str]] = {
    None: lambda _: "",
    UsageGroup.AGENT: lambda entry: entry["agent"],
    UsageGroup.MODEL: lambda entry: entry["model_used"] or entry["model"] or "",
    UsageGroup.PROVIDER: lambda entry: entry["provider"] or "",
    UsageGroup.DAY: lambda entry: entry["at"][:10],
    UsageGroup.SESSION: lambda entry: entry["session_id"],
    UsageGroup.MEMBER: lambda entry: entry["person"],
}


def told(sums: UsageSums) -> dict[str, Any]:
    """Return sums as `expected` has them."""
    return {
        "turns": sums.turns,
        "errors": sums.errors,
        "unpriced": sums.unpriced,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "cached_tokens": sums.cached_tokens,
        "reasoning_tokens": sums.reasoning_tokens,
        "cost_nanos": sums.cost_nanos,
        "latency_ms": int(sums.busy / timedelta(milliseconds=1)),
        "reported": sums.reported.interactions,
        "reported_input_tokens": sums.reported.input_tokens,
        "reported_output_tokens": sums.reported.output_tokens,
        "reported_nanos": sums.reported.cost_nanos,
        "agents": sums.agents,
    }


def entry(at: datetime, org: OrgId, person: str, **more: Any) -> Entry:  # noqa: ANN401  # columns
    """Make an entry of the ledger."""
    usual: Entry = {
        "id": str(new_id()),
        "at": at.isoformat(),
        "recorded_at": at.isoformat(),
        "kind": "turn",
        "org_id": str(org),
        "person": person,
        "session_id": str(new_id()),
        "turn_id": str(new_id()),
        "attempt": 1,
        "agent": "droid",
        "backend": "droid",
        "model": "m",
        "model_used": None,
        "provider": "openai",
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": None,
        "reasoning_tokens": 1,
        "cost_nanos": 77_500,
        "unpriced": 0,
        "billing_may_go_on": False,
        "latency_ms": 1500,
        "outcome": "completed",
    }
    return usual | more


def elsewhere(made: Entry) -> Entry:
    """Make of an entry one of what a user says of a conversation elsewhere."""
    nothing = dict.fromkeys(("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "latency_ms"))
    said = {"reported_input_tokens": 7, "reported_output_tokens": None, "reported_nanos": 10**15}
    billed = {"kind": "reported", "cost_nanos": 0, "unpriced": 0, "outcome": "completed"}
    return made | nothing | billed | said | {"id": str(new_id())}


def some(random: Random, org: OrgId, persons: list[str]) -> list[Entry]:
    """Make entries of four days and a half: turns, corrections and what is reported, some at the very end of a day."""
    found: list[Entry] = []
    for number in range(120):
        at = FIRST + timedelta(minutes=random.randrange(MINUTES), microseconds=random.randrange(1_000_000))
        if number % 12 == 0:
            at = at.replace(hour=23 * (number % 24 == 0), minute=0, second=0, microsecond=0)
        unknown = number % 7 == 0
        made = entry(
            at,
            org,
            random.choice(persons),
            agent=random.choice(["droid", "guide", "ccrouter"]),
            model=random.choice(["m", None]),
            model_used=random.choice(["m-2", None]),
            provider=random.choice(["openai", None]),
            cost_nanos=None if unknown else random.randrange(10**12),
            unpriced=int(unknown),
            latency_ms=random.choice([None, 50, 900, 40_000, 10_000_000]),
            outcome=random.choice(["completed", "failed", "interrupted", "cancelled"]),
        )
        found.append(made)
        if unknown:
            found.append(made | {"id": str(new_id()), "kind": "correction", "cost_nanos": 3, "unpriced": -1})
            found[-1]["latency_ms"] = None
        if number % 5 == 0:
            found.append(elsewhere(made))
            found.append(elsewhere(made | {"agent": "of another program", "provider": "elsewhere"}))
    return found


async def enter(urls: DatabaseUrls, *entries: Entry, wait: str = "30s") -> None:
    """Write entries as the triggers do, which have their owner's rights."""
    owner = await asyncpg.connect(urls.owner, server_settings={"lock_timeout": wait})
    try:
        for each in entries:
            await owner.execute(ENTER, json.dumps(each))
    finally:
        await owner.close()


@pytest.fixture
async def scene(database: Database, database_urls: DatabaseUrls) -> Scene:
    """Fill the ledger."""
    one, two = OrgId(new_id()), OrgId(new_id())
    ann, abe, chief = (UserId(new_id()) for _ in range(3))
    owner = await asyncpg.connect(database_urls.owner)
    try:
        for org in (one, two):
            await owner.execute("INSERT INTO public.organizations (id, name) VALUES ($1, 'o')", org)
        for user, role in ((ann, "member"), (abe, "member"), (chief, "admin")):
            await owner.execute("INSERT INTO public.profiles (id, email) VALUES ($1, $2)", user, f"{role}@x.test")
            for org in (one, two):
                await owner.execute(
                    "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, $3)",
                    *(org, user, role),
                )
        persons = {user: str(await owner.fetchval("SELECT agentapi.person_of($1)", user)) for user in (ann, abe, chief)}
        entries = some(Random(18), one, [*persons.values()])  # noqa: S311  # the same each time
        others = [entry(FIRST, two, person, cost_nanos=10**15) for person in persons.values()]
    finally:
        await owner.close()
    await enter(database_urls, *entries, *others)
    return Scene(
        Principal(ann, one, Role.MEMBER),
        Principal(abe, one, Role.MEMBER),
        Principal(chief, one, Role.ADMIN),
        persons,
        entries,
        Usage(PostgresUsage(database), ManualClock(NOW)),
    )


def shown(report: UsageReport, scene: Scene) -> dict[str, dict[str, Any]]:
    """Return a report as `expected` has it; members by the persons that they are."""
    if report.by is None:
        return {"": told(report.total)}
    rows = {str(row.key): told(row.sums) for row in report.rows}
    if report.by is UsageGroup.MEMBER:
        rows = {scene.persons[UserId(UUID(key))]: sums for key, sums in rows.items()}
    return {**rows, "": told(report.total)} if "" not in rows else rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    begin=st.integers(0, MINUTES),
    length=st.integers(1, MINUTES + 3000),
    by=st.sampled_from([None, *UsageGroup]),
    whole=st.booleans(),
)
@example(begin=0, length=24 * 60, by=None, whole=True)
@example(begin=60, length=60, by=UsageGroup.AGENT, whole=True)
@example(begin=60, length=24 * 60, by=UsageGroup.DAY, whole=False)
@example(begin=60, length=48 * 60, by=UsageGroup.MEMBER, whole=True)
@example(begin=MINUTES - 24 * 60, length=MINUTES, by=UsageGroup.MEMBER, whole=True)
async def test_a_period_is_the_sum_of_its_entries_wherever_it_begins_and_ends(
    scene: Scene,
    begin: int,
    length: int,
    by: UsageGroup | None,
    whole: bool,  # noqa: FBT001  # by hypothesis
) -> None:
    since = FIRST + timedelta(minutes=begin)
    query = UsageQuery(since=since, until=since + timedelta(minutes=length), by=by, whole=whole, limit=1000)
    whole = whole or by is UsageGroup.MEMBER
    report = await scene.usage.report(scene.chief, query)
    expected = scene.expected(query, of=None if whole else scene.chief)
    empty = {"": dict.fromkeys(told(UsageSums()), 0)}
    wanted = {key: sums | {"agents": len(sums["agents"])} for key, sums in expected.items()} or empty
    if by in {UsageGroup.MODEL, UsageGroup.PROVIDER}:
        # There the group without a name has none, as all of it together has none here.
        assert told(report.total)["cost_nanos"] == sum(row.sums.cost_nanos for row in report.rows)
        assert {row.key: row.sums.turns for row in report.rows if row.key} == {
            key: sums["turns"] for key, sums in wanted.items() if key
        }
    else:
        assert shown(report, scene) == wanted
    assert report.left_out == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(cuts=st.lists(st.integers(1, MINUTES - 1), min_size=1, max_size=3), whole=st.booleans())
@example(cuts=[24 * 60], whole=True)
@example(cuts=[24 * 60 + 30, 48 * 60], whole=False)
async def test_the_parts_of_a_period_are_together_the_whole(scene: Scene, cuts: list[int], whole: bool) -> None:  # noqa: FBT001  # by hypothesis
    bounds = [FIRST, *(FIRST + timedelta(minutes=cut) for cut in sorted(set(cuts))), NOW]
    for by in (None, UsageGroup.AGENT, UsageGroup.MEMBER):

        async def sums(since: datetime, until: datetime | None, by: UsageGroup | None = by) -> Counter[tuple[str, str]]:
            query = UsageQuery(since=since, until=until, by=by, whole=whole, limit=1000)
            found = shown(await scene.usage.report(scene.chief, query), scene)
            return Counter(
                {(key, name): told[name] for key, told in found.items() for name in told if name != "agents"}
            )

        parts = [await sums(since, until) for since, until in pairwise(bounds)]
        assert sum(parts, Counter[tuple[str, str]]()) == +(await sums(FIRST, None))


async def test_what_is_reported_is_told_apart_from_what_was_billed(scene: Scene) -> None:
    total = (await scene.usage.report(scene.chief, UsageQuery(since=FIRST, whole=True))).total
    billed = [each for each in scene.entries if each["kind"] != "reported"]
    assert total.cost_nanos == sum(each["cost_nanos"] or 0 for each in billed)
    assert total.turns == sum(each["kind"] == "turn" for each in billed)
    assert (total.reported.interactions, total.reported.cost_usd) == (48, 48 * 10**6)
    words, fields = sums_words(total), sums_fields(total)
    assert "elsewhere 48 conversations, $48,000,000.00 by what users say" in words
    assert fields["reported"] == {
        "interactions": 48,
        "input_tokens": 48 * 7,
        "output_tokens": 0,
        "cost_usd": 48_000_000.0,
    }
    assert sums_fields(UsageSums())["reported"] is None


async def test_nobody_reads_more_than_their_right(scene: Scene) -> None:
    query = UsageQuery(since=FIRST)
    own = await scene.usage.report(scene.ann, query)
    assert told(own.total)["turns"] == scene.expected(query, of=scene.ann)[""]["turns"]
    for asked in (replace(query, whole=True), replace(query, by=UsageGroup.MEMBER)):
        with pytest.raises(PermissionDeniedError):
            await scene.usage.report(scene.ann, asked)
    # The store gives nothing to who passed the first check by a mistake.
    liar = replace(scene.ann, org_id=OrgId(new_id()), role=Role.OWNER)
    for asked in (query, replace(query, whole=True), replace(query, by=UsageGroup.MEMBER)):
        report = await scene.usage.report(liar, asked)
        assert (report.total.turns, report.rows) == (0, ())
    blind = replace(scene.ann, exceptions=Exceptions(denied=frozenset({Action.READ_SESSIONS})))
    assert await scene.usage.of_agents(blind) == {}


async def test_a_member_is_named_and_one_who_is_gone_is_somebody(scene: Scene, database: Database) -> None:
    query = UsageQuery(since=FIRST, by=UsageGroup.MEMBER)
    async with database.as_system("test") as connection:
        await connection.execute("DELETE FROM agentapi.people WHERE user_id = $1", scene.ann.user_id)
        await connection.execute(
            "DELETE FROM public.organization_members WHERE user_id = $1 AND organization_id = $2",
            scene.abe.user_id,
            scene.abe.org_id,
        )
    rows = {row.key: row.label for row in (await scene.usage.report(scene.chief, query)).rows}
    assert rows == {
        None: None,
        str(scene.abe.user_id): None,
        str(scene.chief.user_id): "admin@x.test",
    }


async def test_nobody_finds_a_person_of_another_organisation(scene: Scene, database: Database) -> None:
    elsewhere = replace(scene.chief, org_id=OrgId(new_id()))
    for principal, count in ((scene.chief, 3), (scene.ann, 0), (elsewhere, 0)):
        async with database.as_principal(principal) as connection:
            found = await connection.fetch(
                "SELECT person FROM agentapi.people_of_usage_1($1::uuid[])", list(scene.persons.values())
            )
        assert len(found) == count


async def test_a_session_has_its_title_for_its_owner_alone(
    scene: Scene, database: Database, database_urls: DatabaseUrls
) -> None:
    session = SessionId(new_id())
    person = scene.persons[scene.ann.user_id]
    async with database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO public.chat_sessions (id, user_id, org_id, title) VALUES ($1, $2, $3, 'secret')",
            *(session, scene.ann.user_id, scene.ann.org_id),
        )
    await enter(database_urls, entry(NOW, scene.ann.org_id, person, session_id=str(session), cost_nanos=10**13))
    query = UsageQuery(since=FIRST, by=UsageGroup.SESSION, limit=1)
    [own] = (await scene.usage.report(scene.ann, query)).rows
    assert (own.key, own.label, own.sums.cost_usd) == (str(session), "secret", Decimal(10_000))
    report = await scene.usage.report(scene.chief, replace(query, whole=True))
    assert [(row.key, row.label) for row in report.rows] == [(str(session), None)]
    assert report.left_out == len({each["session_id"] for each in scene.entries})
    assert report.total.turns == 1 + sum(each["kind"] == "turn" for each in scene.entries)


async def test_the_days_that_are_left_out_are_the_oldest(scene: Scene) -> None:
    query = UsageQuery(since=FIRST, by=UsageGroup.DAY, whole=True, limit=2)
    report = await scene.usage.report(scene.chief, query)
    assert [row.key for row in report.rows] == ["2026-11-29", "2026-11-30"]
    assert report.left_out == 3


@pytest.mark.parametrize("since", [FIRST, FIRST + timedelta(hours=1)])
async def test_a_day_is_called_the_same_whatever_the_database_calls_it(
    scene: Scene, database_urls: DatabaseUrls, since: datetime
) -> None:
    span = split(since, NOW - timedelta(hours=1), NOW)
    sql, arguments = statement_of(scene.chief.org_id, span, UsageGroup.DAY, whole=True, limit=3)
    odd = {"datestyle": "German, DMY", "timezone": "Pacific/Kiritimati"}
    owner = await asyncpg.connect(database_urls.owner, server_settings=odd)
    try:
        [_, *rows] = await owner.fetch(sql, *arguments)
    finally:
        await owner.close()
    assert [row["key"] for row in rows] == ["2026-11-30", "2026-11-29", "2026-11-28"]


# --- the sums of organisations and of persons


# What the table has for each of its keys, and what it must have by the sums of everybody.
_ROLLED: LiteralString = """
WITH rolled AS (
    SELECT {keys}, sum(turns), sum(errors), sum(unpriced), sum(input_tokens), sum(output_tokens), sum(cached_tokens),
           sum(reasoning_tokens), sum(cost_nanos), sum(latency_ms), sum(latencies), sum(reported),
           sum(reported_input_tokens), sum(reported_output_tokens), sum(reported_nanos), max(last_at)
      FROM agentapi.{table} GROUP BY {keys}
), days AS (
    SELECT {keys}, sum(turns), sum(errors), sum(unpriced), sum(input_tokens), sum(output_tokens), sum(cached_tokens),
           sum(reasoning_tokens), sum(cost_nanos), sum(latency_ms), sum(latencies), sum(reported),
           sum(reported_input_tokens), sum(reported_output_tokens), sum(reported_nanos), max(last_at)
      FROM agentapi.usage_daily GROUP BY {keys}
)
SELECT (SELECT count(*) FROM rolled) AS there, (SELECT count(*) FROM (TABLE rolled EXCEPT TABLE days) AS r)
       + (SELECT count(*) FROM (TABLE days EXCEPT TABLE rolled) AS d) AS wrong
"""
ROLLED: Mapping[str, LiteralString] = {
    "usage_daily_of_organizations": _ROLLED.replace("{table}", "usage_daily_of_organizations").replace(
        "{keys}", "org_id, day, agent, model, provider, interaction_type"
    ),
    "usage_daily_of_persons": _ROLLED.replace("{table}", "usage_daily_of_persons").replace(
        "{keys}", "org_id, day, person"
    ),
}
AGENTS = "usage_agents_of_persons"
ALL_ROLLED: Mapping[str, LiteralString] = {
    **ROLLED,
    AGENTS: """
WITH rolled AS (SELECT org_id, person, agent, max(last_day) FROM agentapi.usage_agents_of_persons GROUP BY 1, 2, 3),
     days AS (SELECT org_id, person, agent, max(day) FROM agentapi.usage_daily GROUP BY 1, 2, 3)
SELECT (SELECT count(*) FROM rolled) AS there, (SELECT count(*) FROM (TABLE rolled EXCEPT TABLE days) AS r)
       + (SELECT count(*) FROM (TABLE days EXCEPT TABLE rolled) AS d) AS wrong
""",
}


async def test_what_reads_many_rows_is_planned_for_its_arguments(scene: Scene, database_urls: DatabaseUrls) -> None:
    async with open_database(RemoteServer(database_urls.app), PoolOptions(max_size=1)) as database:
        usage = Usage(PostgresUsage(database), ManualClock(NOW))
        for _ in range(8):  # after five, Postgres may take a plan for all arguments
            await usage.report(scene.chief, UsageQuery(since=FIRST, by=UsageGroup.MEMBER, limit=10))
        async with database.as_principal(scene.chief) as connection:
            plans = await connection.fetch(
                "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE $1",
                "%usage_agents_of_persons%",
            )
    assert [tuple(row.values()) for row in plans] == [(0, 8)]


@pytest.mark.parametrize("table", ROLLED)
async def test_sums_of_organisations_and_persons_are_those_of_the_days(
    scene: Scene, database_urls: DatabaseUrls, table: str
) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        rows = f"SELECT count(*) FROM agentapi.{table} WHERE org_id = $1"  # noqa: S608  # a name of the tests
        before = await owner.fetchval(rows, scene.ann.org_id)
        again = [{**each, "id": str(new_id()), "latency_ms": 7} for each in scene.entries[:20]]
        # Turns that end while others hold these rows: they wait for none.
        async with owner.transaction():
            await owner.execute(f"SELECT FROM agentapi.{table} FOR UPDATE")
            await enter(database_urls, *again, wait="1s")
        assert await owner.fetchval(rows, scene.ann.org_id) > before
        found = await owner.fetchrow(ROLLED[table])
        assert found is not None
        assert found["there"] > 10
        assert found["wrong"] == 0
        # And those rows are added to again, and none of them is made twice by one transaction.
        before = await owner.fetchval(rows, scene.ann.org_id)
        await enter(database_urls, *({**each, "id": str(new_id())} for each in again))
        assert await owner.fetchval(rows, scene.ann.org_id) == before
    finally:
        await owner.close()


async def test_the_last_day_of_an_agent_is_written_without_a_wait(scene: Scene, database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        async with owner.transaction():
            await owner.execute(f"SELECT FROM agentapi.{AGENTS} FOR UPDATE")
            later = (datetime.fromisoformat(each["at"]) + timedelta(days=1) for each in scene.entries)
            moved = zip(scene.entries, later, strict=True)
            await enter(
                database_urls, *({**each, "id": str(new_id()), "at": at.isoformat()} for each, at in moved), wait="1s"
            )
        found = await owner.fetchrow(ALL_ROLLED[AGENTS])
        assert found is not None
        assert found["there"] > 5
        assert found["wrong"] == 0
    finally:
        await owner.close()


async def test_the_sums_of_before_are_rolled_up_once(template: Template) -> None:
    files = migrations()
    before = next(number for number, file in enumerate(files) if file.id == "0022_usage")
    async with created(template.admin, "OWNER agentapi_owner") as name:
        url = template.owner.replace(f"/{template.name}?", f"/{name}?")
        await migrate(url, program="0.1.0", files=files[:before])
        owner = await asyncpg.connect(url)
        try:
            for each in some(Random(2), OrgId(new_id()), [str(new_id()) for _ in range(3)]):  # noqa: S311  # the same each time
                await owner.execute(ENTER, json.dumps(each))
            await migrate(url, program="0.1.0")
            for statement in ALL_ROLLED.values():
                found = await owner.fetchrow(statement)
                assert found is not None
                assert found["there"] > 10
                assert found["wrong"] == 0
        finally:
            await owner.close()


async def test_latency_is_exact_to_a_bucket(scene: Scene, database_urls: DatabaseUrls) -> None:
    org, person = scene.ann.org_id, scene.persons[scene.ann.user_id]
    times = [1500] * 90 + [30_000] * 10
    await enter(database_urls, *(entry(NOW, org, person, agent="timed", latency_ms=each) for each in times))
    for since in (NOW - timedelta(hours=1), FIRST):  # from the ledger, and from the days
        query = UsageQuery(since=since, by=UsageGroup.AGENT)
        sums = {row.key: row.sums for row in (await scene.usage.report(scene.ann, query)).rows}["timed"]
        p50, p95 = sums.latency(0.5), sums.latency(0.95)
        assert p50 is not None
        assert p95 is not None
        assert timedelta(milliseconds=1139) < p50 <= timedelta(milliseconds=1709)
        assert timedelta(milliseconds=29_192) < p95 <= timedelta(milliseconds=43_789)


async def test_agents_have_the_usage_that_the_caller_may_see(scene: Scene) -> None:
    own, all_ = await scene.usage.of_agents(scene.ann), await scene.usage.of_agents(scene.chief)
    query = UsageQuery(since=FIRST, by=UsageGroup.AGENT)
    for found, of in ((own, scene.ann), (all_, None)):
        expected = scene.expected(query, of=of)
        assert {name: sums.turns for name, sums in found.items()} == {
            name: sums["turns"] for name, sums in expected.items() if name
        }
