"""MCP clients of users in `mcp_sessions`, one row each, with an id derived from user, organisation and client."""

import json
from collections.abc import Callable, Sequence
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.core.clients.models import ClientState, State, client_session_id
from agentapi_mcp.core.clients.ports import ClientStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Resource, most_rows
from agentapi_mcp.stores.postgres.database import Connection, Database
from agentapi_mcp.stores.postgres.jsons import json_object

_PURPOSE: LiteralString = "one user's MCP clients, each statement names the user"
# Rows that this program wrote hold the client's protocol; all others belong to other programs. An expired one counts as
# deleted, and a job deletes it later.
_IS_EXPIRED: LiteralString = "(expires_at < now() AND mcp_state ? 'protocol')"
_MERGE: LiteralString = f"""
UPDATE public.mcp_sessions
   SET mcp_state = CASE WHEN {_IS_EXPIRED} THEN '{{}}' ELSE coalesce(mcp_state, '{{}}') END || $3::text::jsonb,
       updated_at = now(), expires_at = now() + interval '30 days'
 WHERE user_id = $1 AND session_id = $2
"""  # noqa: S608  # made of literals
# Limit per user; a new client makes room by removing the one that was used least recently, of those with preferences
# last. Rows without a protocol, and what they hold in oauth_data, are not this program's clients and stay.
MOST_CLIENTS = most_rows(Resource.CLIENTS)
_INSERT: LiteralString = """
WITH dropped AS (
    DELETE FROM public.mcp_sessions
     WHERE session_id IN (SELECT session_id FROM public.mcp_sessions
                           WHERE user_id = $1 AND mcp_state ? 'protocol' AND NOT mcp_state ? 'transport'
                           ORDER BY mcp_state ?| '{defaults,agents}' DESC, expires_at DESC, session_id OFFSET $4)
)
INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, oauth_data, expires_at)
VALUES ($1, $2, $3::text::jsonb, '{}', now() + interval '30 days')
    ON CONFLICT DO NOTHING
"""
# The expiry is extended at most once a day, so that most uses are read-only.
_FIND: LiteralString = """
SELECT mcp_state::text AS state, expires_at < now() + interval '29 days' AS ages
  FROM public.mcp_sessions
 WHERE user_id = $1 AND session_id = $2 AND expires_at > now()
"""
_PROLONG: LiteralString = """
UPDATE public.mcp_sessions SET expires_at = now() + interval '30 days' WHERE user_id = $1 AND session_id = $2
"""
_LIST: LiteralString = """
SELECT session_id, mcp_state::text AS state
  FROM public.mcp_sessions
 WHERE user_id = $1 AND starts_with(session_id, $2) AND expires_at > now()
 ORDER BY session_id
 LIMIT 200
"""
# Other programs write one MCP server in a row, under a session_id of their own.
_OTHERS: LiteralString = """
SELECT mcp_state::text AS state
  FROM public.mcp_sessions
 WHERE user_id = $1 AND mcp_state ? 'mcp_name' AND NOT mcp_state ? 'protocol' AND coalesce(expires_at > now(), true)
 ORDER BY expires_at DESC NULLS FIRST, session_id
 LIMIT 200
"""
_LOCK: LiteralString = f"""
SELECT mcp_state::text AS state, {_IS_EXPIRED} AS is_expired
  FROM public.mcp_sessions WHERE user_id = $1 AND session_id = $2 FOR UPDATE
"""  # noqa: S608  # made of literals
_WRITE: LiteralString = """
UPDATE public.mcp_sessions
   SET mcp_state = $3::text::jsonb, updated_at = now(), expires_at = now() + interval '30 days'
 WHERE user_id = $1 AND session_id = $2
"""


class PostgresClients(ClientStore):
    """Client rows, which expire thirty days after the client's last use."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def record(self, principal: Principal, client: str, state: State) -> None:
        """Record a client's use, merging its state unless that has expired."""
        known = (principal.user_id, client_session_id(principal, client), json.dumps(dict(state)))
        async with self._database.as_system("which MCP client a user has", user=principal.user_id) as connection:
            # If another process inserts the row meanwhile, `_INSERT` does nothing.
            if await connection.execute(_MERGE, *known) == "UPDATE 0":
                await connection.execute(_INSERT, *known, MOST_CLIENTS - 1)

    @override
    async def find(self, principal: Principal, client: str) -> ClientState:
        own = (principal.user_id, client_session_id(principal, client))
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            row = await connection.fetchrow(_FIND, *own)
            if row is not None and row["ages"]:
                await connection.execute(_PROLONG, *own)
            others = await _others(connection, principal)
        return ClientState({} if row is None else json_object(row["state"]), others)

    @override
    async def list_(self, principal: Principal) -> Sequence[tuple[str, ClientState]]:
        begin = client_session_id(principal, "")
        async with self._database.as_system(_PURPOSE, user=principal.user_id, is_list=True) as connection:
            rows = await connection.fetch(_LIST, principal.user_id, begin)
            others = await _others(connection, principal)
        return [(row["session_id"].removeprefix(begin), ClientState(json_object(row["state"]), others)) for row in rows]

    @override
    async def change(self, principal: Principal, client: str, edit: Callable[[State], State]) -> ClientState:
        own = (principal.user_id, client_session_id(principal, client))
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            changed = edit(json_object(await _locked(connection, *own, client)))
            await connection.execute(_WRITE, *own, json.dumps(dict(changed)))
            others = await _others(connection, principal)
        return ClientState(changed, others)


async def _others(connection: Connection, principal: Principal) -> tuple[State, ...]:
    """Read what other programs wrote for the user; an object is empty where it is none."""
    rows = await connection.fetch(_OTHERS, principal.user_id)
    return tuple(json_object(row["state"]) for row in rows)


async def _locked(connection: Connection, user_id: object, session_id: str, client: str) -> str | None:
    """Return a client's state with its row locked for this transaction; create the row if needed."""
    new = json.dumps({"client": client, "protocol": None})
    row = await connection.fetchrow(_LOCK, user_id, session_id)
    if row is None:
        # A concurrent insert may win; the second SELECT locks the row of either.
        await connection.execute(_INSERT, user_id, session_id, new, MOST_CLIENTS - 1)
        row = await connection.fetchrow(_LOCK, user_id, session_id)
    if row is None:
        return None
    return new if row["is_expired"] else row["state"]
