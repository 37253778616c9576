"""The net below the checks: what the database refuses, to an outside client and to a program that forgot to ask."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from inspect import getmembers, isfunction, signature
from typing import LiteralString
from uuid import UUID, uuid4

import asyncpg
import pytest

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.ids import AgentId, OrgId, TaskId, TurnId, UserId, new_id
from agentapi_mcp.core.budgets.models import Expense
from agentapi_mcp.core.conversations.models import AcceptedTurn, Defaults, NewTask, Sent, Turn, TurnMark, TurnStatus
from agentapi_mcp.core.conversations.ports import FactStore, SessionStore, TaskStore, TurnStore
from agentapi_mcp.core.conversations.session_facts import (
    NOT_ARCHIVED,
    NewInteraction,
    Rating,
    Report,
    SessionFilter,
    Tagging,
)
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope
from agentapi_mcp.core.keys.models import PaidBy
from agentapi_mcp.core.usage.models import UsageGroup
from agentapi_mcp.core.usage.ports import UsageStore
from agentapi_mcp.core.usage.usage import split
from agentapi_mcp.stores.postgres.database import Connection, Database
from agentapi_mcp.stores.postgres.facts import PostgresFacts
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.tasks import PostgresTasks
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from agentapi_mcp.stores.postgres.usage import PostgresUsage
from tests.conftest import DatabaseUrls
from tests.support.new_turns import ending, new_turn

# What anybody who is signed in may read, whoever they are: it is nobody's.
PUBLIC = {f"agentapi.{name}" for name in ("agent_names", "model_names", "providers", "terms")} | {
    f"public.{name}" for name in ("agents", "models", "agent_health", "v_agent_status")
}
_ACCOUNT: LiteralString = """
INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, oauth_data, expires_at)
VALUES ($1::uuid, 'oauth/' || $1::uuid, jsonb_build_object('kind', $2::text),
        jsonb_build_object('vendor', jsonb_build_object('sealed', $2::text)), '9999-12-31')
"""
_LINK: LiteralString = """
INSERT INTO agentapi.key_requests (token_sha256, user_id, org_id, issuer, provider, expires_at, purpose)
VALUES (sha256($1), $2, $3, 'https://issuer.example', $4, now() + interval '1 hour', 'account')
"""


@dataclass(frozen=True)
class Scene:
    """Ann, what she has, and who stands behind which border."""

    ann: Principal
    running: Turn
    done: Turn
    owner: UUID
    agent_id: AgentId
    task_id: TaskId
    known: Defaults
    canary: str
    attackers: dict[str, Principal]


@pytest.fixture
async def scene(database: Database) -> AsyncGenerator[Scene]:
    """Make two organisations, and let Ann talk in the first."""
    one, two, canary, owner = OrgId(new_id()), OrgId(new_id()), f"c{uuid4().hex}", new_id()
    ann, abe, vic, bo, gone = (UserId(new_id()) for _ in range(5))
    agent_id = AgentId(new_id())
    members = [(one, ann), (one, abe), (one, vic), (two, bo), (two, ann)]
    async with database.as_system("test") as connection:
        for org_id in (one, two):
            await connection.execute("INSERT INTO public.organizations (id, name) VALUES ($1, 'o')", org_id)
        for user_id in (ann, abe, vic, bo, gone):
            await connection.execute("INSERT INTO public.profiles (id) VALUES ($1)", user_id)
        for org_id, user_id in members:
            await connection.execute(
                "INSERT INTO public.organization_members (organization_id, user_id) VALUES ($1, $2)", org_id, user_id
            )
        await connection.execute(
            "INSERT INTO public.agents (id, name, type) VALUES ($1, $2, 'guide')", agent_id, f"net-{agent_id}"
        )
        await connection.execute(_ACCOUNT, ann, canary)
        await connection.execute(_LINK, canary.encode(), ann, one, canary)
    turns, principal = PostgresTurns(database), Principal(ann, one, Role.MEMBER)
    ended, running = new_turn(agent_id, f"{canary} one", key=canary), new_turn(agent_id, f"{canary} two")
    accepted = [await turns.begin(principal, replace(new, lease_owner=owner)) for new in (ended, running)]
    assert isinstance(accepted[0], AcceptedTurn)
    assert isinstance(accepted[1], AcceptedTurn)
    over = replace(accepted[0].turn, status=TurnStatus.COMPLETED, reply=f"{canary} answer")
    done = await turns.finish(principal, over, ending(owner, handle=canary))
    assert done is not None
    await say(PostgresFacts(database), principal, done, canary)
    await PostgresTasks(database).create(principal, new_task(accepted[1].turn.id, task_id := TaskId(f"{uuid4()}")))
    yield Scene(
        ann=principal,
        running=accepted[1].turn,
        done=done,
        owner=owner,
        agent_id=agent_id,
        task_id=task_id,
        known=await PostgresSessions(database).defaults(principal, done.session_id),
        canary=canary,
        attackers={
            "her colleague, an owner": Principal(abe, one, Role.OWNER),
            "a viewer": Principal(vic, one, Role.VIEWER),
            "another organisation's": Principal(bo, two, Role.OWNER),
            "herself elsewhere": Principal(ann, two, Role.OWNER),
            "one who says to be in hers": Principal(bo, one, Role.OWNER),
            "one who was never in": Principal(gone, one, Role.OWNER),
        },
    )
    async with database.as_system("test") as connection:
        await connection.execute("DELETE FROM public.organizations WHERE id = ANY($1::uuid[])", [one, two])
        await connection.execute("DELETE FROM public.profiles WHERE id = ANY($1::uuid[])", [ann, abe, vic, bo, gone])
        await connection.execute("DELETE FROM public.agents WHERE id = $1", agent_id)


async def say(facts: PostgresFacts, who: Principal, turn: Turn, words: str) -> None:
    """Say whatever can be said, in these words."""
    await facts.tag(who, turn.session_id, Tagging(add=(words,)), 50)
    await facts.rate_session(who, turn.session_id, Rating(note=words), clear=False)
    await facts.rate_turn(who, turn.id, Rating(note=words), clear=False)
    await facts.record(who, recorded("known", title=words))


def recorded(external_id: str, title: str = "mine") -> NewInteraction:
    """Make a conversation elsewhere."""
    return NewInteraction(title=title, report=Report(external_id=external_id))


def new_task(turn_id: TurnId, task_id: TaskId) -> NewTask:
    """Make a call that waits for a turn."""
    sent = Sent(has_key=False, in_session=False)
    return NewTask(id=task_id, turn_id=turn_id, joined=False, sent=sent, lifetime=timedelta(hours=1))


Attempt = Callable[[Principal], Awaitable[object]]


def attempts(scene: Scene, database: Database) -> dict[str, Attempt]:
    """List what a store does for a principal, tried on what is Ann's, as if no check stood before it."""
    turns, sessions, tasks = PostgresTurns(database), PostgresSessions(database), PostgresTasks(database)
    session_id, turn_id, facts = scene.done.session_id, scene.running.id, PostgresFacts(database)
    usage, now = PostgresUsage(database), datetime.now(UTC)
    span = split(now - timedelta(days=1), now, now)
    return {
        "FactStore.rate_session": lambda who: facts.rate_session(who, session_id, Rating(note="forged"), clear=False),
        "FactStore.rate_turn": lambda who: facts.rate_turn(who, scene.done.id, Rating(note="forged"), clear=False),
        "FactStore.tag": lambda who: facts.tag(who, session_id, Tagging(add=("forged",)), 50),
        "FactStore.archive": lambda who: facts.archive(who, session_id, archived=True),
        "FactStore.record": lambda who: facts.record(who, recorded("known")),
        "FactStore.interaction_types": facts.interaction_types,
        "SessionStore.get": lambda who: sessions.get(who, session_id),
        "SessionStore.defaults": lambda who: sessions.defaults(who, session_id),
        "SessionStore.list_, by tag": lambda who: sessions.list_(
            who, SessionFilter(tag=scene.canary, archived=True), cursor=None, limit=200
        ),
        "SessionStore.last_model": lambda who: sessions.last_model(who, session_id),
        "SessionStore.list_": lambda who: sessions.list_(who, NOT_ARCHIVED, cursor=None, limit=200),
        "SessionStore.messages": lambda who: sessions.messages(who, session_id, cursor=None, limit=50, max_bytes=9999),
        "SessionStore.history": lambda who: sessions.history(who, session_id, turn_id, 9999),
        "SessionStore.sizes": lambda who: sessions.sizes(who, [session_id]),
        "SessionStore.rename": lambda who: sessions.rename(who, session_id, "taken"),
        "SessionStore.delete": lambda who: sessions.delete(who, session_id),
        "TaskStore.create": lambda who: tasks.create(who, new_task(turn_id, TaskId(f"{uuid4()}"))),
        "TaskStore.find": lambda who: tasks.find(who, [scene.task_id]),
        "TaskStore.conclude": lambda who: tasks.conclude(who, scene.task_id, "forged"),
        "TurnStore.begin": lambda who: turns.begin(who, new_turn(scene.agent_id, "mine now", session_id)),
        "TurnStore.begin, by what is known of her session": lambda who: turns.begin(
            who, replace(new_turn(scene.agent_id, "mine now", session_id), defaults=scene.known)
        ),
        "TurnStore.estimate": lambda who: turns.estimate(who, session_id, "guide", PaidBy(), Expense()),
        "TurnStore.begin, anew by what is known of her session": lambda who: turns.begin(
            who, replace(new_turn(scene.agent_id, "mine now"), defaults=scene.known)
        ),
        "TurnStore.find": lambda who: turns.find(who, turn_id),
        "TurnStore.get": lambda who: turns.get(who, turn_id),
        "TurnStore.recent": lambda who: turns.recent(who, 100),
        "TurnStore.ids_like": lambda who: turns.ids_like(who, scene.running.id.hex[-8:], 10),
        "TurnStore.recent, open": lambda who: turns.recent(who, 100, only_open=True),
        "TurnStore.mark": lambda who: turns.mark(who, turn_id, TurnMark.CALLER_GONE),
        "TurnStore.request_cancel": lambda who: turns.request_cancel(who, turn_id),
        "TurnStore.save_partial": lambda who: turns.save_partial(who, scene.owner, turn_id, "forged"),
        "UsageStore.sums": lambda who: usage.sums(who, span, UsageGroup.SESSION, whole=False, limit=100),
        "UsageStore.sums, of all": lambda who: usage.sums(who, span, UsageGroup.SESSION, whole=True, limit=100),
        "TurnStore.finish": lambda who: turns.finish(who, replace(scene.running, reply="forged"), ending(scene.owner)),
    }


def for_principals() -> set[str]:
    """List what stores do for a principal."""
    return {
        f"{port.__name__}.{name}"
        for port in (FactStore, SessionStore, TaskStore, TurnStore, UsageStore)
        for name, method in getmembers(port, isfunction)
        if "principal" in signature(method).parameters
    }


async def test_no_store_gives_or_does_what_is_hers_although_nobody_checked(scene: Scene, database: Database) -> None:
    before = await hers(scene, database)
    tried = attempts(scene, database)
    assert {name.partition(",")[0] for name in tried} == for_principals()
    for attacker, principal in scene.attackers.items():
        for name, attempt in tried.items():
            try:
                said = repr(await attempt(principal))
            except AgentApiError as refused:
                said = str(refused)
            assert scene.canary not in said, (attacker, name)
    assert await hers(scene, database) == before


async def test_statements_that_forgot_whom_they_are_for_find_nothing_of_hers(scene: Scene, database: Database) -> None:
    before = await hers(scene, database)
    ids = [scene.running.id, scene.done.id, scene.done.session_id]
    for principal in scene.attackers.values():
        for open_connection in (database.as_principal, database.as_writer):
            async with open_connection(principal) as connection:
                assert (
                    await connection.fetch("SELECT id FROM public.chat_sessions WHERE id = ANY($1::uuid[])", ids) == []
                )
                assert await connection.fetch("SELECT id FROM agentapi.turns WHERE id = ANY($1::uuid[])", ids) == []
                assert (
                    await connection.fetch("SELECT id FROM agentapi.tasks WHERE turn_id = ANY($1::uuid[])", ids) == []
                )
                assert (
                    await connection.fetch("SELECT id FROM public.chat_messages WHERE session_id = ANY($1)", ids) == []
                )
    writes = (
        "UPDATE public.chat_sessions SET title = 'forged' WHERE id = $1",
        "DELETE FROM public.chat_sessions WHERE id = $1",
        "UPDATE agentapi.turns SET cancel_requested_at = now() WHERE session_id = $1",
        "INSERT INTO public.chat_messages (session_id, role, content) VALUES ($1, 'user', 'forged')",
        "UPDATE agentapi.tasks SET result = 'forged', concluded_at = now() WHERE $1::uuid IS NOT NULL",
        "DELETE FROM agentapi.tasks WHERE $1::uuid IS NOT NULL",
        "UPDATE agentapi.session_facts SET note = 'forged' WHERE session_id = $1",
        "UPDATE agentapi.turn_ratings SET note = 'forged' WHERE $1::uuid IS NOT NULL",
        "INSERT INTO agentapi.session_facts (session_id, user_id, org_id) VALUES ($1, auth.uid(), auth.uid())",
    )
    for principal in scene.attackers.values():
        for statement in writes:
            await refused_or_idle(database, principal, statement, scene.done.session_id)
    assert await hers(scene, database) == before


@pytest.mark.parametrize(
    "who",
    ["a viewer", "a token to read", "one who says to be in hers", "one who was never in"],
)
async def test_who_may_not_chat_begins_nothing_although_nobody_checked(
    who: str, scene: Scene, database: Database
) -> None:
    principal = (
        replace(scene.ann, scopes=frozenset({TokenScope.READ})) if who == "a token to read" else scene.attackers[who]
    )
    with pytest.raises(AgentApiError):
        await PostgresTurns(database).begin(principal, new_turn(scene.agent_id, "hello"))
    async with database.as_system("test") as connection:
        assert (
            await connection.fetchval(
                "SELECT count(*) FROM public.chat_sessions WHERE user_id = $1 AND title = 'hello'", principal.user_id
            )
            == 0
        )


async def test_a_token_that_may_do_neither_sees_nothing_of_its_owner(scene: Scene, database: Database) -> None:
    narrow = replace(scene.ann, scopes=frozenset({TokenScope.KEYS}))
    tables: tuple[LiteralString, ...] = (
        *("public.chat_sessions", "public.chat_messages", "agentapi.turns", "agentapi.tasks"),
        *("agentapi.session_facts", "agentapi.turn_ratings"),
    )
    for table in tables:
        async with database.as_principal(narrow) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608  # a table's name


@pytest.mark.parametrize("function", ["organization_limits", "organization_numbers"])
async def test_a_function_that_counts_everybodys_rows_answers_administrators_of_their_own_organisation_alone(
    function: LiteralString, scene: Scene, database: Database
) -> None:
    outside = ("a viewer", "one who says to be in hers", "one who was never in")
    admin = scene.attackers["her colleague, an owner"]
    refused = [
        scene.ann,
        replace(admin, scopes=frozenset({TokenScope.CHAT})),
        *(scene.attackers[who] for who in outside),
    ]
    # One of the two returns a row in any case, which is empty then.
    statement = (
        f"SELECT count(*) FROM agentapi.{function}() AS f "  # noqa: S608  # a function's name
        "WHERE jsonb_strip_nulls(to_jsonb(f)) <> '{}'"
    )
    for principal in refused:
        async with database.as_writer(principal) as connection:
            assert await connection.fetchval(statement) == 0, principal
    async with database.as_writer(admin) as connection:
        assert await connection.fetchval(statement) > 0
    async with database.as_principal(admin) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval(statement)


async def test_no_role_reaches_sealed_tokens_but_the_programs_and_the_back_ends(
    scene: Scene, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    before = await owner.fetchval(
        "SELECT oauth_data::text FROM public.mcp_sessions WHERE user_id = $1", scene.ann.user_id
    )
    outside_owner = await owner.fetch(
        "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_' AND NOT pg_has_role(oid, "
        "(SELECT relowner FROM pg_class WHERE oid = 'public.mcp_sessions'::regclass), 'MEMBER')"
    )
    reaching: dict[str, set[str]] = {}
    for role in (row["rolname"] for row in outside_owner):
        for statement in (
            f"SELECT oauth_data FROM public.mcp_sessions WHERE user_id = '{scene.ann.user_id}'",  # noqa: S608  # an id
            f"UPDATE public.mcp_sessions SET oauth_data = '{{}}' WHERE user_id = '{scene.ann.user_id}'",  # noqa: S608  # an id
            f"DELETE FROM public.mcp_sessions WHERE user_id = '{scene.ann.user_id}'",  # noqa: S608  # an id
        ):
            transaction = owner.transaction()
            await transaction.start()
            try:
                await owner.execute(f'GRANT "{role}" TO current_user; SET LOCAL ROLE "{role}"')
                done = await owner.execute(statement)
            except asyncpg.InsufficientPrivilegeError:
                continue
            finally:
                await transaction.rollback()
            if done.split()[-1] != "0":
                reaching.setdefault(role, set()).add(statement.split()[0])
    # `service_role` has what Supabase gives it, every right on every table; what it reads here stays sealed.
    assert reaching == {role: {"SELECT", "UPDATE", "DELETE"} for role in ("agentapi_system", "service_role")}
    after = await owner.fetchval(
        "SELECT oauth_data::text FROM public.mcp_sessions WHERE user_id = $1", scene.ann.user_id
    )
    assert (scene.canary in before, after) == (True, before)


async def test_who_has_left_sees_nothing_at_once_and_a_begun_turn_is_finished(scene: Scene, database: Database) -> None:
    async with database.as_system("test") as connection:
        await connection.execute(
            "DELETE FROM public.organization_members WHERE user_id = $1 AND organization_id = $2",
            scene.ann.user_id,
            scene.ann.org_id,
        )
    turns, sessions = PostgresTurns(database), PostgresSessions(database)
    assert (await sessions.list_(scene.ann, NOT_ARCHIVED, cursor=None, limit=5)).items == ()
    with pytest.raises(AgentApiError):
        await turns.begin(scene.ann, new_turn(scene.agent_id, "one more"))
    ended = replace(scene.running, status=TurnStatus.COMPLETED, reply="paid for")
    assert await turns.finish(scene.ann, ended, ending(scene.owner)) is not None


async def test_an_outside_client_reads_and_writes_nothing_of_hers(
    scene: Scene, database: Database, database_urls: DatabaseUrls
) -> None:
    """As PostgREST runs statements: with a role and the claims of a token, and no program in between."""
    before, tried = await hers(scene, database), 0
    owner = await asyncpg.connect(database_urls.owner)
    try:
        relations = await owner.fetch(
            "SELECT r.oid, r.oid::regclass::text AS name FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace "
            "WHERE n.nspname IN ('public', 'agentapi') AND r.relkind IN ('r', 'p', 'v', 'm') ORDER BY 2"
        )
        for role in ("anon", "authenticated"):
            for attacker, principal in scene.attackers.items():
                if attacker == "herself elsewhere":
                    continue  # without the program she is a member of both
                async with outside(owner, role, principal.user_id):
                    for relation in relations:
                        tried += await attack(owner, scene, role, relation)
        assert tried > len(relations) * 10
        print(f"{tried} statements of outside clients on {len(relations)} relations")  # noqa: T201  # of interest
    finally:
        await owner.close()
    assert await hers(scene, database) == before


async def attack(owner: "asyncpg.Connection[asyncpg.Record]", scene: Scene, role: str, relation: asyncpg.Record) -> int:
    """Read every column that the role may read, then try every write."""
    name: str = relation["name"] if "." in relation["name"] else f"public.{relation['name']}"
    columns = await owner.fetch(
        "SELECT quote_ident(attname) AS name, has_column_privilege($1, attrelid, attnum, 'SELECT') AS readable "
        "FROM pg_attribute WHERE attrelid = $2 AND attnum > 0 AND NOT attisdropped",
        role,
        relation["oid"],
    )
    readable = [column["name"] for column in columns if column["readable"]]
    assert role == "authenticated" or not readable, f"anon may read {name}"
    if readable:
        rows = await owner.fetch(f"SELECT {', '.join(readable)} FROM {name}")  # noqa: S608  # names of the catalogue
        text = repr([dict(row) for row in rows])
        assert scene.canary not in text, name
        if name not in PUBLIC:
            assert str(scene.done.session_id) not in text, name
    for statement in (
        f"INSERT INTO {name} DEFAULT VALUES",
        f"UPDATE {name} SET {columns[0]['name']} = {columns[0]['name']}",  # noqa: S608  # names of the catalogue
        f"DELETE FROM {name}",  # noqa: S608  # a name of the catalogue
    ):
        try:
            async with owner.transaction():
                done = await owner.execute(statement)
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            continue
        assert name in {"public.chat_sessions", "public.ai_interactions"}, f"{role} may {statement}: {done}"
        assert done.split()[-1] == "0", done
    return len(readable) + 3


async def test_an_outside_client_moves_no_session_of_its_own_across_a_border(
    scene: Scene, database_urls: DatabaseUrls
) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    abe, org = scene.attackers["her colleague, an owner"], scene.attackers["another organisation's"].org_id
    try:
        async with outside(owner, "authenticated", abe.user_id):
            own = await owner.fetchval(
                "INSERT INTO public.chat_sessions (user_id, org_id) VALUES ($1, $2) RETURNING id",
                abe.user_id,
                abe.org_id,
            )
            for forged in (
                f"UPDATE public.chat_sessions SET org_id = '{org}' WHERE id = '{own}'",  # noqa: S608  # ids
                f"UPDATE public.chat_sessions SET user_id = '{scene.ann.user_id}' WHERE id = '{own}'",  # noqa: S608  # ids
                f"INSERT INTO public.chat_sessions (user_id, org_id) VALUES ('{scene.ann.user_id}', '{abe.org_id}')",  # noqa: S608  # ids
                f"INSERT INTO public.chat_sessions (user_id, org_id) VALUES ('{abe.user_id}', '{org}')",  # noqa: S608  # ids
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with owner.transaction():
                        await owner.execute(forged)
    finally:
        await owner.close()


@pytest.fixture
async def owner(database_urls: DatabaseUrls) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect as the owner of the tables."""
    connection = await asyncpg.connect(database_urls.owner)
    yield connection
    await connection.close()


async def test_no_outside_role_can_become_one_of_the_programs_own(
    owner: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    for role in ("anon", "authenticated", "service_role"):
        for own in ("agentapi_writer", "agentapi_system"):
            assert not await owner.fetchval("SELECT pg_has_role($1, $2, 'MEMBER')", role, own)


async def test_no_function_can_be_called_by_all_or_led_to_objects_of_another_schema(
    owner: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    callable_by_all = await owner.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'agentapi'::regnamespace "
        "AND has_function_privilege('anon', oid, 'EXECUTE')"
    )
    assert callable_by_all == [], "a new function needs REVOKE ALL ON FUNCTION … FROM PUBLIC"
    looks_elsewhere = await owner.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'agentapi'::regnamespace AND prosecdef "
        "AND NOT coalesce(proconfig, '{}') @> ARRAY['search_path=pg_catalog, pg_temp']"
    )
    assert looks_elsewhere == [], "SECURITY DEFINER needs SET search_path = pg_catalog, pg_temp"
    assert await owner.fetchval(
        "SELECT count(*) > 0 FROM pg_proc WHERE pronamespace = 'agentapi'::regnamespace AND prosecdef"
    )


async def test_every_table_has_row_level_security(owner: "asyncpg.Connection[asyncpg.Record]") -> None:
    open_tables = await owner.fetch(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relrowsecurity "
        "AND relnamespace IN ('agentapi'::regnamespace, 'public'::regnamespace)"
    )
    assert [row["oid"] for row in open_tables] == [], (
        "a new table needs ALTER TABLE … ENABLE ROW LEVEL SECURITY; docs/design/database.md has the whole list"
    )


@asynccontextmanager
async def outside(owner: "asyncpg.Connection[asyncpg.Record]", role: str, user_id: UserId) -> AsyncGenerator[None]:
    """Be an outside client until the end, when all is undone."""
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute(f"GRANT {role} TO current_user; SET LOCAL ROLE {role}")
        claims = json.dumps({"sub": str(user_id), "role": role, "email": "x@example.com"})
        await owner.execute("SELECT set_config('request.jwt.claims', $1, true)", claims)
        yield
    finally:
        await transaction.rollback()


async def refused_or_idle(database: Database, principal: Principal, statement: str, *args: object) -> None:
    """See that a statement of the writer's changes nothing."""

    async def run(connection: Connection) -> str:
        return await connection.execute(statement, *args)  # type: ignore[arg-type]  # one of the tests' own

    try:
        async with database.as_writer(principal) as connection:
            done = await run(connection)
    except AgentApiError:
        return
    assert done.split()[-1] == "0", done


async def hers(scene: Scene, database: Database) -> str:
    """Read all rows that are Ann's, as one text."""
    of_hers = "JOIN public.chat_sessions s ON s.id = c.session_id WHERE s.user_id = $1 AND s.org_id = $2"
    read = (
        "SELECT t::text AS row FROM public.chat_sessions t WHERE user_id = $1 AND org_id = $2 ORDER BY id",
        f"SELECT c::text AS row FROM public.chat_messages c {of_hers} ORDER BY c.id",  # noqa: S608  # made of literals
        "SELECT t::text AS row FROM agentapi.turns t WHERE user_id = $1 AND org_id = $2 ORDER BY id",
        "SELECT t::text AS row FROM agentapi.tasks t WHERE user_id = $1 AND org_id = $2 ORDER BY id",
        "SELECT t::text AS row FROM agentapi.session_facts t WHERE user_id = $1 AND org_id = $2 ORDER BY session_id",
        "SELECT t::text AS row FROM agentapi.turn_ratings t WHERE user_id = $1 AND org_id = $2 ORDER BY turn_id",
        "SELECT t::text AS row FROM agentapi.idempotency_keys t WHERE user_id = $1 AND org_id = $2",
        "SELECT t::text AS row FROM agentapi.key_requests t WHERE user_id = $1 AND org_id = $2",
        "SELECT t::text AS row FROM public.mcp_sessions t WHERE user_id = $1 AND $2::uuid IS NOT NULL",
    )
    async with database.as_system("test") as connection:
        found = [await connection.fetch(sql, scene.ann.user_id, scene.ann.org_id) for sql in read]
    return repr([[row["row"] for row in rows] for rows in found])
