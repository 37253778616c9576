"""What other programs read and write under the names that they know: rows of their user, as the program has them."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.base.ids import SessionId, UserId, new_id
from agentapi_mcp.core.conversations.models import AcceptedTurn, Turn, TurnStatus
from agentapi_mcp.core.conversations.session_facts import NewInteraction, Rating, Report, SessionStatus, Tagging
from agentapi_mcp.core.identity.principals import Action, Principal, Role, refusal
from agentapi_mcp.core.keys.models import KeySource, PaidBy
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.facts import PostgresFacts
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.stores.postgres.test_ledger import OWNER, Scene, bill, make_scene
from tests.support.new_turns import new_turn
from tests.support.said import record_many

# The examples 2 and 4 of the seed, but for the agent's id.
RECORD = """
INSERT INTO ai_interactions (
  agent_id, title, interaction_type_id, input_tokens, output_tokens, 
  total_cost, external_link, user_id
) VALUES (
  '{agent}', 'Code Review Session', 'coding', 1500, 800,
  0.0425, 'https://claude.ai/chat/xyz', auth.uid()
);
"""  # noqa: W291  # verbatim
ANALYTICS: LiteralString = """
SELECT 
  date,
  total_interactions,
  total_cost,
  vendor_usage,
  feature_usage
FROM ai_usage_stats 
WHERE user_id = auth.uid() 
  AND date >= CURRENT_DATE - INTERVAL '30 days'
ORDER BY date DESC;
"""  # noqa: W291  # verbatim
INTERACTION = "SELECT * FROM ai_interactions WHERE id = $1"
LATEST = "SELECT * FROM recent_interactions WHERE user_id = auth.uid() LIMIT 10"
VIEWS = ("ai_interactions", "recent_interactions", "ai_usage_stats", "agent_metrics")
HOUR = datetime(2026, 11, 2, 10, tzinfo=UTC)
# Before Postgres 16, whoever is in a role may become it.
_MAY_BECOME: LiteralString = """
SELECT pg_has_role($1, CASE WHEN current_setting('server_version_num')::integer < 160000 THEN 'MEMBER' ELSE 'SET' END)
"""


@dataclass(frozen=True)
class Outsiders:
    """Clients of the database beside the program, such as PostgREST."""

    login: str

    @asynccontextmanager
    async def be(self, user: UserId | None, role: str = "authenticated") -> AsyncGenerator[Any]:
        """Be a client with a user's token of the project, until the end of a transaction."""
        connection = await asyncpg.connect(self.login)
        try:
            async with connection.transaction():
                if not await connection.fetchval(_MAY_BECOME, role):
                    await connection.execute(f"GRANT {role} TO CURRENT_USER")
                await connection.execute(f"SET LOCAL ROLE {role}")
                claims = json.dumps({"sub": user and str(user), "role": role})
                await connection.execute("SELECT set_config('request.jwt.claims', $1, true)", claims)
                yield connection
        finally:
            await connection.close()

    async def insert(self, user: UserId, **values: object) -> dict[str, Any]:
        """Record an interaction, and return what the database answers."""
        said = {"title": "elsewhere", **values}
        columns, places = ", ".join(said), ", ".join(f"${n}" for n in range(1, len(said) + 1))
        sql = f"INSERT INTO ai_interactions ({columns}) VALUES ({places}) RETURNING *"  # noqa: S608  # names of the tests
        async with self.be(user) as connection:
            return dict(await connection.fetchrow(sql, *said.values()))

    async def update(self, user: UserId, session: UUID, change: str) -> str:
        """Change an interaction."""
        async with self.be(user) as connection:
            return await connection.execute(f"UPDATE ai_interactions SET {change} WHERE id = $1", session)  # noqa: S608  # the tests' own

    async def read(self, user: UserId, sql: str, *values: object) -> list[dict[str, Any]]:
        """Read as a user."""
        async with self.be(user) as connection:
            return [dict(row) for row in await connection.fetch(sql, *values)]


async def begin(scene: Scene, who: Principal, paid: PaidBy | None = None, session: SessionId | None = None) -> Turn:
    """Begin a turn with the scene's agent, by its name."""
    new = new_turn(scene.agent, f"hello {new_id()}", session)
    named = replace(new, agent=f"l-{scene.agent}", lease_owner=OWNER, paid_by=paid or PaidBy())
    accepted = await PostgresTurns(scene.database).begin(who, named)
    assert isinstance(accepted, AcceptedTurn)
    return accepted.turn


@pytest.fixture
async def scene(database: Database) -> Scene:
    """Make two organisations."""
    return await make_scene(database)


@pytest.fixture
def out(database_urls: DatabaseUrls) -> Outsiders:
    """Return a way past the program."""
    return Outsiders(database_urls.owner)


async def test_the_examples_of_the_seed_run_as_a_member(scene: Scene, out: Outsiders) -> None:
    ann = scene.ann.user_id
    async with out.be(ann) as connection:
        await connection.execute(RECORD.format(agent=scene.agent))
        [day] = await connection.fetch(ANALYTICS)
    assert dict(day) == {
        "date": datetime.now(UTC).date(),
        "total_interactions": 1,
        "total_cost": Decimal("0.0425"),
        "vendor_usage": '{"unknown": 1}',
        "feature_usage": '{"coding": 1}',
    }
    # It is what record_interaction makes: reported, and no bill.
    [entry] = await scene.read("SELECT * FROM agentapi.ledger WHERE org_id = $1", scene.ann.org_id)
    said = {name: entry[name] for name in ("kind", "agent", "cost_nanos", "reported_nanos", "reported_input_tokens")}
    assert said == {
        "kind": "reported",
        "agent": f"l-{scene.agent}",
        "cost_nanos": 0,
        "reported_nanos": 42_500_000,
        "reported_input_tokens": 1500,
    }
    [row] = await out.read(ann, LATEST)
    assert (row["agent_name"], row["interaction_type_name"], row["status"]) == (entry["agent"], "Coding", "completed")
    await scene.check(scene.ann.org_id, with_turns=False)


async def test_a_session_is_an_interaction_with_its_true_bill(scene: Scene, out: Outsiders) -> None:
    ann, facts = scene.ann, PostgresFacts(scene.database)
    turn = await begin(scene, ann, PaidBy(KeySource.SERVER, "openai"))
    await scene.end(ann, turn, bill(77_500))
    unknown = await begin(scene, ann, PaidBy(KeySource.SERVER, "openrouter"), turn.session_id)
    await scene.end(ann, unknown, bill(None))
    await facts.tag(ann, turn.session_id, Tagging(add=("a",), interaction_type="writing"), 50)
    await facts.rate_session(ann, turn.session_id, Rating(rating=4, usefulness=5, note="good"), clear=False)
    [row] = await out.read(ann.user_id, LATEST)
    told = {
        "id": turn.session_id,
        "agent_id": scene.agent,
        "agent_name": f"l-{scene.agent}",
        "vendor_id": "openrouter",
        "vendor_name": "OpenRouter",
        "interaction_type_id": "writing",
        "interaction_type_name": "Writing",
        "input_tokens": 2000,
        "output_tokens": 400,
        "total_cost": Decimal("0.0000775"),
        "unpriced": 1,
        "tags": ["a"],
        "satisfaction_rating": 4,
        "usefulness_rating": 5,
        "feedback_notes": "good",
        "status": "active",
        "user_id": ann.user_id,
        "org_id": ann.org_id,
        "full_content": None,
        "content_preview": turn.message,
        "duration_minutes": 0,
    }
    assert {name: row[name] for name in told} == told


async def test_days_and_metrics_are_the_sums_of_the_turns(scene: Scene, out: Outsiders) -> None:
    ann, chief = scene.ann, scene.chief
    first = await begin(scene, ann, PaidBy(KeySource.SERVER, "openai"))
    await scene.end(ann, first, bill(1000))
    await scene.end(ann, await begin(scene, ann, session=first.session_id), bill(None))
    await scene.end(ann, await begin(scene, ann), bill(500), status=TurnStatus.FAILED)
    await scene.end(scene.abe, await begin(scene, scene.abe), bill(7))
    await out.insert(ann.user_id, total_cost=Decimal("0.5"), vendor_id="OpenAI", input_tokens=9)
    [day] = await out.read(ann.user_id, "SELECT * FROM ai_usage_stats")
    del day["id"]
    assert day == {
        "user_id": ann.user_id,
        "date": datetime.now(UTC).date(),
        "total_interactions": 3,
        "unique_agents_used": 2,
        "total_duration_minutes": 0,
        "feature_usage": '{"unspecified": 3}',
        "vendor_usage": '{"openai": 2, "unknown": 2}',
        "total_cost": Decimal("0.5000015"),
        "billed_cost": Decimal("0.0000015"),
        "reported_cost": Decimal("0.5"),
        "total_input_tokens": 3009,
        "total_output_tokens": 600,
        "avg_satisfaction": None,
        "avg_usefulness": None,
        "turns": 3,
        "unpriced": 1,
    }
    metrics = "SELECT metric_type, value, unit FROM agent_metrics WHERE agent_id = $1"
    [mine, all_] = [
        {row["metric_type"]: row["value"] for row in await out.read(who.user_id, metrics, scene.agent)}
        for who in (ann, chief)
    ]
    assert (mine["turns"], all_["turns"]) == (3, 4)
    assert mine["success_rate"] == Decimal("66.6667")
    assert (mine["cost"], all_["cost"]) == (Decimal("0.0000015"), Decimal("0.000001507"))
    assert (mine["response_time"], mine["input_tokens"]) == (1500, 3000)
    assert "satisfaction" not in mine
    summary = "SELECT * FROM get_agent_usage_summary($1, 30)"
    [[own], [whole], [nothing]] = [await out.read(who.user_id, summary, scene.agent) for who in (ann, chief, scene.bo)]
    assert (own["total_interactions"], own["total_turns"], own["total_cost"]) == (2, 3, Decimal("0.0000015"))
    assert (whole["total_interactions"], whole["total_turns"], whole["unpriced"]) == (3, 4, 1)
    assert (nothing["total_interactions"], nothing["total_turns"], nothing["total_cost"]) == (0, 0, 0)
    assert await out.read(ann.user_id, "SELECT * FROM get_agent_usage_summary($1)", new_id()) == []


async def test_a_cost_that_nobody_knows_is_no_zero(scene: Scene, out: Outsiders) -> None:
    ann = scene.ann
    await scene.end(ann, await begin(scene, ann), bill(None))
    [day] = await out.read(ann.user_id, "SELECT total_cost, unpriced FROM ai_usage_stats")
    assert day == {"total_cost": None, "unpriced": 1}
    [row] = await out.read(ann.user_id, LATEST)
    assert (row["total_cost"], row["unpriced"]) == (None, 1)
    kinds = await out.read(ann.user_id, "SELECT metric_type FROM agent_metrics")
    assert "cost" not in {row["metric_type"] for row in kinds}
    [summary] = await out.read(ann.user_id, "SELECT * FROM get_agent_usage_summary($1)", scene.agent)
    assert summary["total_cost"] is None


async def test_what_is_recorded_is_answered_and_read_by_the_program(scene: Scene, out: Outsiders) -> None:
    ann = scene.ann
    said: dict[str, object] = {
        "title": " A talk ",
        "description": "long",
        "interaction_type_id": " Coding",
        "external_id": "x-1",
        "external_metadata": '{"a": 1}',
        "content_preview": "so it went",
        "input_tokens": 10,
        "output_tokens": 20,
        "total_cost": Decimal("0.0000775"),
        "tags": ["B  b", "a", "b b"],
        "keywords": ["k"],
        "satisfaction_rating": 2,
        "usefulness_rating": 3,
        "feedback_notes": "well",
        "started_at": HOUR,
        "duration_minutes": 30,
        "vendor_id": "Anthropic",
        "model_name": "m-1",
    }
    row = await out.insert(ann.user_id, **said)
    kept = {"title": "A talk", "interaction_type_id": "coding", "tags": ["b b", "a"], "vendor_id": "anthropic"}
    kept |= {"status": "completed", "ended_at": HOUR.replace(minute=30), "user_id": ann.user_id, "org_id": ann.org_id}
    assert {name: row[name] for name in said | kept} == said | kept
    session = await PostgresSessions(scene.database).get(ann, SessionId(row["id"]))
    assert session.facts.status is SessionStatus.COMPLETED
    assert session.facts.rating == Rating(rating=2, usefulness=3, note="well")
    assert session.facts.report == Report(
        external_id="x-1",
        model="m-1",
        provider="anthropic",
        input_tokens=10,
        output_tokens=20,
        cost_usd=Decimal("0.0000775"),
        content_preview="so it went",
    )
    # Of the day on which it happened.
    [day] = await out.read(ann.user_id, "SELECT * FROM ai_usage_stats")
    assert (day["date"], day["avg_satisfaction"], day["avg_usefulness"]) == (HOUR.date(), 2, 3)
    # The program finds it by its id, and records it no second time.
    again = NewInteraction(title="A talk", report=Report(external_id="x-1"))
    assert await PostgresFacts(scene.database).record(ann, again) == (session, False)
    with pytest.raises(asyncpg.UniqueViolationError, match="recorded already"):
        await out.insert(ann.user_id, external_id="x-1")
    actions = await scene.read("SELECT action, via FROM agentapi.audit_events WHERE org_id = $1", ann.org_id)
    assert {"action": "interaction_recorded", "via": "sql"} in actions


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"title": None}, "title: "),
        ({"title": "two\nlines"}, "title: "),
        ({"title": "x" * 256}, "title: "),
        ({"total_cost": Decimal("NaN")}, "total_cost: "),
        ({"total_cost": Decimal("Infinity")}, "total_cost: "),
        ({"total_cost": Decimal("-0.01")}, "total_cost: "),
        ({"input_tokens": -1}, "input_tokens: "),
        ({"output_tokens": 10**13}, "output_tokens: "),
        ({"interaction_type_id": "dancing"}, "interaction_type_id: it must be one of conversation, coding"),
        ({"external_link": "javascript:alert(1)"}, "external_link: "),
        ({"external_link": "https://me:secret@host/x"}, "external_link: "),
        ({"external_id": " "}, "external_id: "),
        ({"external_metadata": "[1]"}, "external_metadata: "),
        ({"satisfaction_rating": 6}, "satisfaction_rating: "),
        ({"usefulness_rating": 0}, "usefulness_rating: "),
        ({"feedback_notes": "x" * 4001}, "feedback_notes: "),
        ({"description": "x" * 4001}, "description: "),
        ({"content_preview": "x" * 4001}, "content_preview: "),
        ({"full_content": "all of it"}, "full_content: it is not kept"),
        ({"tags": ["a,b"]}, "tags: "),
        ({"tags": [""]}, "tags: "),
        ({"keywords": ["x" * 51]}, "keywords: "),
        ({"tags": [f"t{n}" for n in range(51)]}, "tags: there are 51"),
        ({"status": "deleted"}, "status: "),
        ({"status": "open"}, "status: "),
        ({"vendor_id": "x" * 101}, "vendor_id: "),
        ({"model_name": ""}, "model_name: "),
        ({"ended_at": datetime(9000, 1, 1, tzinfo=UTC)}, "once it has happened"),
        ({"started_at": HOUR, "ended_at": HOUR.replace(hour=9)}, "ended_at: it is before"),
        ({"duration_minutes": -1}, "duration_minutes: "),
        ({"started_at": HOUR, "ended_at": HOUR.replace(hour=11), "duration_minutes": 5}, "duration_minutes: "),
        ({"unpriced": 1}, "unpriced"),
    ],
)
async def test_a_bad_value_is_refused_by_the_name_of_its_column(
    scene: Scene, out: Outsiders, values: dict[str, object], words: str
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        await out.insert(scene.ann.user_id, **values)
    assert words in str(refused.value)
    assert await scene.read("SELECT FROM public.chat_sessions WHERE org_id = $1", scene.ann.org_id) == []


async def test_who_may_not_chat_records_nothing(scene: Scene, out: Outsiders) -> None:
    ann, other = scene.ann, scene.bo
    tries: list[tuple[UserId, dict[str, object]]] = [
        (ann.user_id, {"user_id": scene.abe.user_id}),
        (ann.user_id, {"org_id": other.org_id}),
        (UserId(new_id()), {}),
    ]
    for user, values in tries:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await out.insert(user, **values)
    session = (await out.insert(ann.user_id))["id"]
    for change in (
        "role = 'viewer'",
        "role = 'guest'",
        """role = 'member', permissions = '{"agentapi": {"sessions:chat": false, "sessions:edit": false}}'""",
    ):
        async with scene.database.as_system("test") as connection:
            sql = f"UPDATE public.organization_members SET {change} WHERE user_id = $1"  # noqa: S608  # the test's own
            await connection.execute(sql, ann.user_id)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no viewer"):
            await out.insert(ann.user_id)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no viewer"):
            await out.update(ann.user_id, session, "title = 'taken'")
    async with scene.database.as_system("test") as connection:
        await connection.execute(
            "UPDATE public.organization_members SET role = 'viewer', "
            """permissions = '{"agentapi": {"sessions:chat": true}}' WHERE user_id = $1""",
            ann.user_id,
        )
    assert (await out.insert(ann.user_id))["org_id"] == ann.org_id
    async with scene.database.as_system("test") as connection:
        await connection.execute("UPDATE public.profiles SET status = 'suspended' WHERE id = $1", ann.user_id)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="active member"):
        await out.insert(ann.user_id)


@pytest.mark.parametrize("role", Role)
async def test_who_may_chat_by_the_table_of_rights_may_record(scene: Scene, out: Outsiders, role: Role) -> None:
    async with scene.database.as_system("test") as connection:
        await connection.execute(
            "UPDATE public.organization_members SET role = $2 WHERE user_id = $1", scene.ann.user_id, role
        )
    session = await _own_session(scene)

    async def record() -> object:
        return await out.insert(scene.ann.user_id)

    async def tag() -> object:
        return await out.update(scene.ann.user_id, session, "tags = ARRAY['a']")

    for action, write in ((Action.CHAT, record), (Action.EDIT_SESSIONS, tag)):
        if refusal(replace(scene.ann, role=role), action) is None:
            await write()
        else:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no viewer"):
                await write()


async def _own_session(scene: Scene) -> UUID:
    made = "INSERT INTO public.chat_sessions (user_id, org_id) VALUES ($1, $2) RETURNING id"
    async with scene.database.as_system("test") as connection:
        return UUID(str(await connection.fetchval(made, scene.ann.user_id, scene.ann.org_id)))


async def test_of_several_organisations_one_must_be_said(scene: Scene, out: Outsiders) -> None:
    ann, other = scene.ann.user_id, scene.bo.org_id
    async with scene.database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO public.organization_members (organization_id, user_id) VALUES ($1, $2)", other, ann
        )
    with pytest.raises(asyncpg.InvalidParameterValueError, match="say which by org_id"):
        await out.insert(ann)
    assert (await out.insert(ann, org_id=other))["org_id"] == other
    async with scene.database.as_system("test") as connection:
        await connection.execute("UPDATE public.profiles SET current_organization_id = $1 WHERE id = $2", other, ann)
    assert (await out.insert(ann))["org_id"] == other
    assert len(await out.read(ann, "SELECT FROM ai_interactions")) == 2


async def test_shares_hold_and_say_so(scene: Scene, out: Outsiders, database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await record_many(owner, scene.ann.user_id, scene.ann.org_id, 10_000)
    finally:
        await owner.close()
    with pytest.raises(asyncpg.PostgresError, match="the user has 10000 of at most 10000 recorded interactions"):
        await out.insert(scene.ann.user_id)


async def test_what_users_say_of_an_interaction_is_changed(scene: Scene, out: Outsiders) -> None:
    ann = scene.ann
    turn = await begin(scene, ann)
    await scene.end(ann, turn, bill(5))
    changes = (
        "title = ' Renamed ', satisfaction_rating = 5, feedback_notes = 'fine', tags = ARRAY['Z'], "
        "status = 'archived', interaction_type_id = 'research', description = 'd', keywords = ARRAY['k'], "
        "updated_at = now()"
    )
    assert await out.update(ann.user_id, turn.session_id, changes) == "UPDATE 1"
    session = await PostgresSessions(scene.database).get(ann, turn.session_id)
    assert (session.title, session.facts.status, session.facts.tags) == ("Renamed", SessionStatus.ARCHIVED, ("z",))
    assert session.facts.rating == Rating(rating=5, note="fine")
    [day] = await out.read(ann.user_id, "SELECT avg_satisfaction FROM ai_usage_stats")
    assert day["avg_satisfaction"] == 5
    actions = await scene.read("SELECT action FROM agentapi.audit_events WHERE via = 'sql' AND org_id = $1", ann.org_id)
    assert {row["action"] for row in actions} == {"session_renamed", "session_archived", "rated", "session_tagged"}
    for change in ("total_cost = 1", "user_id = gen_random_uuid()", "id = gen_random_uuid()", "external_link = 'x'"):
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="what is recorded does not change"):
            await out.update(ann.user_id, turn.session_id, change)
    for change in ("satisfaction_rating = 9", "status = NULL", "status = 'deleted'", "title = ''", "tags = ARRAY[',']"):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await out.update(ann.user_id, turn.session_id, change)
    assert await PostgresSessions(scene.database).get(ann, turn.session_id) == session


async def test_an_interaction_is_deleted_as_its_session_and_its_bill_stays(scene: Scene, out: Outsiders) -> None:
    ann = scene.ann
    turn = await begin(scene, ann)
    delete = "DELETE FROM ai_interactions WHERE id = $1"
    async with out.be(ann.user_id) as connection:
        with pytest.raises(asyncpg.ObjectInUseError, match="wait for it"):
            async with connection.transaction():
                await connection.execute(delete, turn.session_id)
    await scene.end(ann, turn, bill(5))
    for other in (scene.abe, scene.chief, scene.bo):
        async with out.be(other.user_id) as connection:
            assert await connection.execute(delete, turn.session_id) == "DELETE 0"
    async with out.be(ann.user_id) as connection:
        assert await connection.execute(delete, turn.session_id) == "DELETE 1"
    assert await out.read(ann.user_id, INTERACTION, turn.session_id) == []
    [day] = await out.read(ann.user_id, "SELECT total_cost FROM ai_usage_stats")
    assert day["total_cost"] == Decimal("0.000000005")


async def test_nobody_reads_interactions_of_others(scene: Scene, out: Outsiders) -> None:
    ann = scene.ann
    turn = await begin(scene, ann)
    await scene.end(ann, turn, bill(5))
    for other in (scene.abe, scene.chief, scene.bo):
        for view in VIEWS:
            rows = await out.read(other.user_id, f"SELECT * FROM {view}")  # noqa: S608  # a name
            # An administrator reads how the agents did for all of the organisation, and of whom nothing.
            assert bool(rows) == (other is scene.chief and view == "agent_metrics"), (other, view)
            assert str(turn.session_id) not in repr(rows)
            assert str(ann.user_id) not in repr(rows)
    for view in VIEWS:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with out.be(None, "anon") as connection:
                await connection.fetch(f"SELECT FROM {view}")  # a name
    for call in ("update_daily_usage_stats()", f"get_agent_usage_summary('{scene.agent}')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with out.be(None, "anon") as connection:
                await connection.fetch(f"SELECT {call}")  # a name
    async with scene.database.as_system("test") as connection:
        await connection.execute("DELETE FROM public.organization_members WHERE user_id = $1", ann.user_id)
    for view in VIEWS:
        assert await out.read(ann.user_id, f"SELECT * FROM {view}") == [], view  # noqa: S608  # a name


async def test_sums_by_day_need_no_job(scene: Scene, out: Outsiders) -> None:
    await scene.end(scene.ann, await begin(scene, scene.ann), bill(5))
    before = await out.read(scene.ann.user_id, "SELECT * FROM ai_usage_stats")
    told = list[str]()

    def hear(_connection: object, message: Any) -> None:  # noqa: ANN401  # of the library
        told.append(str(message.message))

    for role in ("authenticated", "service_role"):
        async with out.be(scene.ann.user_id, role) as connection:
            connection.add_log_listener(hear)
            await connection.execute("SELECT update_daily_usage_stats(), update_daily_usage_stats(CURRENT_DATE)")
    assert len([words for words in told if "is up to date" in words]) == 4
    assert await out.read(scene.ann.user_id, "SELECT * FROM ai_usage_stats") == before


async def test_what_users_report_has_no_bound_together(
    scene: Scene, out: Outsiders, database_urls: DatabaseUrls
) -> None:
    said = "INSERT INTO ai_interactions (title, agent_id, total_cost, input_tokens) VALUES ('t', $1, 1000000, 1)"
    async with out.be(scene.ann.user_id) as connection:
        await connection.execute(said, scene.agent)
    owner = await asyncpg.connect(database_urls.owner)
    try:  # as ten thousand of them, for which a test has no time
        await owner.execute(
            "UPDATE agentapi.usage_daily SET turns = turns, reported_nanos = 9223372036854775807 WHERE org_id = $1",
            scene.ann.org_id,
        )
    finally:
        await owner.close()
    for who in (scene.ann, scene.abe):
        async with out.be(who.user_id) as connection:
            await connection.execute(said, scene.agent)
    [own] = await out.read(scene.ann.user_id, "SELECT total_cost FROM ai_usage_stats")
    [all_] = await out.read(scene.chief.user_id, "SELECT * FROM get_agent_usage_summary($1)", scene.agent)
    assert (own["total_cost"], all_["total_cost"]) == (
        *(Decimal("9224372036.854775807"), Decimal("9225372036.854775807")),
    )


@pytest.mark.parametrize("days", [0, -1, 3661, None])
async def test_a_summary_is_asked_for_some_days(scene: Scene, out: Outsiders, days: int | None) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="from 1 to 3660"):
        await out.read(scene.ann.user_id, "SELECT * FROM get_agent_usage_summary($1, $2)", scene.agent, days)


async def test_an_agent_that_was_never_measured_is_unknown(scene: Scene, out: Outsiders) -> None:
    status = "SELECT health_status FROM v_agent_status WHERE id = $1"
    assert await out.read(scene.ann.user_id, status, scene.agent) == [{"health_status": "unknown"}]
    measured: LiteralString = "UPDATE public.agent_health SET last_check = now() WHERE agent_id = $1"
    made: LiteralString = "INSERT INTO public.agent_health (agent_id) VALUES ($1)"
    steps: tuple[tuple[LiteralString, str], ...] = ((made, "unknown"), (measured, "healthy"))
    for change, said in steps:
        async with scene.database.as_system("test") as connection:
            await connection.execute(change, scene.agent)
        assert await out.read(scene.ann.user_id, status, scene.agent) == [{"health_status": said}]


async def test_a_member_who_begins_a_turn_is_active_noted_once_in_ten_minutes(
    scene: Scene, database_urls: DatabaseUrls
) -> None:
    ann = scene.ann
    read: LiteralString = (
        "SELECT last_active_at, updated_at, created_at FROM public.organization_members WHERE user_id = $1"
    )
    [before] = await scene.read(read, ann.user_id)
    assert before["last_active_at"] is None
    await begin(scene, ann)
    [first] = await scene.read(read, ann.user_id)
    assert first["last_active_at"] is not None
    await begin(scene, ann)
    assert await scene.read(read, ann.user_id) == [first]
    assert first["updated_at"] == before["updated_at"]  # being active changes no membership
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await owner.execute(
            "UPDATE public.organization_members SET last_active_at = now() - interval '11 minutes' WHERE user_id = $1",
            ann.user_id,
        )
        async with owner.transaction():
            await owner.execute("SELECT FROM public.organization_members WHERE user_id = $1 FOR UPDATE", ann.user_id)
            await begin(scene, ann)  # waits for nobody
        [held] = await scene.read(read, ann.user_id)
        assert held["last_active_at"] < first["last_active_at"]
        await begin(scene, ann)
        [later] = await scene.read(read, ann.user_id)
        assert later["last_active_at"] > first["last_active_at"]
    finally:
        await owner.close()
    [abe] = await scene.read(read, scene.abe.user_id)
    assert abe["last_active_at"] is None


async def test_what_is_said_of_a_session_is_said_by_the_view_alone(scene: Scene, out: Outsiders) -> None:
    ann = scene.ann
    turn = await begin(scene, ann)
    for recorded in ("true", "false"):
        say = (
            f"SELECT agentapi.say_of_interaction(i, {recorded}, ARRAY['session_deleted']) "  # noqa: S608  # a literal
            "FROM agentapi.ai_interactions i"
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await out.read(ann.user_id, say)
    assert await scene.read("SELECT FROM agentapi.audit_events WHERE target_id = $1", str(turn.session_id)) == []


async def test_policies_of_others_hold_for_what_the_view_writes(
    scene: Scene, out: Outsiders, database_urls: DatabaseUrls
) -> None:
    ann = scene.ann.user_id
    kept = (await out.insert(ann))["id"]
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await owner.execute(
            "CREATE POLICY none ON public.chat_sessions AS RESTRICTIVE FOR INSERT TO authenticated WITH CHECK (false);"
            "CREATE POLICY keep ON public.chat_sessions AS RESTRICTIVE FOR DELETE TO authenticated USING (false)"
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await out.insert(ann)
        async with out.be(ann) as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="a policy of chat_sessions keeps"):
                async with connection.transaction():
                    await connection.execute("DELETE FROM ai_interactions WHERE id = $1", kept)
    finally:
        await owner.execute("DROP POLICY none ON public.chat_sessions; DROP POLICY keep ON public.chat_sessions")
        await owner.close()
    assert len(await out.read(ann, INTERACTION, kept)) == 1


async def test_the_processes_hear_of_what_others_write(scene: Scene, out: Outsiders) -> None:
    ann = scene.ann
    session = (await out.insert(ann.user_id))["id"]
    told = await scene.read("SELECT signal FROM agentapi.signals WHERE signal LIKE $1", f"%{session}%")
    assert [json.loads(row["signal"]) for row in told] == [
        {
            "kind": "sessions_changed",
            "session_id": str(session),
            "user_id": str(ann.user_id),
            "org_id": str(ann.org_id),
        }
    ]


async def test_each_column_that_others_filter_by_has_an_index(database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        leading = await owner.fetch(
            "SELECT i.indrelid::regclass::text || '.' || a.attname AS name FROM pg_index i JOIN pg_attribute a "
            "ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] WHERE i.indrelid::regclass::text = ANY($1)",
            ["agents", "models", "chat_sessions", "chat_messages", "agent_health"],
        )
    finally:
        await owner.close()
    assert {row["name"] for row in leading} >= {
        *("agents.enabled", "agents.type", "models.enabled", "models.provider", "chat_messages.role"),
        *("agent_health.status", "chat_sessions.agent_id", "chat_sessions.model_id", "chat_sessions.user_id"),
    }
