"""Objects and privileges of a database as comparable values, read from the system catalogue."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import LiteralString, NamedTuple, TypeAlias

import asyncpg


class SchemaObject(NamedTuple):
    """An object or a privilege; for a privilege, `name` is the grantee and `definition` the granted rights."""

    kind: str
    place: str
    name: str
    definition: str


_Key: TypeAlias = tuple[str, str, str]

# Needs `search_path = pg_catalog`, so that all other names come out qualified. The owner's own privileges are left out,
# and NOT NULL constraints too, which Postgres lists only from 18 on: the columns have them.
OBJECTS: LiteralString = """
WITH schemas AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname IN ('agentapi', 'auth', 'public')
), relations AS (
    SELECT c.*, n.nspname || '.' || c.relname AS place FROM pg_class c JOIN schemas n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S')
), grants AS (
    SELECT n.nspname AS place, g.grantee, g.privilege_type AS what, n.nspowner AS owner
      FROM schemas n, aclexplode(n.nspacl) g
    UNION ALL
    SELECT r.place, g.grantee, g.privilege_type, r.relowner FROM relations r, aclexplode(r.relacl) g
    UNION ALL
    SELECT r.place, g.grantee, g.privilege_type || ' (' || a.attname || ')', r.relowner
      FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND NOT a.attisdropped, aclexplode(a.attacl) g
    UNION ALL
    SELECT p.oid::regprocedure::text, g.grantee, g.privilege_type, p.proowner
      FROM pg_proc p JOIN schemas n ON n.oid = p.pronamespace,
           aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
)
SELECT 'role' AS kind, '' AS place, rolname::text AS name, concat_ws(' ',
       CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
       CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END) AS definition
  FROM pg_roles WHERE rolname !~ '^pg_'
UNION ALL
SELECT 'member', '', pg_get_userbyid(member), pg_get_userbyid(roleid) FROM pg_auth_members
 WHERE roleid IN (SELECT oid FROM pg_roles WHERE rolname !~ '^pg_')
UNION ALL
SELECT 'schema', nspname, '', '' FROM schemas
UNION ALL
SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' ELSE 'table' END,
       place, '', CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid)
                       WHEN relkind = 'p' THEN pg_get_partkeydef(oid) ELSE '' END
  FROM relations
UNION ALL
SELECT 'row security', place, '', CASE WHEN relforcerowsecurity THEN 'forced' ELSE 'on' END
  FROM relations WHERE relrowsecurity
UNION ALL
SELECT 'option', place, split_part(o, '=', 1), split_part(o, '=', 2) FROM relations, unnest(reloptions) AS o
UNION ALL
SELECT 'column', r.place, a.attname,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                 CASE WHEN d.oid IS NOT NULL THEN 'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) END,
                 nullif(a.attidentity::text, ''), nullif(a.attgenerated::text, ''))
  FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE r.relkind <> 'S'
UNION ALL
SELECT 'constraint', r.place, k.conname, pg_get_constraintdef(k.oid)
  FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid WHERE k.contype <> 'n'
UNION ALL
SELECT 'index', r.place, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
  FROM relations r JOIN pg_index i ON i.indrelid = r.oid
UNION ALL
SELECT 'trigger', r.place, t.tgname, pg_get_triggerdef(t.oid) || CASE t.tgenabled WHEN 'O' THEN '' ELSE ' DISABLED' END
  FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
UNION ALL
SELECT 'policy', r.place, p.policyname,
       concat_ws(' ', p.permissive, 'FOR', p.cmd, 'TO', array_to_string(p.roles, ', '), 'USING ' || p.qual,
                 'WITH CHECK ' || p.with_check)
  FROM relations r JOIN schemas n ON n.oid = r.relnamespace
  JOIN pg_policies p ON p.schemaname = n.nspname AND p.tablename = r.relname
UNION ALL
SELECT 'function', p.oid::regprocedure::text, '', pg_get_functiondef(p.oid)
  FROM pg_proc p JOIN schemas n ON n.oid = p.pronamespace WHERE p.prokind IN ('f', 'p')
UNION ALL
SELECT 'type', n.nspname || '.' || t.typname, '',
       (SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid)
  FROM pg_type t JOIN schemas n ON n.oid = t.typnamespace WHERE t.typtype = 'e'
UNION ALL
SELECT 'grant', place, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END, what
  FROM grants WHERE grantee <> owner
"""
_ORDER = (
    *("role", "member", "schema", "table", "view", "materialized view", "sequence", "type", "function", "column"),
    *("constraint", "index", "trigger", "row security", "policy", "option", "grant"),
)
_PARTS = frozenset({"column", "constraint", "index", "trigger"})


async def read_objects(connection: "asyncpg.Connection[asyncpg.Record]") -> frozenset[SchemaObject]:
    """Read the server's roles and the objects of the schemas agentapi, auth and public; needs a transaction."""
    # Postgres prints a name without its schema if the search path finds it.
    await connection.execute("SET LOCAL search_path = pg_catalog")
    rows = await connection.fetch(OBJECTS)
    return frozenset(SchemaObject(row["kind"], row["place"], row["name"], row["definition"] or "") for row in rows)


def differences(wanted: Collection[SchemaObject], found: Collection[SchemaObject]) -> tuple[str, ...]:
    """Describe what `found` lacks, has differently or has in addition to `wanted`."""
    return tuple(_difference(*changed) for changed in _compare(wanted, found))


def changes(before: Collection[SchemaObject], after: Collection[SchemaObject]) -> tuple[str, ...]:
    """Describe what was created, changed, dropped, granted and revoked; parts of a new table are not listed."""
    new = {each.place for each in after if each.kind in {"table", "view"}} - {each.place for each in before}
    found = [each for each in _compare(before, after) if each[0][0] not in _PARTS or each[0][1] not in new]
    return tuple(line for changed in sorted(found, key=_order) for line in _change(*changed))


def _order(changed: tuple[_Key, set[str], set[str]]) -> tuple[int, _Key]:
    return _ORDER.index(changed[0][0]), changed[0]


def _compare(left: Iterable[SchemaObject], right: Iterable[SchemaObject]) -> Iterator[tuple[_Key, set[str], set[str]]]:
    """Yield each kind, place and name with the definitions found only on the left and only on the right."""
    old, new = _by_name(left), _by_name(right)
    for key in sorted({*old, *new}):
        only_old, only_new = old[key] - new[key], new[key] - old[key]
        if only_old or only_new:
            yield key, only_old, only_new


def _by_name(objects: Iterable[SchemaObject]) -> Mapping[_Key, set[str]]:
    found: defaultdict[_Key, set[str]] = defaultdict(set)
    for each in objects:
        found[each.kind, each.place, each.name].add(each.definition)
    return found


def _difference(key: _Key, missing: set[str], unexpected: set[str]) -> str:
    label = _named(*key)
    if key[0] == "grant":
        lacks = [f"lacks {_privileges(missing)}"] if missing else []
        has = [f"has {_privileges(unexpected)} too"] if unexpected else []
        return f"the {label} {' and '.join((*lacks, *has))}"
    if missing and unexpected:
        return f"the {label} differs"
    return f"the {label} is missing" if missing else f"the {label} is not of this schema"


def _change(key: _Key, gone: set[str], new: set[str]) -> Iterator[str]:
    kind, place, name = key
    if kind == "grant":
        if gone:
            yield f"revoke {_privileges(gone)} on {place} from {name}"
        if new:
            yield f"grant {_privileges(new)} on {place} to {name}"
    elif kind == "member":
        yield from (f"revoke the role {role} from {name}" for role in sorted(gone))
        yield from (f"grant the role {role} to {name}" for role in sorted(new))
    elif kind == "row security":
        yield f"{'enable' if new else 'disable'} row-level security on {place}"
    elif kind == "option":
        yield f"set {name} = {', '.join(sorted(new)) or 'default'} on {place}"
    else:
        verb = "change" if gone and new else "create" if new else "drop"
        yield f"{verb} {_named(*key)}"


def _named(kind: str, place: str, name: str) -> str:
    if kind == "grant":
        return f"role {name} on {place}"
    if kind == "column":
        return f"column {place}.{name}"
    return " ".join(filter(None, (kind, name, place and (f"on {place}" if name or kind == "row security" else place))))


def _privileges(given: Collection[str]) -> str:
    """Join privileges, grouping column privileges by verb."""
    whole = sorted(privilege for privilege in given if " " not in privilege)
    columns: defaultdict[str, list[str]] = defaultdict(list)
    for privilege in sorted({*given} - {*whole}):
        verb, _, column = privilege.partition(" ")
        columns[verb].append(column.strip("()"))
    return ", ".join((*whole, *(f"{verb} ({', '.join(names)})" for verb, names in columns.items())))
