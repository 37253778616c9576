"""Settling of turns whose owner no longer runs them."""

from collections.abc import Sequence
from typing import LiteralString

from agentapi_mcp.base.ids import SessionId
from agentapi_mcp.core.audit.models import AuditAction, AuditOutcome
from agentapi_mcp.core.conversations.models import EndReason, SettledTurn, SettlingRule, TurnStatus
from agentapi_mcp.stores.postgres.database import Connection

_MOST = 100
# Open turns, except for this process's own, whose owners are dead, or whose lease is over: it ended, or lies further
# ahead than any owner sets it, as after the store's clock was set back. Not where that clock jumped since this process
# saw it: then all leases seem to be over, and their owners have not had the time to renew them.
_IS_ORPHAN: LiteralString = """
t.status IN ('running', 'input_required') AND NOT t.id = ANY($1::uuid[]) AND ($6::uuid IS NULL OR t.id = $6)
   AND (t.lease_owner = ANY($2::uuid[])
        OR ($3::interval IS NOT NULL AND NOT t.lease_until BETWEEN clock_timestamp() AND clock_timestamp() + $3 * 2
            AND clock_timestamp() - $4::timestamptz BETWEEN -$5::interval AND $5::interval))
"""
_FIND: LiteralString = f"SELECT t.session_id FROM agentapi.turns t WHERE {_IS_ORPHAN} LIMIT $7"  # noqa: S608  # made of literals
# The session's rows before the turns', in the same order as everywhere: no deadlock. Those that are locked are left to
# the next sweep.
_LOCK: LiteralString = "SELECT s.id FROM public.chat_sessions s WHERE s.id = ANY($1::uuid[]) FOR UPDATE SKIP LOCKED"
_LOCK_TURNS: LiteralString = f"""
SELECT t.id FROM agentapi.turns t WHERE t.session_id = ANY($7::uuid[]) AND {_IS_ORPHAN}
   FOR UPDATE SKIP LOCKED
"""  # noqa: S608  # made of literals
# In a statement of its own, whose snapshot sees what was written until the locks were taken. The text so far becomes
# the assistant's message. How long it took is not known: it is found dead seconds later, or days, as after a restore.
_SETTLE: LiteralString = f"""
WITH orphans AS (
    UPDATE agentapi.turns t
       SET status = $8, end_reason = $9, lease_owner = NULL, lease_until = NULL,
           ended_at = greatest(clock_timestamp(), t.created_at),
           assistant_message_id = CASE WHEN t.partial_text <> '' THEN gen_random_uuid() END
     WHERE t.id = ANY($7::uuid[]) AND {_IS_ORPHAN}
    RETURNING t.id, t.session_id, t.user_id, t.org_id, t.agent_name, t.model_name, t.assistant_message_id,
              t.partial_text
), placed AS (
    SELECT o.*, greatest(clock_timestamp(), coalesce(s.last_message_at, s.created_at) + interval '1 microsecond') AS at
      FROM orphans o JOIN public.chat_sessions s ON s.id = o.session_id
), assistant_message AS (
    INSERT INTO public.chat_messages (id, session_id, role, content, metadata, created_at)
    SELECT assistant_message_id, session_id, 'assistant', partial_text,
           jsonb_build_object('turn_id', id, 'status', $8::text), at
      FROM placed WHERE assistant_message_id IS NOT NULL
), updated_session AS (
    UPDATE public.chat_sessions s SET last_message_at = p.at
      FROM placed p WHERE s.id = p.session_id AND p.assistant_message_id IS NOT NULL
), event AS (
    INSERT INTO agentapi.audit_events (id, at, org_id, user_id, action, target_kind, target_id, outcome, details)
    SELECT gen_random_uuid(), clock_timestamp(), org_id, user_id, $10, 'turn', id::text, $11,
           jsonb_strip_nulls(jsonb_build_object('agent', agent_name, 'model', model_name, 'status', $8::text,
                                                'reason', $9::text))
      FROM placed
)
SELECT id, session_id, user_id, org_id FROM placed
"""  # noqa: S608  # made of literals


async def find_orphans(connection: Connection, rule: SettlingRule) -> list[SessionId]:
    """List the sessions of turns to settle, a hundred at most."""
    return [SessionId(row["session_id"]) for row in await connection.fetch(_FIND, *_where(rule), _MOST)]


async def settle(connection: Connection, rule: SettlingRule, sessions: Sequence[SessionId]) -> tuple[SettledTurn, ...]:
    """Mark the orphaned turns of sessions as interrupted, with the text so far as the reply.

    Where others work with the database, one session in a transaction: each turn's end locks the sums of its day, and
    what locks several of them waits for others that do, in a ring.
    """
    locked = [row["id"] for row in await connection.fetch(_LOCK, list(sessions))]
    if not locked:
        return ()
    where = _where(rule)
    turns = [row["id"] for row in await connection.fetch(_LOCK_TURNS, *where, locked)]
    rows = await connection.fetch(
        _SETTLE,
        *where,
        turns,
        TurnStatus.INTERRUPTED,
        EndReason.LEASE_EXPIRED,
        AuditAction.TURN_ENDED,
        AuditOutcome.FAILED,
    )
    return tuple(SettledTurn(row["id"], row["session_id"], row["user_id"], row["org_id"]) for row in rows)


def _where(rule: SettlingRule) -> tuple[object, ...]:
    return (list(rule.own), list(rule.dead), rule.lease, rule.seen_at, rule.gap, rule.only)
