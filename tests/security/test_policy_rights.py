"""Each policy of the program's writer refuses the owner of the rows who lacks the right that it asks for."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product
from typing import LiteralString

import asyncpg
import pytest
from typing_extensions import override

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.ids import AgentId, OrgId, TaskId, UserId, new_id
from agentapi_mcp.core.conversations.models import AcceptedTurn, NewTask, Sent, TurnStatus
from agentapi_mcp.core.conversations.session_facts import Rating
from agentapi_mcp.core.identity.principals import NEEDS, Action, Exceptions, Principal, Role, TokenScope
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.facts import PostgresFacts
from agentapi_mcp.stores.postgres.tasks import PostgresTasks
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.support.new_turns import ending, new_turn

AnyOf = frozenset[Action]
CHAT: AnyOf = frozenset({Action.CHAT})
EDIT: AnyOf = frozenset({Action.EDIT_SESSIONS})
READ_ORGANIZATION: AnyOf = frozenset({Action.READ_ORGANIZATION})
EDIT_ORGANIZATION: AnyOf = frozenset({Action.EDIT_ORGANIZATION})
EVERY = frozenset(Action)
# One row for each command of each policy; a policy for all commands has those for which the writer has a privilege.
POLICIES = """
SELECT format('%s.%s', schemaname, tablename) AS name, command, policyname
  FROM pg_policies p
  CROSS JOIN LATERAL (SELECT format('%I.%I', schemaname, tablename)) AS t (quoted)
  CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS command
 WHERE roles && '{agentapi_writer,public}'::name[] AND cmd IN ('ALL', command)
   AND (has_table_privilege('agentapi_writer', quoted, command)
        OR command <> 'DELETE' AND has_any_column_privilege('agentapi_writer', quoted, command))
"""

_UNSAID: LiteralString = """
SELECT s.id, s.user_id, s.org_id FROM public.chat_sessions s
  LEFT JOIN agentapi.session_facts f ON f.session_id = s.id WHERE f.session_id IS NULL
"""
_UNSAID_NOW: LiteralString = _UNSAID.replace("s.org_id FROM", "s.org_id, now() FROM")
# One policy for all commands, also for reading: what a budget says is for everybody is read with another role.
BUDGETS: dict[str, LiteralString] = {
    "SELECT": "SELECT FROM agentapi.budgets",
    "INSERT": "INSERT INTO agentapi.budgets (org_id, scope, period, hard, limit_nanos, by_operator) "
    "VALUES (agentapi.bound_organization(), 'organization', 'day', true, 0, false)",
    "UPDATE": "UPDATE agentapi.budgets SET limit_nanos = 1",
    "DELETE": "DELETE FROM agentapi.budgets",
}


@dataclass(frozen=True)
class Case:
    """A statement of the writer on the user's own rows, the policies that decide on it, and the rights that it needs.

    Of each set in `needs`, one action is enough; a statement that needs nothing is allowed to every member.
    """

    table: str
    command: str
    policies: tuple[str, ...]
    needs: tuple[AnyOf, ...]
    statement: LiteralString

    @override
    def __str__(self) -> str:
        needs = "".join(f" {'|'.join(sorted(any_of))}" for any_of in self.needs)
        return f"{self.command} {self.table}{needs}"


CASES = (
    # What a statement writes it also reads, so reading alone asks for no right.
    Case(
        "public.chat_sessions",
        "SELECT",
        ("agentapi_writer_read", "agentapi_writer_bound"),
        (),
        "SELECT FROM public.chat_sessions",
    ),
    Case(
        "public.chat_sessions",
        "INSERT",
        ("agentapi_writer_new", "agentapi_writer_bound"),
        (CHAT,),
        "INSERT INTO public.chat_sessions (user_id, org_id) VALUES (auth.uid(), agentapi.bound_organization())",
    ),
    Case(
        "public.chat_sessions",
        "UPDATE",
        ("agentapi_writer_change", "agentapi_writer_bound"),
        (CHAT | EDIT,),
        "UPDATE public.chat_sessions SET title = 'another'",
    ),
    Case(
        "public.chat_sessions",
        "DELETE",
        ("agentapi_writer_delete", "agentapi_writer_bound"),
        (EDIT,),
        "DELETE FROM public.chat_sessions",
    ),
    Case(
        "public.chat_messages",
        "SELECT",
        ("agentapi_writer_read", "agentapi_writer_bound"),
        (),
        "SELECT FROM public.chat_messages",
    ),
    Case(
        "public.chat_messages",
        "INSERT",
        ("agentapi_writer_say", "agentapi_writer_bound"),
        (CHAT,),
        "INSERT INTO public.chat_messages (session_id, role, content) SELECT id, 'user', 'more' "
        "FROM public.chat_sessions",
    ),
    *(
        Case("agentapi.budgets", command, ("agentapi_writer",), (EDIT_ORGANIZATION,), statement)
        for command, statement in BUDGETS.items()
    ),
    Case("agentapi.turns", "SELECT", ("agentapi_writer_read",), (), "SELECT FROM agentapi.turns"),
    Case(
        "agentapi.turns",
        "INSERT",
        ("agentapi_writer_new",),
        (CHAT,),
        "INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_name, backend, "
        "fingerprint, status, ended_at) SELECT gen_random_uuid(), id, user_id, org_id, gen_random_uuid(), 'guide', "
        "'guide', 'f', 'completed', now() FROM public.chat_sessions",
    ),
    Case(
        "agentapi.turns",
        "UPDATE",
        ("agentapi_writer_change",),
        (CHAT,),
        "UPDATE agentapi.turns SET followed_at = now()",
    ),
    Case(
        "agentapi.idempotency_keys",
        "SELECT",
        ("agentapi_writer",),
        (CHAT,),
        "SELECT FROM agentapi.idempotency_keys",
    ),
    Case(
        "agentapi.idempotency_keys",
        "INSERT",
        ("agentapi_writer",),
        (CHAT,),
        "INSERT INTO agentapi.idempotency_keys (user_id, org_id, key, fingerprint, turn_id, expires_at) "
        "VALUES (auth.uid(), agentapi.bound_organization(), 'another', 'f', gen_random_uuid(), now())",
    ),
    Case(
        "agentapi.idempotency_keys",
        "UPDATE",
        ("agentapi_writer",),
        (CHAT,),
        "UPDATE agentapi.idempotency_keys SET expires_at = now()",
    ),
    Case("agentapi.tasks", "SELECT", ("agentapi_writer_read",), (), "SELECT FROM agentapi.tasks"),
    Case(
        "agentapi.tasks",
        "INSERT",
        ("agentapi_writer_new",),
        (CHAT,),
        "INSERT INTO agentapi.tasks (id, turn_id, user_id, org_id, joined, has_key, in_session, expires_at) "
        "SELECT gen_random_uuid()::text, id, user_id, org_id, false, false, false, now() FROM agentapi.turns",
    ),
    Case(
        "agentapi.tasks",
        "UPDATE",
        ("agentapi_writer_change",),
        (),
        "UPDATE agentapi.tasks SET result = '{}', concluded_at = now()",
    ),
    Case("agentapi.tasks", "DELETE", ("agentapi_writer_drop",), (CHAT,), "DELETE FROM agentapi.tasks"),
    Case("agentapi.providers", "SELECT", ("agentapi_read",), (), "SELECT FROM agentapi.providers"),
    Case("agentapi.terms", "SELECT", ("agentapi_read",), (), "SELECT FROM agentapi.terms"),
    Case("agentapi.session_facts", "SELECT", ("agentapi_writer_read",), (), "SELECT FROM agentapi.session_facts"),
    Case(
        "agentapi.session_facts",
        "INSERT",
        ("agentapi_writer_new",),
        (EDIT,),
        f"INSERT INTO agentapi.session_facts (session_id, user_id, org_id) {_UNSAID}",
    ),
    Case(
        "agentapi.session_facts",
        "INSERT",
        ("agentapi_writer_new",),
        (CHAT,),
        f"INSERT INTO agentapi.session_facts (session_id, user_id, org_id, recorded_at) {_UNSAID_NOW}",
    ),
    Case(
        "agentapi.session_facts",
        "UPDATE",
        ("agentapi_writer_change",),
        (EDIT,),
        "UPDATE agentapi.session_facts SET note = 'another'",
    ),
    Case("agentapi.turn_ratings", "SELECT", ("agentapi_writer_read",), (), "SELECT FROM agentapi.turn_ratings"),
    Case(
        "agentapi.turn_ratings",
        "INSERT",
        ("agentapi_writer_new",),
        (EDIT,),
        "INSERT INTO agentapi.turn_ratings (turn_id, user_id, org_id, rating) SELECT t.id, t.user_id, t.org_id, 3 "
        "FROM agentapi.turns t LEFT JOIN agentapi.turn_ratings r ON r.turn_id = t.id "
        "WHERE t.status = 'completed' AND r.turn_id IS NULL",
    ),
    Case(
        "agentapi.turn_ratings",
        "UPDATE",
        ("agentapi_writer_change",),
        (EDIT,),
        "UPDATE agentapi.turn_ratings SET note = 'another'",
    ),
    Case(
        "public.organizations",
        "SELECT",
        ("agentapi_writer", "agentapi_writer_bound"),
        (READ_ORGANIZATION,),
        "SELECT id, name, settings FROM public.organizations",
    ),
    Case(
        "public.organizations",
        "UPDATE",
        ("agentapi_writer", "agentapi_writer_bound"),
        (READ_ORGANIZATION, EDIT_ORGANIZATION),
        "UPDATE public.organizations SET settings = '{\"temperature\": 1}'",
    ),
)


class _UndoError(Exception):
    """Rolls a transaction back."""


async def make_rows(database: Database) -> Principal:
    """Make a member of an organisation with a budget, who has sessions, turns, a key, a task and facts."""
    ann = Principal(UserId(new_id()), OrgId(new_id()))
    agent_id = AgentId(new_id())
    async with database.as_system("test") as connection:
        await connection.execute("INSERT INTO public.organizations (id, name) VALUES ($1, 'o')", ann.org_id)
        await connection.execute("INSERT INTO public.profiles (id) VALUES ($1)", ann.user_id)
        await connection.execute(
            "INSERT INTO public.organization_members (organization_id, user_id) VALUES ($1, $2)",
            ann.org_id,
            ann.user_id,
        )
        await connection.execute("INSERT INTO public.agents (id, name, type) VALUES ($1, 'guide', 'guide')", agent_id)
        await connection.execute(
            "INSERT INTO agentapi.budgets (org_id, scope, period, hard, limit_nanos, by_operator) "
            "VALUES ($1, 'organization', 'month', true, 1000000000000, false)",
            ann.org_id,
        )
    new = new_turn(agent_id, "hello", key="one")
    await PostgresTurns(database).begin(ann, new)
    sent = Sent(has_key=True, in_session=False)
    waiting = NewTask(id=TaskId(str(new.id)), turn_id=new.id, joined=False, sent=sent, lifetime=timedelta(hours=1))
    await PostgresTasks(database).create(ann, waiting)
    await make_said(database, ann, agent_id)
    return ann


async def make_said(database: Database, ann: Principal, agent_id: AgentId) -> None:
    """Make a session of which something is said, with a turn that is rated and one that is not."""
    turns, owner, session_id = PostgresTurns(database), new_id(), None
    for text in ("rated", "unrated"):
        new = replace(new_turn(agent_id, text, session_id), lease_owner=owner)
        accepted = await turns.begin(ann, new)
        assert isinstance(accepted, AcceptedTurn)
        turn = accepted.turn
        await turns.finish(ann, replace(turn, status=TurnStatus.COMPLETED, reply="yes"), ending(owner))
        if session_id is None:
            await PostgresFacts(database).rate_turn(ann, turn.id, Rating(rating=3), clear=False)
        session_id = turn.session_id
    assert session_id is not None
    await PostgresFacts(database).rate_session(ann, session_id, Rating(rating=3), clear=False)


@pytest.fixture
async def ann(database: Database) -> Principal:
    return await make_rows(database)


async def changed(database: Database, principal: Principal, statement: LiteralString) -> int:
    """Run a statement as the writer, undo it, and return how many rows it read or changed."""
    done = "0"
    with suppress(_UndoError):
        async with database.as_writer(principal) as connection:
            done = await connection.execute(statement)
            raise _UndoError
    return int(done.split()[-1])


async def may(database: Database, principal: Principal, case: Case) -> bool:
    """Tell whether the policies allow a statement: they refuse it, or show it no row, if not."""
    try:
        return await changed(database, principal, case.statement) > 0
    except AgentApiError as exc:
        if isinstance(exc.__cause__, asyncpg.InsufficientPrivilegeError):
            return False
        raise


def with_only(ann: Principal, actions: Sequence[Action]) -> Principal:
    """Return the principal with these rights and no other."""
    allowed = frozenset(actions)
    scopes = frozenset(NEEDS[action].scope for action in actions)
    return replace(ann, role=Role.VIEWER, scopes=scopes, exceptions=Exceptions(allowed, EVERY - allowed))


def without(ann: Principal, any_of: AnyOf) -> Iterator[tuple[str, Principal]]:
    """Return the principal with every right but these: by the role, by the scopes, and by an exception."""
    roles = list(Role)
    below = roles[min(roles.index(NEEDS[action].role) for action in any_of) - 1]
    yield "role", replace(ann, role=below, exceptions=Exceptions(allowed=EVERY - any_of))
    yield "scope", replace(ann, scopes=frozenset(TokenScope) - {NEEDS[action].scope for action in any_of})
    yield "exception", replace(ann, exceptions=Exceptions(denied=any_of))


async def let_through(database: Database, ann: Principal, case: Case) -> list[object]:
    """List which principals may run a statement though they lack a right that it needs."""
    return [
        (how, sorted(any_of))
        for any_of in case.needs
        for how, principal in without(ann, any_of)
        if await may(database, principal, case)
    ]


@pytest.mark.parametrize("case", [case for case in CASES if case.needs], ids=str)
async def test_the_owner_of_the_rows_needs_the_right(case: Case, database: Database, ann: Principal) -> None:
    assert await let_through(database, ann, case) == []


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_right_alone_is_enough(case: Case, database: Database, ann: Principal) -> None:
    for actions in product(*case.needs):
        assert await may(database, with_only(ann, actions), case), actions


@pytest.mark.parametrize(
    "other",
    [
        "DROP POLICY agentapi_writer_bound ON public.organizations",
        # An existing database may have such a policy.
        "CREATE POLICY everybody ON public.organizations USING (true)",
    ],
)
async def test_each_of_the_two_policies_of_an_organization_needs_the_right(
    other: str, own_database: DatabaseUrls
) -> None:
    owner = await asyncpg.connect(own_database.owner)
    try:
        await owner.execute(other)
    finally:
        await owner.close()
    async with open_database(RemoteServer(own_database.app), PoolOptions()) as database:
        ann = await make_rows(database)
        for case in CASES:
            if case.table == "public.organizations":
                assert await let_through(database, ann, case) == []
                assert await may(database, ann, case)


async def test_every_policy_of_the_writer_is_tried_with_each_of_its_commands(database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        rows = await owner.fetch(POLICIES)
    finally:
        await owner.close()
    found = {(row["name"], row["command"], row["policyname"]) for row in rows}
    assert found == {(case.table, case.command, policy) for case in CASES for policy in case.policies}
