"""Which migrations a database has: those of this program, of a newer one, or of one from before the first release."""

import re
from collections.abc import Collection, Sequence

import asyncpg

from agentapi_mcp.base.errors import StoreError, StoreMismatchError
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.schema_files import migrations

LEGACY_IDS = (
    "0001_assertions",
    "0002_roles",
    "0003_tables",
    "0004_turns",
    "0005_policies",
    "0006_reads",
    "0007_identities",
    "0008_permissions",
    "0009_writers",
    "0010_personal_tokens",
    "0011_user_api_keys",
    "0011_user_key_requests",
    "0012_audit_events",
    "0013_organization_settings",
    "0014_mcp_sessions",
    "0015_invitations",
    "0016_nets",
)
# Errors of a database that was never migrated: the role, the schema, the table or a column is missing.
_NOT_THERE = (
    asyncpg.InvalidParameterValueError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
)
_NO_GRANTS = (
    "The database login may not work for this program: run `agentapi-mcp migrate --grant-to LOGIN` with "
    "its name, as the owner of the tables (AGENTAPI_MIGRATE_DATABASE_URL)."
)
INSTEAD = (
    "or keep it for that version, and give this one another AGENTAPI_HOME or database (AGENTAPI_DATABASE_URL). "
    "Nothing was changed."
)


async def is_current(database: Database, *, program: str) -> bool:
    """Return whether every shipped migration is applied.

    Raises:
        StoreMismatchError: a newer program migrated this database, or the login lacks privileges.
    """
    try:
        async with database.as_system("compare the schema with the program") as connection:
            rows = await connection.fetch("SELECT id, sha256, needs FROM agentapi.migrations")
            # `SET ROLE` needs membership, also for a NOINHERIT login; a missing one would show only when
            # a statement runs as that role.
            works = await connection.fetchval(
                "SELECT bool_and(pg_has_role(session_user, oid, 'MEMBER')) FROM pg_roles "
                "WHERE rolname IN ('authenticated', 'agentapi_writer')"
            )
            may_call = await connection.fetchval(
                "SELECT coalesce(bool_and(has_function_privilege(session_user, p.oid, 'EXECUTE')), false) "
                "AND has_schema_privilege(session_user, 'agentapi', 'USAGE') FROM pg_proc p "
                "WHERE p.pronamespace = to_regnamespace('agentapi') "
                "AND p.proname ~ '^(turn_defaults|begin_turn|end_turn|tell|mark_delivered)_[0-9]+$'"
            )
    except StoreError as exc:
        if isinstance(exc.__cause__, _NOT_THERE):
            return False
        if isinstance(exc.__cause__, asyncpg.InsufficientPrivilegeError):
            raise StoreMismatchError(_NO_GRANTS) from exc
        raise
    applied = {row["id"]: (row["sha256"], row["needs"]) for row in rows}
    refuse_newer([needs for _, needs in applied.values()], program)
    if is_legacy(applied.keys()):
        return False
    refuse_other(applied.keys())
    current = all(applied.get(m.id, ("", ""))[0] == m.sha256 for m in migrations())
    if current and not (works and may_call):
        raise StoreMismatchError(_NO_GRANTS)
    return current


def is_legacy(ids: Collection[str]) -> bool:
    """Return whether exactly the migrations from before the first release are applied."""
    return set(ids) == set(LEGACY_IDS)


def refuse_partly_legacy(ids: Collection[str]) -> None:
    """Reject a database with some of the legacy migrations, but not exactly all of them.

    Raises:
        StoreMismatchError: it is such a database; the message says what to do.
    """
    old = sorted(set(ids) & set(LEGACY_IDS))
    if old and not is_legacy(ids):
        raise StoreMismatchError(
            f"A development version of agentapi-mcp from before the first release made this database, up to {old[-1]}; "
            f"only one that has exactly the files up to {LEGACY_IDS[-1]} can be carried over. "
            f"Run `agentapi-mcp migrate` of the last such version first, {INSTEAD}"
        )


def refuse_newer(needs: Sequence[str], program: str) -> None:
    """Reject a database with migrations that need a newer program.

    Raises:
        StoreMismatchError: it is such a database; the message names the version.
    """
    newest = max(needs, key=_version, default="0.0.0")
    if _version(newest) > _version(program):
        raise StoreMismatchError(
            f"A newer program migrated this database: it needs agentapi-mcp {newest}, this is {program}. Upgrade."
        )


def refuse_other(applied: Collection[str]) -> None:
    """Reject a database that no release created: it has unknown migrations and lacks shipped ones."""
    refuse_partly_legacy(applied)
    shipped = {migration.id for migration in migrations()}
    others = sorted(set(applied) - shipped)
    if others and shipped - set(applied):
        raise StoreMismatchError(
            f"A development version of agentapi-mcp made this database (no release has the migration {others[0]}): "
            "keep it for that version, and give this one another AGENTAPI_HOME or database. Nothing was changed."
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
