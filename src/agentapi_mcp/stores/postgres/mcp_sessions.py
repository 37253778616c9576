"""Transport sessions of 2025-era clients in `mcp_sessions`, so that any replica can serve them."""

import json
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.errors import LimitExceededError
from agentapi_mcp.base.json_values import as_list, as_object, load_json
from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.clients.ports import TransportSessionStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import SHARES, Resource, most_rows
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.stores.postgres.database import Connection, Database
from agentapi_mcp.stores.postgres.signals import tell

_PURPOSE: LiteralString = "one user's MCP sessions, each statement names the user"
# The expiry is extended at most once an hour, so that most uses are read-only.
_FIND: LiteralString = """
SELECT (mcp_state - 'asked')::text AS state, expires_at < now() + interval '23 hours' AS ages
  FROM public.mcp_sessions
 WHERE session_id = $1 AND user_id = $2 AND expires_at > now() AND mcp_state ->> 'transport' = 'http'
"""

# Subscriptions are read, changed and written back, so the row is locked in between.
_LOCK: LiteralString = """
SELECT mcp_state::text
  FROM public.mcp_sessions
 WHERE session_id = $1 AND user_id = $2 AND expires_at > now() AND mcp_state ->> 'transport' = 'http'
   FOR UPDATE
"""

# The subscriptions of a user are counted over all their sessions, whether a stream is open or not. Each row is locked,
# in one order, so that of two requests in two sessions the second one counts what the first one added. None is locked
# for a resource that this session watches already, since each lock writes to the log of the database.
_LOCK_ALL: LiteralString = """
SELECT CASE WHEN session_id = $1 THEN mcp_state::text END AS state,
       CASE WHEN jsonb_typeof(mcp_state -> 'watched') = 'array' THEN jsonb_array_length(mcp_state -> 'watched') ELSE 0
        END AS watched
  FROM public.mcp_sessions
 WHERE user_id = $2 AND expires_at > now() AND mcp_state ->> 'transport' = 'http'
   AND NOT EXISTS (
       SELECT FROM public.mcp_sessions WHERE session_id = $1 AND user_id = $2 AND mcp_state -> 'watched' ? $3)
 ORDER BY session_id
   FOR UPDATE
"""


# Limit per user; a new session ends the least recently used one.
MOST_SESSIONS = most_rows(Resource.CLIENT_SESSIONS)
_DROP_OLDEST: LiteralString = """
DELETE FROM public.mcp_sessions
 WHERE session_id IN (SELECT session_id FROM public.mcp_sessions
                       WHERE user_id = $1 AND mcp_state ->> 'transport' = 'http'
                       ORDER BY expires_at DESC OFFSET $2)
"""


class PostgresMcpSessions(TransportSessionStore):
    """Rows of `mcp_sessions` of Streamable HTTP."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def open_(self, principal: Principal, session: McpSession) -> None:
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            # One less than the limit: it makes room for the new session.
            await connection.execute(_DROP_OLDEST, principal.user_id, MOST_SESSIONS - 1)
            await connection.execute(
                "INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, oauth_data, expires_at) "
                "VALUES ($1, $2, $3::text::jsonb, '{}', now() + interval '24 hours')",
                principal.user_id,
                session.id,
                _state(session),
            )

    @override
    async def find(self, principal: Principal, session_id: str) -> McpSession | None:
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            row = await connection.fetchrow(_FIND, session_id, principal.user_id)
            if row is None:
                return None
            if row["ages"]:
                await connection.execute(
                    "UPDATE public.mcp_sessions SET expires_at = now() + interval '24 hours' "
                    "WHERE session_id = $1 AND user_id = $2",
                    session_id,
                    principal.user_id,
                )
        return _session(session_id, row["state"])

    @override
    async def watch(self, principal: Principal, session_id: str, uri: str, *, most: int, most_of_user: int) -> bool:
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            rows = await connection.fetch(_LOCK_ALL, session_id, principal.user_id, uri)
            session = next((_session(session_id, row["state"]) for row in rows if row["state"] is not None), None)
            if session is None or uri in session.watched:
                return True
            if len(session.watched) >= most:
                return False
            if (used := sum(row["watched"] for row in rows)) >= most_of_user:
                share = SHARES[Resource.SUBSCRIPTIONS]
                raise LimitExceededError(
                    f"You have {used:,} of {most_of_user:,} {share.what}; {share.mend}.", retry_after=share.wait
                )
            await _write_watched(connection, principal, session_id, session.watched | {uri})
        return True

    @override
    async def unwatch(self, principal: Principal, session_id: str, uri: str) -> None:
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            session = await _lock(connection, principal, session_id)
            if session is not None and uri in session.watched:
                await _write_watched(connection, principal, session_id, session.watched - {uri})

    @override
    async def close(self, principal: Principal, session_id: str) -> bool:
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            if await _lock(connection, principal, session_id) is None:
                return False
            await connection.execute(
                "UPDATE public.mcp_sessions SET expires_at = now() WHERE session_id = $1 AND user_id = $2",
                session_id,
                principal.user_id,
            )
            await _notify_changed(connection, principal, session_id)
        return True

    @override
    async def notify_cancelled(self, principal: Principal, session_id: str, request_id: str, departure: str) -> None:
        signal = Signal(
            SignalKind.REQUEST_CANCELLED,
            user_id=principal.user_id,
            mcp_session=session_id,
            request_id=request_id,
            departure=departure,
        )
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            await tell(connection, signal)


async def _lock(connection: Connection, principal: Principal, session_id: str) -> McpSession | None:
    state = await connection.fetchval(_LOCK, session_id, principal.user_id)
    return None if state is None else _session(session_id, state)


async def _write_watched(
    connection: Connection, principal: Principal, session_id: str, watched: frozenset[str]
) -> None:
    await connection.execute(
        "UPDATE public.mcp_sessions SET mcp_state = mcp_state || jsonb_build_object('watched', $3::text[]) "
        "WHERE session_id = $1 AND user_id = $2",
        session_id,
        principal.user_id,
        sorted(watched),
    )
    await _notify_changed(connection, principal, session_id)


async def _notify_changed(connection: Connection, principal: Principal, session_id: str) -> None:
    signal = Signal(SignalKind.MCP_SESSION_CHANGED, user_id=principal.user_id, mcp_session=session_id)
    await tell(connection, signal)


def _state(session: McpSession) -> str:
    return json.dumps(
        {
            "transport": "http",
            "client": session.client.get("name"),
            "version": session.client.get("version"),
            "protocol": session.protocol,
            "client_info": dict(session.client),
            "capabilities": dict(session.capabilities),
            "watched": sorted(session.watched),
        }
    )


def _session(session_id: str, text: str) -> McpSession:
    state = as_object(load_json(text))
    return McpSession(
        id=session_id,
        protocol=str(state["protocol"]),
        client=as_object(state["client_info"]),
        capabilities=as_object(state["capabilities"]),
        watched=frozenset(map(str, as_list(state["watched"]))),
    )
