"""What the database lets a user write with a right and without it, table by table, whatever the program would check."""

from typing import LiteralString

import asyncpg
import pytest

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.conversations.models import AcceptedTurn
from agentapi_mcp.core.identity.principals import Action, Exceptions, Principal, Role
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.support.members import new_member
from tests.support.new_turns import new_turn

CHAT, EDIT = Action.CHAT, Action.EDIT_SESSIONS
NEW_MESSAGE = """
INSERT INTO public.chat_messages (session_id, role, content)
SELECT id, 'user', 'new' FROM public.chat_sessions WHERE user_id = $1 AND org_id = $2
"""
NEW_TURN = """
INSERT INTO agentapi.turns
    (id, session_id, user_id, org_id, user_message_id, agent_name, backend, fingerprint, status, ended_at)
SELECT gen_random_uuid(), id, user_id, org_id, gen_random_uuid(), 'guide', 'guide', 'new', 'completed', now()
  FROM public.chat_sessions WHERE user_id = $1 AND org_id = $2
"""
NEW_KEY = """
INSERT INTO agentapi.idempotency_keys (user_id, org_id, key, fingerprint, turn_id, expires_at)
VALUES ($1, $2, 'new', 'new', gen_random_uuid(), now())
"""
TITLE = "UPDATE public.chat_sessions SET title = 'new' WHERE user_id = $1 AND org_id = $2"
TEXT = "UPDATE agentapi.turns SET partial_text = 'new' WHERE user_id = $1 AND org_id = $2"
EXPIRY = "UPDATE agentapi.idempotency_keys SET expires_at = now() WHERE user_id = $1 AND org_id = $2"
SETTINGS = "UPDATE public.organizations SET settings = '{}' WHERE id = $2 AND $1::uuid IS NOT NULL"
# Each table and command that the role is granted: a statement, and the rights of which any one is enough.
WRITES: dict[tuple[str, str], tuple[LiteralString, set[Action]]] = {
    ("public.chat_sessions", "INSERT"): ("INSERT INTO public.chat_sessions (user_id, org_id) VALUES ($1, $2)", {CHAT}),
    ("public.chat_sessions", "UPDATE"): (TITLE, {CHAT, EDIT}),
    ("public.chat_sessions", "DELETE"): ("DELETE FROM public.chat_sessions WHERE user_id = $1 AND org_id = $2", {EDIT}),
    ("public.chat_messages", "INSERT"): (NEW_MESSAGE, {CHAT}),
    ("agentapi.turns", "INSERT"): (NEW_TURN, {CHAT}),
    ("agentapi.turns", "UPDATE"): (TEXT, {CHAT}),
    ("agentapi.idempotency_keys", "INSERT"): (NEW_KEY, {CHAT}),
    ("agentapi.idempotency_keys", "UPDATE"): (EXPIRY, {CHAT}),
    ("public.organizations", "UPDATE"): (SETTINGS, {Action.EDIT_ORGANIZATION}),
}
GRANTED = """
SELECT format('%I.%I', n.nspname, c.relname) AS name, command
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE']) AS command
 WHERE n.nspname IN ('public', 'agentapi') AND c.relkind IN ('r', 'p', 'v')
   AND CASE WHEN command = 'DELETE' THEN has_table_privilege('agentapi_writer', c.oid, command)
            ELSE has_any_column_privilege('agentapi_writer', c.oid, command) END
"""


async def with_a_turn(database: Database) -> Principal:
    """Make a user who has all rights, and a session with a turn and its key."""
    ann = await new_member(database, role=Role.OWNER)
    async with database.as_system("test") as connection:
        agent = await connection.fetchval(
            "INSERT INTO public.agents (name, type) VALUES ('guide', 'custom') RETURNING id"
        )
    turn = new_turn(AgentId(agent), "hello", key="key")
    assert isinstance(await PostgresTurns(database).accept(ann, turn), AcceptedTurn)
    return ann


async def written(database: Database, who: Principal, denied: set[Action], sql: LiteralString) -> int:
    """Return how many rows a user writes who is denied these actions; none where the database refuses to."""
    limited = Principal(who.user_id, who.org_id, who.role, exceptions=Exceptions(denied=frozenset(denied)))
    async with database.as_writer(limited) as connection:
        try:
            tag = await connection.execute(sql, who.user_id, who.org_id)
        except asyncpg.InsufficientPrivilegeError:
            return 0
    return int(tag.rpartition(" ")[2])


@pytest.mark.parametrize(("table", "command"), WRITES)
async def test_the_database_asks_for_a_right_to_write(table: str, command: str, database: Database) -> None:
    sql, any_of = WRITES[table, command]
    ann = await with_a_turn(database)
    assert await written(database, ann, any_of, sql) == 0
    for action in any_of:
        assert await written(database, ann, set(Action) - {action, Action.READ_ORGANIZATION}, sql) == 1


async def test_every_command_that_is_granted_is_tried(database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        rows = await owner.fetch(GRANTED)
    finally:
        await owner.close()
    assert {(row["name"], row["command"]) for row in rows} == set(WRITES)
