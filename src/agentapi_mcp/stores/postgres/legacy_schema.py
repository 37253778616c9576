"""Adopt databases created by the migrations from before the first release, if they equal this schema."""

import json
import re
from collections.abc import Collection, Iterable
from functools import cache

import asyncpg

from agentapi_mcp.base.errors import StoreMismatchError
from agentapi_mcp.stores.postgres.schema_files import FOLDER, Migration
from agentapi_mcp.stores.postgres.schema_objects import SchemaObject, differences, read_objects
from agentapi_mcp.stores.postgres.schema_state import INSTEAD, is_legacy, refuse_partly_legacy

# Tables and views of public that may have existed before the program.
SHARED = (
    *("profiles", "organizations", "organization_members", "mcp_sessions", "agents", "models", "chat_sessions"),
    *("chat_messages", "agent_health", "v_recent_sessions", "v_agent_status"),
)
# Roles whose privileges the schema sets; those of other roles are ignored.
_ROLES = frozenset({"anon", "authenticated", "agentapi_system", "agentapi_writer", "PUBLIC"})
# Objects that sections 3, 7 and 8 of the schema add to an existing table only under conditions.
_CONDITIONAL = frozenset(
    {
        ("policy", "public.agents", "agentapi_read"),
        ("policy", "public.models", "agentapi_read"),
        ("policy", "public.agent_health", "agentapi_read"),
        ("policy", "public.mcp_sessions", "agentapi_bound"),
        ("index", "public.chat_sessions", "public.agentapi_sessions_organization"),
    }
)
_MONTH = re.compile(r"audit_events_\d{4}_\d{2}")
_MONTHLY = "audit_events_MONTH"
# Differences that a message lists.
_MOST = 20
# Before this version, pg_get_viewdef qualified columns also in views of a single table.
_UNQUALIFIED_SINCE = 16


async def adopt_legacy_database(
    connection: "asyncpg.Connection[asyncpg.Record]", ids: Collection[str], schema: Migration
) -> bool:
    """Record a legacy database that equals the schema as created by it; return False for any other database.

    Raises:
        StoreMismatchError: it is a legacy database and differs; the message names the differences.
    """
    refuse_partly_legacy(ids)
    if not is_legacy(ids):
        return False
    facts = await connection.fetch("SELECT name FROM agentapi.facts WHERE value = 'ours'")
    ours = [str(row["name"]) for row in facts]
    version = connection.get_server_version()
    found = compare_with_schema(await read_objects(connection), ours, postgres=version.major)
    if found:
        rest = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise StoreMismatchError(
            "A development version of agentapi-mcp from before the first release made this database, and it differs "
            f"from the schema of this one: {'; '.join(found[:_MOST])}{rest}. Undo these differences and migrate again, "
            f"{INSTEAD}"
        )
    await connection.execute("DELETE FROM agentapi.migrations")
    await connection.execute(
        "INSERT INTO agentapi.migrations (id, sha256, needs) VALUES ($1, $2, $3)",
        *(schema.id, schema.sha256, schema.needs),
    )
    return True


def compare_with_schema(objects: Collection[SchemaObject], ours: Collection[str], *, postgres: int) -> tuple[str, ...]:
    """Describe the differences to the shipped schema, as major version `postgres` prints it.

    `ours` are the tables and views of public that the program created.
    """
    found, wanted, theirs = comparable(objects, ours), _wanted(ours), _not_created_by_us(ours)
    # The reference was written by Postgres 18.
    if postgres < _UNQUALIFIED_SINCE:
        found, wanted = _without_qualifiers(found), _without_qualifiers(wanted)
    names = {each[:3] for each in found}
    absent = {each for each in wanted if each[:3] in _CONDITIONAL and each.place in theirs and each[:3] not in names}
    if not any(_MONTH.search(each.place) for each in objects):  # all partitions were pruned
        absent |= {each for each in wanted if _MONTHLY in each.place}
    more = {each for each in found - wanted if each.place in theirs and _is_optional_grant(each)}
    return differences(wanted - absent, found - more)


def comparable(objects: Iterable[SchemaObject], ours: Collection[str]) -> set[SchemaObject]:
    """Select the objects that the schema creates in every database, without the months in partition names."""
    own, theirs = _places(ours), _not_created_by_us(ours)
    return {
        SchemaObject(*(_MONTH.sub(_MONTHLY, text) for text in each))
        for each in objects
        if (each.kind != "grant" or each.name in _ROLES)
        and (_in_agentapi(each.place) or each.place in own or (each.place in theirs and _is_added(each)))
    }


@cache
def reference() -> tuple[tuple[SchemaObject, ...], tuple[SchemaObject, ...]]:
    """Read the reference objects: for a database of our own, and for existing tables of public."""
    reference_objects = json.loads((FOLDER / "0001_objects.json").read_text(encoding="utf-8"))
    own, existing = (tuple(SchemaObject(*row) for row in reference_objects[name]) for name in ("own", "existing"))
    return own, existing


def _wanted(ours: Collection[str]) -> set[SchemaObject]:
    own, existing = reference()
    theirs = _not_created_by_us(ours)
    conditional = {each for each in own if each[:3] in _CONDITIONAL}
    return {each for each in own if each.place not in theirs} | {
        each for each in conditional.union(existing) if each.place in theirs
    }


def _without_qualifiers(objects: Iterable[SchemaObject]) -> set[SchemaObject]:
    return {
        each._replace(definition=re.sub(r"\b\w+\.", "", each.definition)) if each.kind == "view" else each
        for each in objects
    }


def _not_created_by_us(ours: Collection[str]) -> set[str]:
    return _places(set(SHARED) - set(ours))


def _places(names: Iterable[str]) -> set[str]:
    return {f"public.{name}" for name in names}


def _in_agentapi(place: str) -> bool:
    return place == "agentapi" or place.startswith("agentapi.")


def _is_added(each: SchemaObject) -> bool:
    """Return whether the schema adds such an object to an existing table."""
    if each.kind == "grant":
        return each.name in {"agentapi_system", "agentapi_writer"}
    if each.kind == "row security":
        return each.place not in _places(SHARED[:4])
    if each.kind == "option":
        return each.name == "security_invoker"
    return each.kind in {"policy", "index"} and each.name.removeprefix("public.").startswith("agentapi_")


def _is_optional_grant(each: SchemaObject) -> bool:
    """Return whether it is a privilege that policies for PUBLIC need (section 11)."""
    return each.kind == "grant" and each.name == "agentapi_writer" and each.definition.startswith("SELECT (")
