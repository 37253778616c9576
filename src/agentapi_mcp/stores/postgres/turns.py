"""Turns in Postgres: accepted once, leased to one process, finished once."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

from agentapi_mcp.core.errors import ConflictError, NotFoundError
from agentapi_mcp.core.identity import Principal
from agentapi_mcp.core.ids import new_id
from agentapi_mcp.core.records.ids import MessageId, SessionId, TurnId
from agentapi_mcp.core.records.turns import (
    Accepted,
    Busy,
    Joined,
    Lease,
    NewTurn,
    Signal,
    SignalKind,
    Turn,
    TurnMark,
    TurnOutcome,
)
from agentapi_mcp.stores.postgres.database import Connection, Database
from agentapi_mcp.stores.postgres.settling import lock_session, settle_expired
from agentapi_mcp.stores.postgres.signals import CHANNEL, signal_json
from agentapi_mcp.stores.postgres.turn_rows import TURN, fault_json, milliseconds, route_json, to_turn

# An expired key is taken over in the same statement; an insert that meets a running one waits for it to commit.
_CLAIM_KEY: LiteralString = """
INSERT INTO agentapi.idempotency_keys AS k (user_id, org_id, key, fingerprint, turn_id, expires_at)
VALUES ($1, $2, $3, $4, $5, clock_timestamp() + interval '24 hours')
ON CONFLICT (user_id, org_id, key) DO UPDATE
   SET fingerprint = excluded.fingerprint, turn_id = excluded.turn_id, expires_at = excluded.expires_at
 WHERE k.expires_at < clock_timestamp()
RETURNING turn_id
"""
_READ_KEY: LiteralString = """
SELECT fingerprint, turn_id FROM agentapi.idempotency_keys WHERE user_id = $1 AND org_id = $2 AND key = $3
"""
# A turn whose caller went away before its answer was delivered, running or ended less than ten minutes ago.
_ORPHAN: LiteralString = """
SELECT id FROM agentapi.turns
 WHERE user_id = $1 AND org_id = $2 AND fingerprint = $3 AND delivered_at IS NULL
   AND (caller_gone_at IS NOT NULL OR answered_running_at IS NOT NULL OR end_reason IN ('lease_expired', 'shutdown')
        OR (status = 'running' AND lease_until < clock_timestamp()))
   AND (status = 'running' OR ended_at > clock_timestamp() - interval '10 minutes')
 ORDER BY created_at DESC LIMIT 1
"""
_NEW_SESSION: LiteralString = """
INSERT INTO public.chat_sessions (id, user_id, org_id, model_id, agent_id, title, created_at, last_message_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
"""
_NEW_TURN: LiteralString = """
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_id, agent_name, backend,
    model_row_id, model_name, fingerprint, parameters, status, lease_owner, lease_until, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::jsonb, 'running', $13,
    clock_timestamp() + $14::interval, $15)
"""
_MARK: dict[TurnMark, LiteralString] = {
    TurnMark.FOLLOWED: "UPDATE agentapi.turns SET followed_at = clock_timestamp() WHERE id = $1",
    TurnMark.DELIVERED: "UPDATE agentapi.turns SET delivered_at = clock_timestamp() WHERE id = $1",
    TurnMark.ANSWERED_RUNNING: "UPDATE agentapi.turns SET answered_running_at = clock_timestamp() WHERE id = $1",
    TurnMark.CALLER_GONE: "UPDATE agentapi.turns SET caller_gone_at = clock_timestamp() WHERE id = $1",
}
# Fenced by the lease; the row of the session is locked first, as everywhere.
_FINISH: LiteralString = """
UPDATE agentapi.turns SET status = $3, end_reason = $4, stop_reason = $5, error = $6::jsonb, warning = $7,
    input_tokens = $8, output_tokens = $9, cached_tokens = $10, reasoning_tokens = $11, cost_usd = $12,
    cost_source = $13, billing_may_go_on = $14, latency_ms = $15, time_to_first_token_ms = $16, model_used = $17,
    provider = $18, route = $19::jsonb, history_dropped = $20, backend_state = $21::jsonb, assistant_message_id = $22,
    partial_text = '',
    lease_owner = NULL, lease_until = NULL, ended_at = clock_timestamp(),
    delivered_at = CASE WHEN $23 THEN clock_timestamp() ELSE delivered_at END,
    caller_gone_at = CASE WHEN $24 THEN coalesce(caller_gone_at, clock_timestamp()) ELSE caller_gone_at END
 WHERE id = $1 AND lease_owner = $2 AND status = 'running'
RETURNING id
"""
_SAY: LiteralString = """
INSERT INTO public.chat_messages
    (id, session_id, role, content, tokens_in, tokens_out, tokens_total, metadata, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9)
"""


class _SessionBusyError(Exception):
    """Another message is being answered in this session."""

    def __init__(self, turn_id: TurnId) -> None:
        super().__init__()
        self.turn_id = turn_id


class PostgresTurns:
    """The turns of all processes on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accept(self, principal: Principal, new: NewTurn) -> Accepted | Joined | Busy:
        """Write session, user message and turn; or find the turn that this request already has."""
        try:
            async with self._database.as_principal(principal) as connection:
                return await self._accept(connection, principal, new)
        except _SessionBusyError as busy:  # it left the transaction, so that a claimed key is given back
            return Busy(busy.turn_id)

    async def _accept(self, connection: Connection, principal: Principal, new: NewTurn) -> Accepted | Joined:
        at, held = None, None
        if new.idempotency_key is not None:
            held = await self._claim(connection, principal, new, new.idempotency_key)
        if held is None and new.session_id is not None:
            at, held = await self._in_session(connection, new, new.session_id)
        if held is None and new.idempotency_key is None:
            held = await connection.fetchval(_ORPHAN, principal.user_id, principal.org_id, new.fingerprint)
        if held is None:
            return await self._write(connection, principal, new, at)
        await connection.execute(_MARK[TurnMark.FOLLOWED], held)
        return Joined(await self._read(connection, held))

    async def _in_session(
        self, connection: Connection, new: NewTurn, session_id: SessionId
    ) -> tuple[datetime, TurnId | None]:
        at = await lock_session(connection, session_id)
        if at is None:
            raise NotFoundError("There is no such session; call list_sessions, or leave session_id out to start one.")
        await settle_expired(connection, session_id=session_id)
        running = await connection.fetchrow(
            "SELECT id, fingerprint FROM agentapi.turns WHERE session_id = $1 AND status = 'running'", session_id
        )
        if running is None:
            return at, None
        if running["fingerprint"] != new.fingerprint:
            raise _SessionBusyError(running["id"])
        return at, running["id"]

    async def _claim(self, connection: Connection, principal: Principal, new: NewTurn, key: str) -> TurnId | None:
        ids = (principal.user_id, principal.org_id)
        if await connection.fetchval(_CLAIM_KEY, *ids, key, new.fingerprint, new.id) is not None:
            return None
        held = await connection.fetchrow(_READ_KEY, *ids, key)
        if held is None or held["fingerprint"] != new.fingerprint:
            raise ConflictError(
                "This idempotency_key was used for another request in the last 24 hours; "
                "use a new key for a new message.",
                turn_id=None if held is None else str(held["turn_id"]),
            )
        return held["turn_id"]

    async def _write(self, connection: Connection, principal: Principal, new: NewTurn, at: datetime | None) -> Accepted:
        session_id, message_id = new.session_id, MessageId(new_id())
        previous, state = None, {}
        if session_id is None:
            session_id = SessionId(new_id())
            at = await connection.fetchval("SELECT clock_timestamp()")
            await connection.execute(
                _NEW_SESSION,
                session_id,
                principal.user_id,
                principal.org_id,
                new.model_row_id,
                new.agent_id,
                new.title,
                at,
            )
        else:
            previous = await connection.fetchval(
                "SELECT id FROM public.chat_messages WHERE session_id = $1 ORDER BY created_at DESC, id DESC LIMIT 1",
                session_id,
            )
            state = await self._state(connection, new)
            await connection.execute(
                "UPDATE public.chat_sessions SET last_message_at = $2, agent_id = $3, model_id = $4 WHERE id = $1",
                session_id,
                at,
                new.agent_id,
                new.model_row_id,
            )
        metadata = json.dumps({"turn_id": str(new.id)})
        await connection.execute(_SAY, message_id, session_id, "user", new.message, None, None, None, metadata, at)
        await connection.execute(
            _NEW_TURN,
            new.id,
            session_id,
            principal.user_id,
            principal.org_id,
            message_id,
            new.agent_id,
            new.agent,
            new.backend,
            new.model_row_id,
            new.model,
            new.fingerprint,
            json.dumps(
                {
                    "system_prompt": new.parameters.system_prompt,
                    "temperature": new.parameters.temperature,
                    "max_tokens": new.parameters.max_tokens,
                }
            ),
            new.lease_owner,
            new.lease,
            at,
        )
        kind = SignalKind.SESSIONS_CHANGED if new.session_id is None else SignalKind.SESSION_CHANGED
        await self._tell(connection, kind, principal, new.id, session_id)
        turn = await self._read(connection, new.id)
        return Accepted(turn, previous, state, session_created=new.session_id is None)

    async def _state(self, connection: Connection, new: NewTurn) -> dict[str, str]:
        text = await connection.fetchval(
            "SELECT backend_state FROM agentapi.turns WHERE session_id = $1 AND agent_name = $2 "
            "ORDER BY created_at DESC, id DESC LIMIT 1",
            new.session_id,
            new.agent,
        )
        return {} if text is None else json.loads(text)

    async def get(self, principal: Principal, turn_id: TurnId) -> Turn:
        """Read a turn, or raise NotFoundError; one whose lease is over is settled first."""
        async with self._database.as_principal(principal) as connection:
            return await self._read(connection, turn_id)

    async def _read(self, connection: Connection, turn_id: TurnId) -> Turn:
        row = await connection.fetchrow(TURN + " WHERE t.id = $1", turn_id)
        if row is not None and row["expired"]:
            await lock_session(connection, row["session_id"])
            await settle_expired(connection, session_id=row["session_id"])
            row = await connection.fetchrow(TURN + " WHERE t.id = $1", turn_id)
        if row is None:
            raise NotFoundError("There is no such turn; call list_sessions and read the session's transcript.")
        return to_turn(row)

    async def recent(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        """List the principal's newest turns, newest first."""
        async with self._database.as_principal(principal) as connection:
            rows = await connection.fetch(
                TURN + " WHERE t.user_id = $1 AND t.org_id = $2 ORDER BY t.created_at DESC, t.id DESC LIMIT $3",
                principal.user_id,
                principal.org_id,
                limit,
            )
        return tuple(to_turn(row) for row in rows)

    async def mark(self, principal: Principal, turn_id: TurnId, mark: TurnMark) -> None:
        """Note what became of the turn's callers."""
        async with self._database.as_principal(principal) as connection:
            await connection.execute(_MARK[mark], turn_id)

    async def request_cancel(self, principal: Principal, turn_id: TurnId) -> Turn:
        """Ask the turn's owner to end it; a turn that is final stays as it is."""
        async with self._database.as_principal(principal) as connection:
            turn = await self._read(connection, turn_id)
            if not turn.status.is_final:
                await connection.execute(
                    "UPDATE agentapi.turns SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()) "
                    "WHERE id = $1 AND status = 'running'",
                    turn_id,
                )
                await self._tell(connection, SignalKind.CANCEL, principal, turn_id, turn.session_id)
                turn = await self._read(connection, turn_id)
            return turn

    async def renew(self, owner: UUID, turn_ids: Sequence[TurnId], lease: timedelta) -> tuple[Lease, ...]:
        """Renew leases; a turn that is not in the answer is lost to its owner."""
        async with self._database.as_system("leases of running turns") as connection:
            rows = await connection.fetch(
                "UPDATE agentapi.turns SET lease_until = clock_timestamp() + $3::interval "
                "WHERE id = ANY($2::uuid[]) AND lease_owner = $1 AND status = 'running' "
                "RETURNING id, cancel_requested_at IS NOT NULL AS cancel_requested, followed_at",
                owner,
                list(turn_ids),
                lease,
            )
        return tuple(Lease(row["id"], row["cancel_requested"], row["followed_at"]) for row in rows)

    async def save_partial(self, principal: Principal, owner: UUID, turn_id: TurnId, text: str) -> bool:
        """Keep the text so far; False when the lease is lost."""
        async with self._database.as_principal(principal) as connection:
            tag = await connection.execute(
                "UPDATE agentapi.turns SET partial_text = $3 WHERE id = $1 AND lease_owner = $2 AND status = 'running'",
                turn_id,
                owner,
                text,
            )
        return tag != "UPDATE 0"

    async def finish(self, principal: Principal, outcome: TurnOutcome) -> Turn | None:
        """Write the end with the assistant's message; None when the lease is lost."""
        async with self._database.as_principal(principal) as connection:
            session_id: SessionId | None = await connection.fetchval(
                "SELECT session_id FROM agentapi.turns WHERE id = $1", outcome.turn_id
            )
            if session_id is None:
                return None
            at = await lock_session(connection, session_id)
            message_id = MessageId(new_id()) if outcome.reply else None
            if await connection.fetchval(_FINISH, *_finish_args(outcome, message_id)) is None:
                return None
            if message_id is not None:
                usage = outcome.bill.usage
                total = (
                    None
                    if None in (usage.input_tokens, usage.output_tokens)
                    else ((usage.input_tokens or 0) + (usage.output_tokens or 0))
                )
                metadata = json.dumps({"turn_id": str(outcome.turn_id), "status": outcome.status})
                await connection.execute(
                    _SAY,
                    message_id,
                    session_id,
                    "assistant",
                    outcome.reply,
                    usage.input_tokens,
                    usage.output_tokens,
                    total,
                    metadata,
                    at,
                )
                await connection.execute(
                    "UPDATE public.chat_sessions SET last_message_at = $2 WHERE id = $1", session_id, at
                )
            await self._tell(connection, SignalKind.ENDED, principal, outcome.turn_id, session_id)
            return await self._read(connection, outcome.turn_id)

    async def _tell(
        self, connection: Connection, kind: SignalKind, principal: Principal, turn_id: TurnId, session_id: SessionId
    ) -> None:
        said = signal_json(Signal(kind, turn_id=turn_id, session_id=session_id, user_id=principal.user_id))
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, said)


def _finish_args(outcome: TurnOutcome, message_id: MessageId | None) -> tuple[object, ...]:
    bill = outcome.bill
    return (
        outcome.turn_id,
        outcome.lease_owner,
        outcome.status,
        outcome.end_reason,
        outcome.stop_reason,
        fault_json(outcome.error),
        outcome.warning,
        bill.usage.input_tokens,
        bill.usage.output_tokens,
        bill.usage.cached_tokens,
        bill.usage.reasoning_tokens,
        bill.usage.cost_usd,
        bill.cost_source,
        bill.billing_may_go_on,
        milliseconds(bill.latency),
        milliseconds(bill.time_to_first_token),
        bill.model_used,
        bill.provider,
        route_json(bill),
        outcome.history_dropped,
        json.dumps(dict(outcome.state)),
        message_id,
        outcome.delivered,
        outcome.caller_gone,
    )
