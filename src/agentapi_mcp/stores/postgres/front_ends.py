"""Which columns of the shared tables `authenticated` may read: what a front end read before, without secrets.

PostgREST asks for all columns, and Postgres refuses that where one is not granted. So a table is granted as a whole
where it was before, or is ours, unless secrets are found in a column, or the operator wants no more than necessary.
"""

import json
from collections.abc import Collection, Mapping
from typing import LiteralString, NamedTuple, TypeAlias

import asyncpg

from agentapi_mcp.stores.postgres.row_secrets import find_secrets

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
# The migration from which on this is done.
SINCE = "0011_front_ends"
# What 0001_schema.sql grants (section 8), at least. chat_sessions is granted as a whole: its rows are the reader's own.
NARROW: Mapping[str, tuple[str, ...]] = {
    "profiles": ("id",),
    "organizations": (),
    "organization_members": (),
    "mcp_sessions": ("user_id", "session_id", "mcp_state", "created_at", "expires_at", "updated_at"),
    "agents": ("id", "name", "type", "description", "enabled", "created_at", "updated_at"),
    "models": (
        *("id", "agent_id", "name", "display_name", "description", "provider", "model_id", "enabled", "created_at"),
        "updated_at",
    ),
    "chat_messages": (
        *("id", "session_id", "role", "content", "tokens_in", "tokens_out", "tokens_total", "metadata", "created_at"),
    ),
    "agent_health": ("id", "agent_id", "status", "last_check", "consecutive_failures"),
}
# Facts: what authenticated may read of a table, `*` or a list; and whether that is narrowed.
_OF = "columns of "
_NARROWED = "columns narrowed"
# Tables that were there before, of which 0001_schema.sql takes the right to read all columns.
_CLOSED = frozenset({"mcp_sessions", "agents", "models", "chat_messages", "agent_health"})
_NOTHING: Mapping[str, tuple[str, ...]] = {}
_READ_BEFORE: LiteralString = """
SELECT c.relname::text AS name, c.relrowsecurity AS secured,
       has_table_privilege('authenticated', c.oid, 'SELECT') AS whole,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND has_column_privilege('authenticated', c.oid, a.attnum, 'SELECT') ORDER BY a.attnum) AS columns
  FROM pg_class c JOIN pg_roles r ON r.rolname = 'authenticated'
 WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p')
   AND c.relname IN ('mcp_sessions', 'agents', 'models', 'chat_sessions', 'chat_messages', 'agent_health')
"""
_REMEMBER: LiteralString = """
INSERT INTO agentapi.facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_FACTS: LiteralString = "SELECT name, value FROM agentapi.facts WHERE starts_with(name, 'columns ')"
_TABLES: LiteralString = """
SELECT c.relname::text AS name,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
       EXISTS (SELECT FROM aclexplode(c.relacl) g
                WHERE g.grantee = to_regrole('authenticated') AND g.privilege_type = 'SELECT') AS whole,
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_attribute a, aclexplode(a.attacl) g
              WHERE a.attrelid = c.oid AND NOT a.attisdropped
                AND g.grantee = to_regrole('authenticated') AND g.privilege_type = 'SELECT') AS granted
  FROM pg_class c
 WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p') ORDER BY c.relname
"""
# Of a table and its columns as JSON; null stands for the whole table.
_GRANT = """
DO $$
DECLARE
    wanted CONSTANT jsonb := current_setting('agentapi.columns');
    columns text := (SELECT string_agg(quote_ident(c), ', ') FROM jsonb_array_elements_text(
                     CASE jsonb_typeof(wanted -> 'columns') WHEN 'array' THEN wanted -> 'columns' ELSE '[]' END) AS c);
BEGIN
    EXECUTE format('REVOKE SELECT ON public.%I FROM authenticated', wanted ->> 'table');
    IF jsonb_typeof(wanted -> 'columns') = 'null' THEN
        EXECUTE format('GRANT SELECT ON public.%I TO authenticated', wanted ->> 'table');
    ELSIF columns IS NOT NULL THEN
        EXECUTE format('GRANT SELECT (%s) ON public.%I TO authenticated', columns, wanted ->> 'table');
    END IF;
END
$$
"""
# Where the migrations switched row-level security on, service_role reads and writes as before. Supabase's own bypasses
# it.
_SERVE = """
DO $$
DECLARE
    t text;
BEGIN
    FOR t IN SELECT jsonb_array_elements_text(current_setting('agentapi.tables')::jsonb) LOOP
        EXECUTE format('CREATE POLICY agentapi_service ON public.%I TO service_role USING (true) WITH CHECK (true)', t);
    END LOOP;
END
$$
"""


class Readable(NamedTuple):
    """What `authenticated` could read of a table before the first migration; None stands for all columns."""

    table: str
    columns: tuple[str, ...] | None
    secured: bool


async def readable_before(connection: _Connection) -> tuple[Readable, ...]:
    """Read what `authenticated` may read now, before the first migration takes it away."""
    return tuple(
        Readable(row["name"], None if row["whole"] else tuple(row["columns"]), row["secured"])
        for row in await connection.fetch(_READ_BEFORE)
    )


async def remember(connection: _Connection, before: Collection[Readable]) -> None:
    """Keep what could be read, for this run and later ones; let service_role pass where row-level security is new."""
    for each in (one for one in before if one.table in NARROW):
        value = "*" if each.columns is None else json.dumps(each.columns)
        await connection.execute(_REMEMBER, _OF + each.table, value)
    unsecured = [each.table for each in before if not each.secured and each.table != "mcp_sessions"]
    await connection.execute("SELECT set_config('agentapi.tables', $1, true)", json.dumps(unsecured))
    await connection.execute(_SERVE)


async def grant_columns(connection: _Connection, *, narrow: bool | None, is_first: bool) -> tuple[str, ...]:
    """Grant `authenticated` what it could read before, except columns with secrets; return what changes, in sentences.

    `narrow` limits it to the columns that the program needs, until it is called with False; None keeps what was said
    last. In the first run it gets back what the migration has just taken, which is no change.
    """
    if narrow is not None:
        await connection.execute(_REMEMBER, _NARROWED, "yes" if narrow else "no")
    facts = {row["name"]: row["value"] for row in await connection.fetch(_FACTS)}
    is_narrow, notes = facts.get(_NARROWED) == "yes", list[str]()
    for row in await connection.fetch(_TABLES):
        table = str(row["name"])
        promised = facts.get(_OF + table)
        if promised is None and narrow is False and table in _CLOSED and _is_narrowed(row):
            # An earlier version narrowed it, and did not note what it took away.
            promised = "*"
            await connection.execute(_REMEMBER, _OF + table, promised)
        if promised is not None and table in NARROW:
            secrets = await find_secrets(connection, table) if not is_narrow else _NOTHING
            wanted = _wanted(table, row["columns"], promised, secrets, is_narrow=is_narrow)
            await _grant(connection, row, wanted)
            notes += _notes(table, promised, secrets)
            if not is_first:
                notes += _widened(row, wanted)
    return tuple(notes)


async def _grant(connection: _Connection, row: asyncpg.Record, wanted: tuple[str, ...] | None) -> None:
    if (row["whole"], set(row["granted"])) != (wanted is None, set(wanted or ())):
        what = json.dumps({"table": row["name"], "columns": wanted})
        await connection.execute("SELECT set_config('agentapi.columns', $1, true)", what)
        await connection.execute(_GRANT)


def _notes(table: str, promised: str, secrets: Mapping[str, Collection[str]]) -> list[str]:
    return [
        f"authenticated may not read public.{table}.{column}, which seems to hold secrets ({'; '.join(places)}); "
        "a query for all columns of the table is refused, as in select('*')"
        for column, places in secrets.items()
        if promised == "*" or column in json.loads(promised)
    ]


def _widened(row: asyncpg.Record, wanted: tuple[str, ...] | None) -> list[str]:
    if row["whole"]:
        return []
    now = row["columns"] if wanted is None else wanted
    new = [f"public.{row['name']}.{column}" for column in now if column not in row["granted"]]
    return [f"authenticated may now read {', '.join(new)}"] if new else []


def _wanted(
    table: str, columns: Collection[str], promised: str, secrets: Collection[str], *, is_narrow: bool
) -> tuple[str, ...] | None:
    """Return the columns to grant in the table's order, or None for the whole table."""
    narrow = NARROW[table]
    if promised == "*" and not secrets and not is_narrow:
        return None
    more = () if is_narrow else columns if promised == "*" else json.loads(promised)
    allowed = {*narrow, *more} - {*secrets}
    return tuple(column for column in columns if column in allowed)


def _is_narrowed(row: asyncpg.Record) -> bool:
    return not row["whole"] and set(row["granted"]) <= set(NARROW[row["name"]])
