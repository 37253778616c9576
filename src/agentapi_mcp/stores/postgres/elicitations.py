"""What 2025-era clients are being asked, in their row of `mcp_sessions`: the answer may come to another replica."""

import json
from collections.abc import Mapping

from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.jsons import json_object
from agentapi_mcp.stores.postgres.signals import CHANNEL, signal_json

_PURPOSE = "one user's MCP sessions, each statement names the user"


class PostgresElicitations:
    """Questions under `asked` in the session's state: null at first, then the answer as text, since it may hold NUL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        """Note that the client is being asked; only then an answer is kept."""
        async with self._database.as_system(_PURPOSE) as connection:
            await connection.execute(
                "UPDATE public.mcp_sessions SET mcp_state = mcp_state || jsonb_build_object("
                "'asked', coalesce(mcp_state -> 'asked', '{}') || jsonb_build_object($3::text, NULL)) "
                "WHERE session_id = $1 AND user_id = $2 AND mcp_state ->> 'transport' = 'http'",
                session_id,
                principal.user_id,
                elicitation_id,
            )

    async def answer(
        self, principal: Principal, session_id: str, elicitation_id: str, answer: Mapping[str, object]
    ) -> bool:
        """Keep the client's answer, and tell every process; False when nothing is asked, or it is answered."""
        signal = Signal(
            SignalKind.REQUEST_ANSWERED, user_id=principal.user_id, mcp_session=session_id, request_id=elicitation_id
        )
        async with self._database.as_system(_PURPOSE) as connection:
            answered = await connection.fetchval(
                "UPDATE public.mcp_sessions "
                "SET mcp_state = jsonb_set(mcp_state, ARRAY['asked', $3::text], to_jsonb($4::text)) "
                "WHERE session_id = $1 AND user_id = $2 AND mcp_state #> ARRAY['asked', $3::text] = 'null' RETURNING 1",
                session_id,
                principal.user_id,
                elicitation_id,
                json.dumps(answer),
            )
            if answered is not None:
                await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, signal_json(signal))
        return answered is not None

    async def find_answer(
        self, principal: Principal, session_id: str, elicitation_id: str
    ) -> Mapping[str, object] | None:
        """Find the client's answer."""
        async with self._database.as_system(_PURPOSE) as connection:
            text = await connection.fetchval(
                "SELECT mcp_state #>> ARRAY['asked', $3::text] FROM public.mcp_sessions "
                "WHERE session_id = $1 AND user_id = $2",
                session_id,
                principal.user_id,
                elicitation_id,
            )
        return None if text is None else json_object(text)

    async def withdraw(self, principal: Principal, session_id: str, elicitation_id: str) -> None:
        """Forget the question, and its answer."""
        async with self._database.as_system(_PURPOSE) as connection:
            await connection.execute(
                "UPDATE public.mcp_sessions SET mcp_state = mcp_state #- ARRAY['asked', $3::text] "
                "WHERE session_id = $1 AND user_id = $2",
                session_id,
                principal.user_id,
                elicitation_id,
            )
