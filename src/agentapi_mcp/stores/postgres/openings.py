"""Openings of sessions: how their first messages begin, kept so that a search reads no whole messages."""

from typing import LiteralString

from agentapi_mcp.stores.postgres.database import Database

_NIL = "00000000-0000-0000-0000-000000000000"
_BATCH = 1000
# By the key, since a search for those that lack an opening would read all sessions for each batch.
_KEEP: LiteralString = """
WITH page AS (
    SELECT id FROM public.chat_sessions WHERE id > $1::text::uuid ORDER BY id LIMIT $2
), kept AS (
    INSERT INTO agentapi.session_openings (session_id, message_id, opening)
    SELECT p.id, m.id, m.opening
      FROM page p
      CROSS JOIN LATERAL (SELECT c.id, coalesce(left(c.content, 500), '') AS opening FROM public.chat_messages c
                           WHERE c.session_id = p.id ORDER BY c.created_at, c.id LIMIT 1) m
     WHERE NOT EXISTS (SELECT FROM agentapi.session_openings o WHERE o.session_id = p.id)
        ON CONFLICT DO NOTHING
    RETURNING session_id
)
SELECT (SELECT id::text FROM page ORDER BY id DESC LIMIT 1) AS last, (SELECT count(*) FROM kept) AS kept
"""


async def keep_openings(database: Database, batch: int = _BATCH) -> int:
    """Keep the openings of all sessions that lack one, each batch in a transaction of its own; return how many."""
    last: str | None = _NIL
    kept = 0
    while last is not None:
        async with database.as_system("keep the openings of sessions, whoever they belong to") as connection:
            row = await connection.fetchrow(_KEEP, last, batch)
        last = None if row is None else row["last"]
        kept += 0 if row is None else row["kept"]
    return kept
