"""A database before its first migration: what is added to its tables so that they fit, and all that does not fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import LiteralString, TypeAlias

import asyncpg

from agentapi_mcp.base.errors import StoreMismatchError
from agentapi_mcp.base.text import one_line
from agentapi_mcp.stores.postgres.front_ends import Readable, readable_before
from agentapi_mcp.stores.postgres.owner_connections import OURS
from agentapi_mcp.stores.postgres.schema_files import Migration

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
# Columns that a table may lack. Each can be added, since it may be null or has a default, and what is in the table
# keeps its meaning. A column that is there in another shape is named by the checks of 0001_schema.sql.
_ADDABLE: LiteralString = """
(VALUES ('agents', 'description', 'text'), ('agents', 'enabled', 'boolean DEFAULT true'),
        ('agents', 'config', 'jsonb DEFAULT ''{}'''), ('agents', 'created_at', 'timestamptz DEFAULT now()'),
        ('agents', 'updated_at', 'timestamptz DEFAULT now()'),
        ('models', 'display_name', 'varchar(255)'), ('models', 'description', 'text'),
        ('models', 'provider', 'varchar(100)'), ('models', 'enabled', 'boolean DEFAULT true'),
        ('models', 'config', 'jsonb DEFAULT ''{}'''), ('models', 'created_at', 'timestamptz DEFAULT now()'),
        ('models', 'updated_at', 'timestamptz DEFAULT now()'),
        ('chat_sessions', 'title', 'varchar(255)'), ('chat_sessions', 'metadata', 'jsonb DEFAULT ''{}'''),
        ('chat_sessions', 'last_message_at', 'timestamptz'),
        ('chat_messages', 'tokens_in', 'integer'), ('chat_messages', 'tokens_out', 'integer'),
        ('chat_messages', 'tokens_total', 'integer'), ('chat_messages', 'metadata', 'jsonb DEFAULT ''{}'''),
        ('agent_health', 'id', 'uuid DEFAULT gen_random_uuid()'), ('agent_health', 'last_check', 'timestamptz'),
        ('agent_health', 'last_error', 'text'), ('agent_health', 'consecutive_failures', 'integer DEFAULT 0')
) AS w (t, c, definition)
JOIN pg_class r ON r.oid = to_regclass('public.' || w.t) AND r.relkind IN ('r', 'p')
WHERE NOT EXISTS (SELECT FROM pg_attribute a
                   WHERE a.attrelid = r.oid AND a.attname = w.c AND a.attnum > 0 AND NOT a.attisdropped)
"""
_OWNED: LiteralString = "pg_has_role(current_user, r.relowner, 'USAGE')"
_MISSING: LiteralString = f"""
SELECT w.t || '.' || w.c AS name, {_OWNED} AS owned FROM {_ADDABLE} ORDER BY 1
"""  # noqa: S608  # made of literals
_ADD: LiteralString = f"""
DO $$
DECLARE
    new record;
BEGIN
    FOR new IN SELECT w.t, w.c, w.definition FROM {_ADDABLE} AND {_OWNED} LOOP
        EXECUTE format('ALTER TABLE public.%I ADD COLUMN IF NOT EXISTS %I %s', new.t, new.c, new.definition);
    END LOOP;
END
$$
"""  # noqa: S608  # made of literals
# The program finds an agent by its name, and writes the agents of its file over those of the same name.
_LACKS_UNIQUE: LiteralString = """
SELECT r.oid IS NOT NULL AND NOT EXISTS (
           SELECT FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'name' AND a.attnum = i.indkey[0]
            WHERE i.indrelid = r.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
              AND i.indnkeyatts = 1)
  FROM (SELECT) AS one
  LEFT JOIN pg_class r ON r.oid = to_regclass('public.agents') AND r.relkind = 'r'
   AND pg_has_role(current_user, r.relowner, 'USAGE')
   AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = r.oid AND a.attname = 'name' AND NOT a.attisdropped)
"""
_TWICE: LiteralString = """
SELECT name::text FROM public.agents GROUP BY name HAVING count(*) > 1 ORDER BY name::text LIMIT 6
"""
_UNIQUE: LiteralString = """
DO $$
BEGIN
    IF to_regclass('public.agentapi_agents_name') IS NULL THEN  -- else the name is taken, and that is refused
        CREATE UNIQUE INDEX IF NOT EXISTS agentapi_agents_name ON public.agents (name);
    END IF;
END
$$
"""
# The roles that a login ($1) is granted, and has not yet. Being a member of a member is not enough: the program's
# functions are granted to its members by name. Since Postgres 16 a membership may lack the right to take the role.
LACKED: LiteralString = """
SELECT w.name FROM unnest(ARRAY['authenticated', 'agentapi_system', 'agentapi_writer']) AS w (name)
 WHERE NOT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles l ON l.oid = m.member
                    WHERE r.rolname = w.name AND l.rolname = $1::text
                      AND CASE WHEN current_setting('server_version_num')::int < 160000 THEN true
                               ELSE pg_has_role(l.oid, r.oid, 'SET') END)
"""
# What is refused beyond section 1 of 0001_schema.sql, which knows neither later files nor the login to grant to.
_FAULTS: LiteralString = f"""
SELECT format('there is something named public.%s, a name that the program needs', w) AS fault
  FROM unnest(ARRAY['agentapi_agents_name', 'agentapi_mcp_sessions_expires', 'agentapi_mcp_sessions_user']) AS w
 WHERE to_regclass('public.' || w) IS NOT NULL
UNION ALL
SELECT format('There is no login %s here: as an administrator run CREATE ROLE %I LOGIN NOINHERIT PASSWORD ...',
              $1::text, $1::text)
 WHERE $1::text IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text AND rolcanlogin)
UNION ALL
SELECT format('the login %s may not grant the role %s: as an administrator run GRANT %I TO %I WITH ADMIN OPTION',
              current_user, w.name, w.name, current_user)
  FROM ({LACKED}) AS w
  JOIN pg_roles l ON l.rolname = current_user AND NOT l.rolsuper
  LEFT JOIN pg_roles r ON r.rolname = w.name
 WHERE $1::text IS NOT NULL
   -- A role that is missing is made by this login, which then may grant it, or it is named as missing.
   AND CASE WHEN r.oid IS NULL OR current_setting('server_version_num')::int < 160000 AND l.rolcreaterole
            THEN NOT l.rolcreaterole
            ELSE NOT pg_has_role(current_user, r.oid, 'USAGE WITH ADMIN OPTION') END
"""  # noqa: S608  # made of literals
# Section 12 of 0001_schema.sql finds this after the grants, and so never together with another fault.
_PUBLIC: LiteralString = """
SELECT DISTINCT format('everybody may %s %s by a grant to PUBLIC: revoke that', lower(g.privilege_type),
                       r.oid::regclass) AS fault
  FROM pg_class r
  LEFT JOIN pg_attribute a ON a.attrelid = r.oid AND NOT a.attisdropped
 CROSS JOIN aclexplode(array_cat(r.relacl, a.attacl)) g
 WHERE r.relnamespace = to_regnamespace('public') AND g.grantee = 0
   AND r.relname IN ('mcp_sessions', 'agents', 'models', 'chat_sessions', 'chat_messages', 'agent_health',
                     'v_recent_sessions', 'v_agent_status')
"""
_IS_NEW: LiteralString = """
SELECT NOT EXISTS (SELECT FROM pg_class
                    WHERE relname = 'migrations' AND relnamespace = to_regnamespace('agentapi'))
"""
_MOST_NAMES = 5
_MISFIT = "The database does not fit, seen as the login {login}: "


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a database had before the first migration, and what was added to its tables."""

    readable: tuple[Readable, ...]
    added: tuple[str, ...]


async def is_new(connection: _Connection) -> bool:
    """Return whether the program never migrated this database."""
    return await connection.fetchval(_IS_NEW)


async def prepare(
    connection: _Connection, first: Migration, bootstrap: str, grant_to: str | None, lock_timeout: timedelta
) -> Prepared:
    """Add what the tables lack, and check that the first migration fits.

    Raises:
        StoreMismatchError: it does not fit; the message names everything that stands in the way.
    """
    readable = await readable_before(connection)
    found = [row["fault"] for row in await connection.fetch(_FAULTS, grant_to)]
    milliseconds = str(round(lock_timeout.total_seconds() * 1000))
    await connection.execute("SELECT set_config('lock_timeout', $1, true)", milliseconds)
    added = await _complete(connection)
    # The timeout would also end the wait for another process's migration.
    await connection.execute("SELECT set_config('lock_timeout', '0', true)")
    found += await _names_given_twice(connection)
    login = await connection.fetchval("SELECT current_user::text")
    refusals = [await _refusal(connection, sql) for sql in (bootstrap, first.checks)]
    said = [part for each in refusals if each for part in each.removeprefix(_MISFIT.format(login=login)).split("; ")]
    # What makes a role before what grants it: an administrator can run the statements in this order.
    faults = _once([*said, *found])
    if faults:
        faults += [row["fault"] for row in await connection.fetch(_PUBLIC)]
        # What the owner of the tables adds by migrating is no fault of theirs.
        addable = tuple(f"public.{row['name']} must " for row in await connection.fetch(_MISSING))
        raise StoreMismatchError(_refused(login, [each for each in faults if not each.startswith(addable)]))
    return Prepared(readable, added)


def _refused(login: str, faults: Sequence[str]) -> str:
    """Say what does not fit, one fault a line: some are statements to run."""
    misfit = _MISFIT.format(login=login)
    if len(faults) == 1:
        return f"{misfit}{faults[0]}. Nothing was changed."
    return "\n".join((misfit.rstrip(), *(f"- {fault}" for fault in faults), "Nothing was changed."))


def _once(faults: Sequence[str]) -> list[str]:
    """Leave out what two checks found, whose sentences differ in the first letter."""
    first: dict[str, str] = {}
    for fault in faults:
        first.setdefault(fault.casefold(), fault)
    return list(first.values())


async def _complete(connection: _Connection) -> tuple[str, ...]:
    """Add to the tables that this login owns what they lack and can be given; return it in words."""
    added = [f"the column public.{row['name']}" for row in await connection.fetch(_MISSING) if row["owned"]]
    await connection.execute(_ADD)
    if await connection.fetchval(_LACKS_UNIQUE) and await _names_given_twice(connection) == []:
        await connection.execute(_UNIQUE)
        added.append("a unique index on public.agents (name)")
    return tuple(added)


async def _names_given_twice(connection: _Connection) -> list[str]:
    if not await connection.fetchval(_LACKS_UNIQUE):
        return []
    names = [row["name"] for row in await connection.fetch(_TWICE)]
    if not names:  # the name of the index is taken
        return []
    shown = ", ".join(one_line(name, 60) for name in names[:_MOST_NAMES])
    more = " and others" if len(names) > _MOST_NAMES else ""
    return [f"several rows of public.agents have the same name ({shown}{more}): rename them, since it must be unique"]


async def _refusal(connection: _Connection, sql: str) -> str | None:
    """Run checks that refuse in words, and undo them; return the refusal."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(sql)
    except asyncpg.PostgresError as exc:
        if exc.sqlstate != OURS:
            raise
        return str(exc.args[0])
    finally:
        await transaction.rollback()
    return None
