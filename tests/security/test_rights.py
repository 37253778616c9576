"""The rights in the database are those of the program: what its functions allow, and what its policies ask for."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, combinations

import asyncpg
import pytest

from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.identity.principals import NEEDS, Action, Exceptions, Principal, Role, TokenScope, refusal
from agentapi_mcp.stores.postgres.database import Connection, Database
from tests.conftest import DatabaseUrls

# What each function of the database stands for: any of these rights.
PREDICATES: Mapping[str, frozenset[Action]] = {
    "may_chat": frozenset({Action.CHAT}),
    "may_edit": frozenset({Action.EDIT_SESSIONS}),
    "may_see": frozenset({Action.READ_SESSIONS, Action.CHAT, Action.EDIT_SESSIONS}),
}
# The rights that policies, views and functions ask for by their literals; the use cases alone check the others.
ASKED = {
    Action.READ_SESSIONS,
    Action.CHAT,
    Action.EDIT_SESSIONS,
    Action.READ_ORGANIZATION,
    Action.EDIT_ORGANIZATION,
}
CALL = re.compile(r"agentapi\.may\(")
LITERAL = re.compile(r"agentapi\.may\('([a-z:]+)'(?:::text)?, '\{([a-z,]+)\}'(?:::text\[\])?, '([a-z]+)'(?:::text)?\)")
SOURCES = """
SELECT format('the policy %I on %I.%I', policyname, schemaname, tablename) AS name,
       concat_ws(' ', qual, with_check) AS source FROM pg_policies
 UNION ALL
SELECT format('the function %s', oid::regprocedure), concat_ws(' ', prosrc, pg_get_function_sqlbody(oid))
  FROM pg_proc WHERE pronamespace <> 'pg_catalog'::regnamespace AND prokind = 'f'
 UNION ALL
SELECT format('the view %I.%I', schemaname, viewname), definition FROM pg_views WHERE schemaname <> 'pg_catalog'
"""


def roles_of(action: Action) -> list[str]:
    """List the roles that have a right."""
    roles = list(Role)
    return [str(role) for role in roles[roles.index(NEEDS[action].role) :]]


def principals(role: Role) -> Iterator[Principal]:
    """Yield principals of a role with every set of scopes, and with exceptions for each action."""
    plain = Principal(UserId(new_id()), OrgId(new_id()), role)
    every = chain.from_iterable(combinations(TokenScope, size) for size in range(len(TokenScope) + 1))
    for scopes in (None, *map(frozenset[TokenScope], every)):
        yield replace(plain, scopes=scopes)
    for action in Action:
        alone = frozenset({action})
        for exceptions in (Exceptions(allowed=alone), Exceptions(denied=alone), Exceptions(alone, alone)):
            yield replace(plain, exceptions=exceptions)
            yield replace(plain, exceptions=exceptions, scopes=frozenset({NEEDS[action].scope}))
            yield replace(plain, exceptions=exceptions, scopes=frozenset(TokenScope) - {NEEDS[action].scope})


def allowed(principal: Principal) -> set[Action]:
    """Return what the program allows a principal."""
    return {action for action in Action if refusal(principal, action) is None}


async def allowed_by_database(connection: Connection) -> tuple[set[Action], set[str]]:
    """Return what the database allows the principal of a transaction, by action and by its own functions."""
    actions = {
        action
        for action in Action
        if await connection.fetchval(
            "SELECT agentapi.may($1, $2::text[], $3)", str(action), roles_of(action), str(NEEDS[action].scope)
        )
    }
    row = await connection.fetchrow(
        "SELECT agentapi.may_chat() AS may_chat, agentapi.may_edit() AS may_edit, agentapi.may_see() AS may_see"
    )
    assert row is not None
    return actions, {name for name, may in row.items() if may}


@pytest.mark.parametrize("role", Role)
async def test_the_database_allows_what_the_program_allows(role: Role, database: Database) -> None:
    different: list[tuple[Principal, object, object]] = []
    for principal in principals(role):
        actions = allowed(principal)
        functions = {name for name, any_of in PREDICATES.items() if actions & any_of}
        async with database.as_principal(principal) as connection:
            found = await allowed_by_database(connection)
        if found != (actions, functions):
            different.append((principal, found, (actions, functions)))
    assert different == []


async def test_every_function_that_tells_a_right_is_compared(database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        rows = await owner.fetch(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'agentapi'::regnamespace AND proname LIKE 'may\\_%'"
        )
    finally:
        await owner.close()
    assert {row["proname"] for row in rows} == set(PREDICATES)


async def test_the_literals_of_policies_views_and_functions_are_those_of_the_table(database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        rows = await owner.fetch(SOURCES)
    finally:
        await owner.close()
    asking = [(row["name"], row["source"]) for row in rows if CALL.search(row["source"])]
    assert [name for name, source in asking if len(CALL.findall(source)) != len(LITERAL.findall(source))] == []
    found = {(name, *literal) for name, source in asking for literal in LITERAL.findall(source)}
    table = {str(action): (",".join(roles_of(action)), str(need.scope)) for action, need in NEEDS.items()}
    assert [each for each in sorted(found) if table.get(each[1]) != each[2:]] == []
    assert {Action(each[1]) for each in found} == ASKED
