"""Turns in Postgres: accepted once, leased to one process, and finished once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

from typing_extensions import override

from agentapi_mcp.base.durations import to_milliseconds
from agentapi_mcp.base.errors import ConflictError, NextStep, NotFoundError
from agentapi_mcp.base.ids import MessageId, SessionId, TurnId, new_id
from agentapi_mcp.core.conversations.models import (
    AcceptedTurn,
    Busy,
    Ending,
    Joined,
    NewTurn,
    RenewedLease,
    Turn,
    TurnMark,
    TurnStatus,
)
from agentapi_mcp.core.conversations.ports import TurnStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.stores.postgres.database import Connection, Database, Row
from agentapi_mcp.stores.postgres.lease_recovery import lock_session, no_session, settle_expired, settle_now
from agentapi_mcp.stores.postgres.signals import CHANNEL, signal_json
from agentapi_mcp.stores.postgres.turn_mapping import TURN, fault_json, route_json, to_turn

# An expired key is reclaimed in the same statement; a concurrent insert of the same key waits for the first to commit.
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
# The state of a locked session, in a second statement, whose snapshot sees what the lock waited for. The previous
# message is searched from the session's own time on, since the policy is evaluated for every message scanned. A
# backend's handle is valid only if its turn is the latest: it would not know later messages of other backends.
_SESSION_STATE: LiteralString = f"""
SELECT r.id AS running, r.fingerprint, r.lease_until < clock_timestamp() AS expired,
       CASE WHEN $6 THEN ({_ORPHAN}) END AS orphan,
       (SELECT id FROM public.chat_messages
         WHERE session_id = $4 AND created_at >= (SELECT last_message_at FROM public.chat_sessions WHERE id = $4)
         ORDER BY created_at DESC, id DESC LIMIT 1) AS previous,
       (SELECT backend_state FROM (SELECT agent_name, backend, backend_state FROM agentapi.turns WHERE session_id = $4
         ORDER BY created_at DESC, id DESC LIMIT 1) AS latest WHERE agent_name = $5 AND backend = $7) AS state
  FROM (SELECT) AS one
  LEFT JOIN agentapi.turns r ON r.session_id = $4 AND r.status = 'running'
"""  # noqa: S608  # made of literals
_NEW_SESSION: LiteralString = """
INSERT INTO public.chat_sessions (id, user_id, org_id, model_id, agent_id, title, created_at, last_message_at)
SELECT $1, $2, $3, $4, $5, $6, at, at FROM clock_timestamp() AS at
RETURNING created_at
"""
# One statement, since each one is a round trip. NOTIFY is delivered at commit, so listeners find the rows.
_BEGIN: LiteralString = """
user_message AS (
    INSERT INTO public.chat_messages (id, session_id, role, content, metadata, created_at)
    VALUES ($5, $2, 'user', $16, jsonb_build_object('turn_id', $1::uuid), $15)
), new_turn AS (
    INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_id, agent_name, backend,
        model_row_id, model_name, fingerprint, parameters, status, lease_owner, lease_until, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::jsonb, 'running', $13,
        clock_timestamp() + $14::interval, $15)
)
SELECT pg_notify($17, $18)
"""
_BEGIN_IN_NEW_SESSION: LiteralString = f"WITH {_BEGIN}"
_BEGIN_IN_SESSION: LiteralString = f"""
WITH updated_session AS (
    UPDATE public.chat_sessions SET last_message_at = $15, agent_id = $6, model_id = $9 WHERE id = $2
), {_BEGIN}
"""  # noqa: S608  # made of literals
_MARK: dict[TurnMark, LiteralString] = {
    TurnMark.FOLLOWED: "UPDATE agentapi.turns SET followed_at = clock_timestamp() WHERE id = $1",
    TurnMark.DELIVERED: "UPDATE agentapi.turns SET delivered_at = clock_timestamp() WHERE id = $1",
    TurnMark.ANSWERED_RUNNING: "UPDATE agentapi.turns SET answered_running_at = clock_timestamp() WHERE id = $1",
    TurnMark.CALLER_GONE: "UPDATE agentapi.turns SET caller_gone_at = clock_timestamp() WHERE id = $1",
}
# Fenced by the lease. The session's row is locked first, the same order everywhere. A reply becomes a message.
_FINISH: LiteralString = """
WITH ended AS (
    UPDATE agentapi.turns SET status = $3, end_reason = $4, stop_reason = $5, error = $6::jsonb, warning = $7,
        input_tokens = $8, output_tokens = $9, cached_tokens = $10, reasoning_tokens = $11, cost_usd = $12,
        cost_source = $13, billing_may_go_on = $14, latency_ms = $15, time_to_first_token_ms = $16, model_used = $17,
        provider = $18, route = $19::jsonb, history_dropped = $20, backend_state = $21::jsonb,
        assistant_message_id = $22,
        partial_text = '',
        lease_owner = NULL, lease_until = NULL, ended_at = clock_timestamp(),
        delivered_at = CASE WHEN $23 THEN clock_timestamp() ELSE delivered_at END,
        caller_gone_at = CASE WHEN $24 THEN coalesce(caller_gone_at, clock_timestamp()) ELSE caller_gone_at END
     WHERE id = $1 AND lease_owner = $2 AND status = 'running'
    RETURNING id, session_id, ended_at, cancel_requested_at
), assistant_message AS (
    INSERT INTO public.chat_messages
        (id, session_id, role, content, tokens_in, tokens_out, tokens_total, metadata, created_at)
    SELECT $22, session_id, 'assistant', $25, $8, $9, $8 + $9, jsonb_build_object('turn_id', id, 'status', $3::text),
           $26
      FROM ended WHERE $22::uuid IS NOT NULL
), updated_session AS (
    UPDATE public.chat_sessions SET last_message_at = $26
     WHERE id = (SELECT session_id FROM ended WHERE $22::uuid IS NOT NULL)
)
SELECT ended_at, cancel_requested_at, pg_notify($27, $28) FROM ended
"""


class _SessionBusyError(Exception):
    """Another message is being answered in this session."""

    def __init__(self, turn_id: TurnId) -> None:
        super().__init__()
        self.turn_id = turn_id


class PostgresTurns(TurnStore):
    """The turns of all processes on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def accept(self, principal: Principal, new: NewTurn) -> AcceptedTurn | Joined | Busy:
        try:
            async with self._database.as_writer(principal) as connection:
                return await self._accept(connection, principal, new)
        except _SessionBusyError as busy:  # raised out of the transaction, so that a claimed key is rolled back
            return Busy(busy.turn_id)

    async def _accept(self, connection: Connection, principal: Principal, new: NewTurn) -> AcceptedTurn | Joined:
        existing: TurnId | None = None
        position = _TurnPosition()
        # First of all: a concurrent request with this key waits in the INSERT, and then finds the turn of this one.
        if new.idempotency_key is not None:
            existing = await self._claim(connection, principal, new, new.idempotency_key)
        if existing is None and new.session_id is not None:
            position, existing = await self._in_session(connection, principal, new, new.session_id)
        # A request with a key is recognised by the key alone, one without a key by its fingerprint.
        elif existing is None and new.idempotency_key is None:
            existing = await connection.fetchval(_ORPHAN, principal.user_id, principal.org_id, new.fingerprint)
        if existing is None:
            return await self._write(connection, principal, new, position)
        # In this transaction: the owner, about to abandon the turn, sees by the mark that a caller is back.
        await connection.execute(_MARK[TurnMark.FOLLOWED], existing)
        return Joined(await self._read(connection, principal, existing))

    async def _in_session(
        self, connection: Connection, principal: Principal, new: NewTurn, session_id: SessionId
    ) -> tuple["_TurnPosition", TurnId | None]:
        at = await lock_session(connection, session_id)
        if at is None:
            raise no_session()
        found = await self._inspect_session(connection, principal, new)
        # Settled here, so that a turn whose process died does not block its session until somebody reads it.
        if found["expired"]:
            await settle_expired(connection, session_id=session_id)
            at = await lock_session(connection, session_id)  # the settled turn may have added a message
            found = await self._inspect_session(connection, principal, new)
        if found["running"] is not None and found["fingerprint"] != new.fingerprint:
            raise _SessionBusyError(found["running"])
        state: dict[str, str] = {} if found["state"] is None else json.loads(found["state"])
        return _TurnPosition(at, found["previous"], state), found["running"] or found["orphan"]

    async def _inspect_session(self, connection: Connection, principal: Principal, new: NewTurn) -> Row:
        ids = (principal.user_id, principal.org_id, new.fingerprint, new.session_id)
        found = await connection.fetchrow(_SESSION_STATE, *ids, new.agent, new.idempotency_key is None, new.backend)
        if found is None:
            raise AssertionError
        return found

    async def _claim(self, connection: Connection, principal: Principal, new: NewTurn, key: str) -> TurnId | None:
        ids = (principal.user_id, principal.org_id)
        if await connection.fetchval(_CLAIM_KEY, *ids, key, new.fingerprint, new.id) is not None:
            return None
        existing = await connection.fetchrow(_READ_KEY, *ids, key)
        if existing is None or existing["fingerprint"] != new.fingerprint:
            raise ConflictError(
                "This idempotency key was used for another request in the last 24 hours; "
                "use a new key for a new message.",
                turn_id=None if existing is None else str(existing["turn_id"]),
            )
        return existing["turn_id"]

    async def _write(
        self, connection: Connection, principal: Principal, new: NewTurn, position: "_TurnPosition"
    ) -> AcceptedTurn:
        session_id, message_id, at = new.session_id, MessageId(new_id()), position.at
        created = session_id is None
        if session_id is None:
            session_id = SessionId(new_id())
            ids = (principal.user_id, principal.org_id, new.model_row_id, new.agent_id)
            at = await connection.fetchval(_NEW_SESSION, session_id, *ids, new.title)
        if at is None:
            raise AssertionError
        kind = SignalKind.SESSIONS_CHANGED if created else SignalKind.SESSION_CHANGED
        await connection.execute(
            _BEGIN_IN_NEW_SESSION if created else _BEGIN_IN_SESSION,
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
            json.dumps(asdict(new.parameters)),
            new.lease_owner,
            new.lease,
            at,
            new.message,
            CHANNEL,
            signal_json(_signal(kind, principal, new.id, session_id)),
        )
        turn = Turn(
            id=new.id,
            session_id=session_id,
            user_id=principal.user_id,
            org_id=principal.org_id,
            status=TurnStatus.RUNNING,
            agent=new.agent,
            backend=new.backend,
            model=new.model,
            message=new.message,
            reply="",
            created_at=at,
            last_message_id=message_id,
        )
        return AcceptedTurn(turn, position.previous, position.state, session_created=created)

    @override
    async def get(self, principal: Principal, turn_id: TurnId) -> Turn:
        """Read a turn, or raise NotFoundError; an expired one is settled first."""
        async with self._database.as_principal(principal) as connection:
            row = await _find(connection, principal, turn_id)
        if row["expired"]:
            # As the program, in a transaction of its own: the reader may lack the right to write.
            await settle_now(self._database, row["session_id"])
            async with self._database.as_principal(principal) as connection:
                row = await _find(connection, principal, turn_id)
        return to_turn(row)

    async def _read(self, connection: Connection, principal: Principal, turn_id: TurnId) -> Turn:
        row = await _find(connection, principal, turn_id)
        if row["expired"]:
            # The session's row before the turn's, in the same order as accept and finish: no deadlock between them.
            await lock_session(connection, row["session_id"])
            await settle_expired(connection, session_id=row["session_id"])
            row = await _find(connection, principal, turn_id)
        return to_turn(row)

    @override
    async def recent(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        async with self._database.as_principal(principal) as connection:
            rows = await connection.fetch(
                TURN + " WHERE t.user_id = $1 AND t.org_id = $2 ORDER BY t.created_at DESC, t.id DESC LIMIT $3",
                principal.user_id,
                principal.org_id,
                limit,
            )
        return tuple(to_turn(row) for row in rows)

    @override
    async def mark(self, principal: Principal, turn_id: TurnId, mark: TurnMark) -> None:
        async with self._database.as_system("what became of a turn's callers, who need not be allowed to write") as it:
            # The system's role sees the rows of every tenant, so the statement names the owner.
            await it.execute(
                _MARK[mark] + " AND user_id = $2 AND org_id = $3", turn_id, principal.user_id, principal.org_id
            )

    @override
    async def request_cancel(self, principal: Principal, turn_id: TurnId) -> Turn:
        async with self._database.as_writer(principal) as connection:
            turn = await self._read(connection, principal, turn_id)
            if not turn.status.is_final:
                await connection.execute(
                    # A repeated request keeps the time of the first.
                    "UPDATE agentapi.turns SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()) "
                    "WHERE id = $1 AND status = 'running'",
                    turn_id,
                )
                # If the notification is lost, the owner learns of the request when it renews the lease.
                signal = _signal(SignalKind.CANCEL, principal, turn_id, turn.session_id)
                await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, signal_json(signal))
                turn = await self._read(connection, principal, turn_id)
            return turn

    @override
    async def renew(self, owner: UUID, turn_ids: Sequence[TurnId], lease: timedelta) -> tuple[RenewedLease, ...]:
        async with self._database.as_system("leases of running turns") as connection:
            rows = await connection.fetch(
                # One statement for all turns of the process; it also returns what their callers did meanwhile.
                "UPDATE agentapi.turns SET lease_until = clock_timestamp() + $3::interval "
                "WHERE id = ANY($2::uuid[]) AND lease_owner = $1 AND status = 'running' "
                "RETURNING id, cancel_requested_at IS NOT NULL AS cancel_requested, followed_at",
                owner,
                list(turn_ids),
                lease,
            )
        return tuple(RenewedLease(row["id"], row["cancel_requested"], row["followed_at"]) for row in rows)

    @override
    async def save_partial(self, principal: Principal, owner: UUID, turn_id: TurnId, text: str) -> bool:
        async with self._database.as_writer(principal) as connection:
            tag = await connection.execute(
                # Fenced by the lease: a process that lost it must not overwrite what another one settled.
                "UPDATE agentapi.turns SET partial_text = $3 WHERE id = $1 AND lease_owner = $2 AND status = 'running'",
                turn_id,
                owner,
                text,
            )
        return tag != "UPDATE 0"

    @override
    async def finish(self, principal: Principal, ended: Turn, ending: Ending) -> Turn | None:
        message_id = MessageId(new_id()) if ended.reply else None
        signal = _signal(SignalKind.ENDED, principal, ended.id, ended.session_id)
        async with self._database.as_writer(principal) as connection:
            at = await lock_session(connection, ended.session_id)
            row = await connection.fetchrow(
                _FINISH,
                *_finish_args(ended, ending),
                message_id,
                ending.delivered,
                ending.caller_gone,
                ended.reply,
                at,
                CHANNEL,
                signal_json(signal),
            )
        if row is None:
            return None
        return replace(
            ended,
            ended_at=row["ended_at"],
            cancel_requested_at=row["cancel_requested_at"],
            last_message_id=message_id or ended.last_message_id,
            saved=True,
        )


def _signal(kind: SignalKind, principal: Principal, turn_id: TurnId, session_id: SessionId) -> Signal:
    return Signal(kind, turn_id=turn_id, session_id=session_id, user_id=principal.user_id, org_id=principal.org_id)


async def _find(connection: Connection, principal: Principal, turn_id: TurnId) -> Row:
    row = await connection.fetchrow(
        TURN + " WHERE t.id = $1 AND t.user_id = $2 AND t.org_id = $3", turn_id, principal.user_id, principal.org_id
    )
    if row is None:
        raise NotFoundError("There is no such turn.", next_step=NextStep.FIND_TURN)
    return row


@dataclass(frozen=True, slots=True)
class _TurnPosition:
    """Position of a new turn in its session: time of its message, previous message, backend state."""

    at: datetime | None = None
    previous: MessageId | None = None
    state: Mapping[str, str] = field(default_factory=dict[str, str])


def _finish_args(ended: Turn, ending: Ending) -> tuple[object, ...]:
    bill = ended.bill
    return (
        ended.id,
        ending.lease_owner,
        ended.status,
        ended.end_reason,
        ended.stop_reason,
        fault_json(ended.error),
        ended.warning,
        bill.usage.input_tokens,
        bill.usage.output_tokens,
        bill.usage.cached_tokens,
        bill.usage.reasoning_tokens,
        bill.usage.cost_usd,
        bill.cost_source,
        bill.billing_may_go_on,
        to_milliseconds(bill.latency),
        to_milliseconds(bill.time_to_first_token),
        bill.model_used,
        bill.provider,
        route_json(bill),
        ended.history_dropped,
        json.dumps(dict(ending.state)),
    )
