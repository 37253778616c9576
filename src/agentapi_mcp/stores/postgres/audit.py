"""The audit log in Postgres: `audit_events`, append-only for the program; only the owner may prune it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.json_texts import json_text
from agentapi_mcp.base.paging import Page
from agentapi_mcp.core.audit.models import AuditAction, AuditEvent, AuditFilter, AuditOutcome, AuditTarget
from agentapi_mcp.core.audit.ports import AuditStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Connection, Database, Row
from agentapi_mcp.stores.postgres.owner_connections import owner_connection
from agentapi_mcp.stores.postgres.positions import cursor_before, read_position

# A retry after a lost acknowledgement must not write an event twice.
_APPEND: LiteralString = """
INSERT INTO agentapi.audit_events (id, at, org_id, user_id, via, client, address, request_id, action, target_kind,
                                   target_id, outcome, details)
SELECT id, at, org_id, user_id, via, client, address, request_id, action, target_kind, target_id, outcome, details
  FROM jsonb_to_recordset($1::text::jsonb) AS e (
       id uuid, at timestamptz, org_id uuid, user_id uuid, via text, client text, address text, request_id text,
       action text, target_kind text, target_id text, outcome text, details jsonb)
ON CONFLICT DO NOTHING
"""
# audit_events_of_organization serves both halves; the second one reads events without an organisation.
LIST: LiteralString = """
SELECT id, at, org_id, user_id, via, client, address, request_id, action, target_kind, target_id, outcome,
       details::text AS details
  FROM ((SELECT id, at, org_id, user_id, via, client, address, request_id, action, target_kind, target_id, outcome,
                details
           FROM agentapi.audit_events
          WHERE org_id = $1 AND at <= $3 AND (at, id) < ($3, $4) AND at >= $5
            AND ($6::uuid IS NULL OR user_id = $6) AND ($7::text IS NULL OR action = $7)
            AND ($8::text IS NULL OR outcome = $8)
          ORDER BY at DESC, id DESC LIMIT $9)
        UNION ALL
        (SELECT id, at, org_id, user_id, via, client, address, request_id, action, target_kind, target_id, outcome,
                details
           FROM agentapi.audit_events
          WHERE $2::boolean AND org_id IS NULL AND at <= $3 AND (at, id) < ($3, $4) AND at >= $5
            AND ($6::uuid IS NULL OR user_id = $6) AND ($7::text IS NULL OR action = $7)
            AND ($8::text IS NULL OR outcome = $8)
          ORDER BY at DESC, id DESC LIMIT $9)) e
 ORDER BY at DESC, id DESC LIMIT $9
"""
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


class PostgresAudit(AuditStore):
    """Audit events; every reading statement filters by organisation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def append(self, events: Sequence[AuditEvent]) -> None:
        async with self._database.as_system("write down what happened, whoever did it") as connection:
            await append(connection, events)

    @override
    async def list_(
        self, principal: Principal, criteria: AuditFilter, *, include_unowned: bool, cursor: str | None, limit: int
    ) -> Page[AuditEvent]:
        scope = json.dumps(["audit", str(criteria.user_id), criteria.action, criteria.outcome, str(criteria.since)])
        at, id_ = read_position(cursor, scope, principal)
        async with self._database.as_system(
            "an administrator reads their organisation's log", user=principal.user_id, is_list=True
        ) as connection:
            rows = await connection.fetch(
                LIST,
                principal.org_id,
                include_unowned,
                at,
                id_,
                criteria.since or _FIRST,
                criteria.user_id,
                criteria.action,
                criteria.outcome,
                # One row more than the page tells whether there is another page.
                limit + 1,
            )
        items = tuple(_event(row) for row in rows[:limit])
        if len(rows) <= limit:
            return Page(items)
        return Page(items, cursor_before(items[-1].at, items[-1].id, scope, principal))

    @override
    async def ensure_partitions(self, moment: datetime) -> None:
        async with self._database.as_system("partitions for the months to come") as connection:
            await connection.execute("SELECT agentapi.keep_partitions($1)", moment)

    @override
    async def has_expired(self, before: datetime) -> bool:
        async with self._database.as_system("whether the log is older than it may be") as connection:
            return await connection.fetchval(
                # Partitions are named by year and month, so names compare like times.
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid "
                "WHERE i.inhparent = 'agentapi.audit_events'::regclass AND c.relname ~ '^audit_events_\\d{4}_\\d{2}$' "
                "AND c.relname < 'audit_events_' || to_char($1::timestamptz AT TIME ZONE 'UTC', 'YYYY_MM'))",
                before,
            )


async def prune_audit(owner_url: str, before: datetime, variable: str | None = None) -> tuple[str, ...]:
    """Drop the months that ended before `before`, as the owner of the tables; return their names, like 2026_01."""
    async with owner_connection(owner_url, variable) as connection, connection.transaction():
        rows = await connection.fetch("SELECT month FROM agentapi.prune_audit_events($1) AS month", before)
        # In the same transaction: no month is dropped without a record of it.
        if rows:
            await connection.execute(
                "INSERT INTO agentapi.audit_events (id, at, action, outcome, details) VALUES "
                "(gen_random_uuid(), now(), $1, 'ok', jsonb_build_object('count', $2::integer))",
                AuditAction.AUDIT_PRUNED,
                len(rows),
            )
    return tuple(str(row["month"]) for row in rows)


async def append(connection: Connection, events: Sequence[AuditEvent]) -> None:
    """Write events in the transaction of what they record; as the system."""
    # One parameter for the whole batch, so one statement whatever its size.
    await connection.execute(_APPEND, json_text([event_fields(event) for event in events]))


def event_fields(event: AuditEvent) -> dict[str, object]:
    """Serialize an event, by the names of its columns."""
    target = event.target
    return {
        "id": event.id,
        "at": event.at.isoformat(),
        "org_id": event.org_id,
        "user_id": event.user_id,
        "via": event.via,
        "client": event.client,
        "address": event.address,
        "request_id": event.request_id,
        "action": str(event.action),
        "target_kind": target and target.kind,
        "target_id": target and target.id,
        "outcome": str(event.outcome),
        "details": dict(event.details),
    }


def _event(row: Row) -> AuditEvent:
    return AuditEvent(
        id=row["id"],
        at=row["at"],
        action=row["action"],
        outcome=AuditOutcome(row["outcome"]),
        org_id=row["org_id"],
        user_id=row["user_id"],
        via=row["via"],
        client=row["client"],
        address=row["address"],
        request_id=row["request_id"],
        target=None if row["target_kind"] is None else AuditTarget(row["target_kind"], row["target_id"]),
        details=json.loads(row["details"]),
    )
