"""The session's row lock, and recovery of turns whose lease has expired."""

from datetime import datetime
from typing import LiteralString
from uuid import UUID

from agentapi_mcp.base.errors import NextStep, NotFoundError
from agentapi_mcp.base.ids import SessionId
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.stores.postgres.database import Connection, Database
from agentapi_mcp.stores.postgres.signals import CHANNEL, signal_json

# The session's row must already be locked. The partial text becomes the assistant's message.
_SETTLE: LiteralString = """
WITH expired AS (
    UPDATE agentapi.turns
       SET status = 'interrupted', end_reason = 'lease_expired', lease_owner = NULL, lease_until = NULL,
           ended_at = clock_timestamp(),
           latency_ms = (extract(epoch FROM clock_timestamp() - created_at) * 1000)::integer,
           assistant_message_id = CASE WHEN partial_text <> '' THEN gen_random_uuid() END
     WHERE session_id = $1 AND status = 'running' AND lease_until < clock_timestamp()
    RETURNING id, session_id, user_id, org_id, assistant_message_id, partial_text
), assistant_message AS (
    INSERT INTO public.chat_messages (id, session_id, role, content, metadata, created_at)
    SELECT assistant_message_id, session_id, 'assistant', partial_text,
           jsonb_build_object('turn_id', id, 'status', 'interrupted'), $2
      FROM expired WHERE assistant_message_id IS NOT NULL
), updated_session AS (
    UPDATE public.chat_sessions SET last_message_at = $2
     WHERE id IN (SELECT session_id FROM expired WHERE assistant_message_id IS NOT NULL)
)
SELECT id, user_id, org_id FROM expired
"""


async def lock_session(connection: Connection, session_id: UUID) -> datetime | None:
    """Lock the session's row and return the time for its next message; None when there is no such session."""
    return await connection.fetchval(
        # Not now(), which is the start of the transaction: one that waited for the lock would be placed before the
        # messages that it waited for. `greatest` preserves the order when the clock is set back.
        "SELECT greatest(clock_timestamp(), coalesce(last_message_at, created_at) + interval '1 microsecond') "
        "FROM public.chat_sessions WHERE id = $1 FOR UPDATE",
        session_id,
    )


def no_session() -> NotFoundError:
    """Return the error for a missing session; one of another user is indistinguishable."""
    return NotFoundError("There is no such session.", next_step=NextStep.FIND_SESSION)


async def settle_now(database: Database, session_id: UUID) -> None:
    """Settle the session's expired turn as the program, since the reader may lack write permission."""
    async with database.as_system("settle a turn that nobody runs any more") as connection:
        await lock_session(connection, session_id)
        await settle_expired(connection, session_id=session_id)


async def settle_expired(connection: Connection, *, session_id: UUID) -> None:
    """Mark the session's turn as interrupted if its lease has expired; the session's row must be locked."""
    expired = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM agentapi.turns WHERE session_id = $1 AND status = 'running' "
        "AND lease_until < clock_timestamp())",
        session_id,
    )
    if not expired:
        return
    # The row is locked already; this reads the time of the message.
    at = await lock_session(connection, session_id)
    for row in await connection.fetch(_SETTLE, session_id, at):
        signal = Signal(
            SignalKind.ENDED,
            turn_id=row["id"],
            session_id=SessionId(session_id),
            user_id=row["user_id"],
            org_id=row["org_id"],
        )
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, signal_json(signal))
