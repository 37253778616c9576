"""Pending elicitations of 2025-era clients, in their row of `mcp_sessions`, since any replica may get the answer."""

import json
from collections.abc import Mapping

from typing_extensions import override

from agentapi_mcp.core.clients.ports import ElicitationStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.jsons import json_object
from agentapi_mcp.stores.postgres.signals import tell

_PURPOSE = "one user's MCP sessions, each statement names the user"


class PostgresElicitations(ElicitationStore):
    """Elicitations under `asked` in the session's state: null while pending, then the answer as JSON text."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def create(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            await connection.execute(
                # In one statement, whose row lock protects concurrent elicitations of a session from each other.
                "UPDATE public.mcp_sessions SET mcp_state = mcp_state || jsonb_build_object("
                "'asked', coalesce(mcp_state -> 'asked', '{}') || jsonb_build_object($3::text, NULL)) "
                "WHERE session_id = $1 AND user_id = $2 AND expires_at > now() AND mcp_state ->> 'transport' = 'http'",
                session_id,
                principal.user_id,
                elicitation_id,
            )

    @override
    async def answer(
        self, principal: Principal, session_id: str, elicitation_id: str, answer: Mapping[str, object]
    ) -> bool:
        signal = Signal(
            SignalKind.REQUEST_ANSWERED, user_id=principal.user_id, mcp_session=session_id, request_id=elicitation_id
        )
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            answered = await connection.fetchval(
                # JSON null is a pending elicitation: an unknown or answered one is not equal to it, so only the first
                # answer counts.
                "UPDATE public.mcp_sessions "
                "SET mcp_state = jsonb_set(mcp_state, ARRAY['asked', $3::text], to_jsonb($4::text)) "
                "WHERE session_id = $1 AND user_id = $2 AND expires_at > now() "
                "AND mcp_state #> ARRAY['asked', $3::text] = 'null' RETURNING 1",
                session_id,
                principal.user_id,
                elicitation_id,
                json.dumps(answer),  # as text, since jsonb cannot hold NUL
            )
            if answered is not None:
                await tell(connection, signal)
        return answered is not None

    @override
    async def find_answer(
        self, principal: Principal, session_id: str, elicitation_id: str
    ) -> Mapping[str, object] | None:
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            text = await connection.fetchval(
                "SELECT mcp_state #>> ARRAY['asked', $3::text] FROM public.mcp_sessions "
                "WHERE session_id = $1 AND user_id = $2",
                session_id,
                principal.user_id,
                elicitation_id,
            )
        return None if text is None else json_object(text)

    @override
    async def withdraw(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        async with self._database.as_system(_PURPOSE, user=principal.user_id) as connection:
            await connection.execute(
                "UPDATE public.mcp_sessions SET mcp_state = mcp_state #- ARRAY['asked', $3::text] "
                "WHERE session_id = $1 AND user_id = $2",
                session_id,
                principal.user_id,
                elicitation_id,
            )
