"""Sessions and their messages in Postgres, with keyset pagination."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import LiteralString
from uuid import UUID

from typing_extensions import override

from agentapi_mcp.base.errors import BackendFault, ConflictError, NextStep
from agentapi_mcp.base.far_times import FIRST
from agentapi_mcp.base.ids import SessionId, TurnId
from agentapi_mcp.base.json_values import as_member
from agentapi_mcp.base.paging import Page
from agentapi_mcp.core.backends.events import StopReason
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.conversations.kept_messages import (
    REFUSED_FAULTS,
    REFUSED_STOPS,
    StoredMessage,
    TurnOutcome,
    kept_of,
)
from agentapi_mcp.core.conversations.models import Defaults, History, Message, Session, Turn, TurnStatus
from agentapi_mcp.core.conversations.ports import SessionStore
from agentapi_mcp.core.conversations.session_facts import (
    NOTHING_SAID,
    Rating,
    Report,
    SessionFacts,
    SessionFilter,
    SessionStatus,
)
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.core.usage.models import UsageSums
from agentapi_mcp.stores.postgres.database import Connection, Database, Row
from agentapi_mcp.stores.postgres.jsons import json_object
from agentapi_mcp.stores.postgres.positions import cursor_before, read_position
from agentapi_mcp.stores.postgres.signals import tell
from agentapi_mcp.stores.postgres.turn_mapping import TURN_ALONE, to_turn
from agentapi_mcp.stores.postgres.turns import no_session
from agentapi_mcp.stores.postgres.usage import sums_of

# own_message_counts looks up the session once; counting chat_messages would evaluate the policy for each message.
_FACTS: LiteralString = """f.status, f.interaction_type, f.tags, f.rating, f.usefulness, f.note, f.recorded_at,
       f.external_link, f.external_id, f.agent_elsewhere, f.model AS reported_model, f.provider,
       f.reported_input_tokens, f.reported_output_tokens, f.reported_cost_usd, f.content_preview"""
_SESSION: LiteralString = f"""
SELECT s.id, s.title, a.name AS agent, m.name AS model, s.metadata, s.created_at, s.last_message_at, {_FACTS},
       (SELECT c.messages FROM agentapi.own_message_counts c WHERE c.session_id = s.id) AS message_count
  FROM public.chat_sessions s
  LEFT JOIN agentapi.agent_names a ON a.id = s.agent_id
  LEFT JOIN agentapi.model_names m ON m.id = s.model_id
  LEFT JOIN agentapi.session_facts f ON f.session_id = s.id
 WHERE s.id = $1 AND s.user_id = $2 AND s.org_id = $3
"""  # noqa: S608  # made of literals
_SIZES: LiteralString = (
    "SELECT c.session_id, c.bytes FROM agentapi.own_message_counts c WHERE c.session_id = ANY($1::uuid[])"
)
# The turns of a session are there as long as it is, so these are the sums that the ledger has of it. By the sessions,
# which are the caller's: by the user, an index would read all of their turns for each page.
_TOTALS: LiteralString = """
SELECT t.session_id, count(*) AS turns, sum(t.input_tokens) AS input_tokens, sum(t.output_tokens) AS output_tokens,
       sum(t.cached_tokens) AS cached_tokens, sum(t.reasoning_tokens) AS reasoning_tokens,
       sum(round(t.cost_usd * 1000000000)) AS cost_nanos,
       count(*) FILTER (WHERE t.cost_usd IS NULL AND t.asked_at IS NOT NULL) AS unpriced,
       count(*) FILTER (WHERE t.status IN ('failed', 'interrupted')) AS errors, count(DISTINCT t.agent_name) AS agents,
       sum(t.latency_ms) AS latency_ms, max(t.ended_at) AS last_at
  FROM agentapi.turns t
 WHERE t.session_id = ANY($1::uuid[]) AND t.status NOT IN ('running', 'input_required')
 GROUP BY t.session_id
"""
_DEFAULTS: LiteralString = "SELECT * FROM agentapi.turn_defaults_1($1, $2)"
_LAST_MODEL: LiteralString = """
SELECT t.model_name FROM agentapi.turns t WHERE t.session_id = $1 ORDER BY t.created_at DESC, t.id DESC LIMIT 1
"""
# Uses the index agentapi_sessions_order, scanned backwards. A search looks at the kept opening of each session: whole
# messages of up to a megabyte would be read for every session of the user.
LIST: LiteralString = f"""
SELECT s.id, s.title, a.name AS agent, m.name AS model, s.metadata, s.created_at, s.last_message_at, {_FACTS},
       coalesce(s.last_message_at, s.created_at) AS at,
       (SELECT c.messages FROM agentapi.own_message_counts c WHERE c.session_id = s.id) AS message_count
  FROM public.chat_sessions s
  LEFT JOIN agentapi.agent_names a ON a.id = s.agent_id
  LEFT JOIN agentapi.model_names m ON m.id = s.model_id
  LEFT JOIN agentapi.session_facts f ON f.session_id = s.id
 WHERE s.user_id = $1 AND s.org_id = $2
   AND (coalesce(s.last_message_at, s.created_at), s.id) < ($3, $4)
   AND ($5::text IS NULL OR a.name = $5)
   AND ($6::text IS NULL OR strpos(lower(coalesce(s.title, '')), lower($6)) > 0 OR strpos(lower((
        SELECT o.opening FROM agentapi.own_openings o WHERE o.session_id = s.id
   )), lower($6)) > 0)
   AND ($8 OR coalesce(f.status, 'active') <> 'archived')
   AND ($9::text IS NULL OR $9 = ANY (f.tags))
 ORDER BY coalesce(s.last_message_at, s.created_at) DESC, s.id DESC LIMIT $7
"""  # noqa: S608  # made of literals
# The running total ends the page at its byte limit; the newest message is always included.
MESSAGES: LiteralString = """
SELECT id, session_id, role, content, created_at, tokens_in, tokens_out, metadata
  FROM (SELECT id, session_id, role, content, created_at, tokens_in, tokens_out, metadata,
               sum(octet_length(content)) OVER newest AS bytes, row_number() OVER newest AS place
          FROM (SELECT id, session_id, role, coalesce(content, '') AS content, created_at, tokens_in, tokens_out,
                       metadata
                  FROM public.chat_messages
                 WHERE session_id = $1 AND (created_at, id) < ($2, $3)
                 ORDER BY created_at DESC, id DESC LIMIT $4) page
        WINDOW newest AS (ORDER BY created_at DESC, id DESC)) counted
 WHERE bytes <= $5 OR place = 1
 ORDER BY created_at DESC, id DESC
"""
# What no prompt holds takes no room and is not counted (core/conversations/kept_messages.py has the lists $4 and $5),
# except for the message that a turn asked again takes over from the one that it replaces. The messages that fit come
# first, then the turns that began since the oldest of them: in a join, the planner, who cannot know how many there are,
# would compare each message with each turn.
_HISTORY: LiteralString = """
WITH bound AS (
    SELECT u.created_at, u.id FROM agentapi.turns t JOIN public.chat_messages u ON u.id = t.user_message_id
     WHERE t.id = $2
), never AS MATERIALIZED (
    SELECT unnest(CASE WHEN EXISTS (SELECT FROM agentapi.turns r
                                     WHERE r.id = t.replaced_by AND r.user_message_id = t.user_message_id)
                       THEN ARRAY[t.assistant_message_id]
                       ELSE ARRAY[t.user_message_id, t.assistant_message_id] END) AS id
      FROM agentapi.turns t
     WHERE t.session_id = $1
       AND (t.replaced_by IS NOT NULL OR (t.status <> 'completed' AND t.assistant_message_id IS NULL)
            OR t.error ->> 'fault' = ANY($4::text[]) OR t.stop_reason = ANY($5::text[]))
), fitting AS (
    SELECT id, role, content, created_at,
           sum(octet_length(content)) OVER (ORDER BY created_at DESC, id DESC) AS bytes
      FROM (SELECT c.id, c.role, coalesce(c.content, '') AS content, c.created_at FROM public.chat_messages c, bound
             WHERE c.session_id = $1 AND (c.created_at, c.id) < (bound.created_at, bound.id)
               AND c.id NOT IN (SELECT n.id FROM never n WHERE n.id IS NOT NULL)
             ORDER BY c.created_at DESC, c.id DESC LIMIT 1000) newest
), counted AS (
    SELECT count(*) AS total FROM public.chat_messages c, bound
     WHERE c.session_id = $1 AND (c.created_at, c.id) < (bound.created_at, bound.id)
       AND c.id NOT IN (SELECT n.id FROM never n WHERE n.id IS NOT NULL)
)
SELECT f.created_at, f.id, f.role, f.content, counted.total, NULL AS status, NULL AS fault, NULL AS stop_reason,
       NULL::uuid AS user_message_id, NULL::uuid AS assistant_message_id
  FROM counted LEFT JOIN fitting f ON f.bytes <= $3
UNION ALL
SELECT NULL, t.id, NULL, NULL, NULL, t.status, t.error ->> 'fault', t.stop_reason, t.user_message_id,
       t.assistant_message_id
  FROM agentapi.turns t
 WHERE t.session_id = $1 AND t.replaced_by IS NULL
   AND t.created_at >= (SELECT min(f.created_at) FROM fitting f WHERE f.bytes <= $3)
 ORDER BY created_at, id
"""
_REFUSED = ([str(fault) for fault in REFUSED_FAULTS], [str(reason) for reason in REFUSED_STOPS])
_ROLES = {**{str(role): role for role in MessageRole}, "human": MessageRole.USER, "ai": MessageRole.ASSISTANT}


class PostgresSessions(SessionStore):
    """The sessions of one principal at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def get(self, principal: Principal, session_id: SessionId) -> Session:
        async with self._database.as_principal(principal) as connection:
            session = await read_session(connection, principal, session_id)
            [totalled] = await with_totals(connection, [session])
        return totalled

    @override
    async def defaults(self, principal: Principal, session_id: SessionId | None) -> Defaults:
        row = await self._database.call_to_read(principal, _DEFAULTS, session_id)
        if not row["session_found"]:
            raise no_session()
        return Defaults(
            session_id=session_id,
            settings=json_object(row["settings"]),
            agent=row["agent"],
            model=row["model"],
            metadata=json_object(row["metadata"]),
            settings_digest=row["settings_digest"],
            metadata_digest=row["metadata_digest"],
            size=len(row["settings"] or "") + len(row["metadata"] or ""),
        )

    @override
    async def last_model(self, principal: Principal, session_id: SessionId) -> str | None:
        async with self._database.as_principal(principal, session_id=session_id) as connection:
            return await connection.fetchval(_LAST_MODEL, session_id)

    @override
    async def list_(
        self, principal: Principal, wanted: SessionFilter, *, cursor: str | None, limit: int
    ) -> Page[Session]:
        tag = None if wanted.tag is None else " ".join(wanted.tag.split()).lower()
        scope = json.dumps(["sessions", wanted.agent, wanted.query, tag, wanted.archived])
        at, id_ = read_position(cursor, scope, principal)
        # Planned once for all arguments: with the policies, planning took as long as reading.
        async with self._database.as_principal(principal, plan_once=True, is_list=True) as connection:
            # One row more than the page tells whether there is another page.
            rows = await connection.fetch(
                LIST,
                principal.user_id,
                principal.org_id,
                at,
                id_,
                wanted.agent,
                wanted.query or None,
                limit + 1,
                wanted.archived,
                tag,
            )
            items = await with_totals(connection, [_to_session(row) for row in rows[:limit]])
        more = None
        if len(rows) > limit:
            last = rows[limit - 1]
            more = cursor_before(last["at"], last["id"], scope, principal)
        return Page(items, more)

    @override
    async def sizes(self, principal: Principal, session_ids: Sequence[SessionId]) -> Mapping[SessionId, int]:
        async with self._database.as_principal(principal, plan_once=True, is_list=True) as connection:
            rows = await connection.fetch(_SIZES, list(session_ids))
        return {SessionId(row["session_id"]): int(row["bytes"]) for row in rows}

    @override
    async def messages(
        self, principal: Principal, session_id: SessionId, *, cursor: str | None, limit: int, max_bytes: int
    ) -> Page[Message]:
        scope = f"messages {session_id}"
        at, id_ = read_position(cursor, scope, principal)
        async with self._database.as_principal(principal, session_id=session_id) as connection:
            await read_session(connection, principal, session_id)
            rows = await connection.fetch(MESSAGES, session_id, at, id_, limit, max_bytes)
            turns = await _turns(connection, session_id, rows)
            older = bool(rows) and await connection.fetchval(
                "SELECT EXISTS (SELECT FROM public.chat_messages "
                "WHERE session_id = $1 AND (created_at, id) < ($2, $3))",
                session_id,
                rows[-1]["created_at"],
                rows[-1]["id"],
            )
        more = None
        if older:
            more = cursor_before(rows[-1]["created_at"], rows[-1]["id"], scope, principal)
        return Page(tuple(_to_message(row, turns.get(row["id"])) for row in reversed(rows)), more)

    @override
    async def history(self, principal: Principal, session_id: SessionId, before: TurnId, max_bytes: int) -> History:
        async with self._database.as_principal(principal, session_id=session_id) as connection:
            rows = await connection.fetch(_HISTORY, session_id, before, max_bytes, *_REFUSED)
        stored = _to_stored(rows)
        messages, unfinished = kept_of(stored)
        return History(messages, rows[0]["total"] - len(stored), unfinished=unfinished)

    @override
    async def rename(self, principal: Principal, session_id: SessionId, title: str) -> None:
        async with self._database.as_writer(principal) as connection:
            await read_session(connection, principal, session_id)
            await connection.execute("UPDATE public.chat_sessions SET title = $2 WHERE id = $1", session_id, title)
            await notify_changed(connection, principal, session_id)

    @override
    async def delete(self, principal: Principal, session_id: SessionId) -> None:
        async with self._database.as_writer(principal) as connection:
            await read_session(connection, principal, session_id)
            running = await connection.fetchval(
                "SELECT id FROM agentapi.turns WHERE session_id = $1 AND status IN ('running', 'input_required')",
                session_id,
            )
            if running is not None:
                raise ConflictError(
                    f"The turn {running} is running in this session.",
                    turn_id=str(running),
                    next_step=NextStep.WAIT_OR_CANCEL,
                )
            await connection.execute("DELETE FROM public.chat_sessions WHERE id = $1", session_id)
            await notify_changed(connection, principal, session_id)


async def read_session(connection: Connection, principal: Principal, session_id: SessionId) -> Session:
    """Read a session of the principal's.

    Raises:
        NotFoundError: there is none.
    """
    row = await connection.fetchrow(
        _SESSION,
        session_id,
        principal.user_id,
        principal.org_id,
    )
    if row is None:
        raise no_session()
    return _to_session(row)


async def with_totals(connection: Connection, sessions: Sequence[Session]) -> tuple[Session, ...]:
    """Return sessions of the principal's with the sums of their turns that have ended."""
    ids = [session.id for session in sessions]
    rows = await connection.fetch(_TOTALS, ids) if ids else []
    found = {row["session_id"]: sums_of(row) for row in rows}
    return tuple(replace(session, totals=found.get(session.id, UsageSums())) for session in sessions)


async def _turns(connection: Connection, session_id: SessionId, rows: Sequence[Row]) -> dict[UUID, Turn]:
    ids = [row["id"] for row in rows]
    found = await connection.fetch(
        TURN_ALONE + " WHERE t.session_id = $1 AND (t.user_message_id = ANY($2::uuid[]) "
        "OR t.assistant_message_id = ANY($2::uuid[])) ORDER BY t.created_at, t.id",
        session_id,
        ids,
    )
    texts = {row["id"]: row["content"] for row in rows}
    turns: dict[UUID, Turn] = {}
    for row in found:
        sent, replied = texts.get(row["user_message_id"]), texts.get(row["assistant_message_id"])
        turn = to_turn(row)
        turn = replace(turn, message=sent or "", reply=turn.reply if replied is None else replied)
        turns[row["user_message_id"]] = turn
        if row["assistant_message_id"] is not None:
            turns[row["assistant_message_id"]] = turn
    return turns


async def notify_changed(connection: Connection, principal: Principal, session_id: SessionId) -> None:
    """Tell all processes that a session has changed; the last statement of the transaction."""
    signal = Signal(
        SignalKind.SESSIONS_CHANGED, session_id=session_id, user_id=principal.user_id, org_id=principal.org_id
    )
    # Signals are the program's, and no role that works for a user may write one.
    await connection.execute("SELECT set_config('role', 'agentapi_system', true)")
    await tell(connection, signal)


def _role(row: Row) -> MessageRole:
    # Other programs may write other roles; an unknown one must never be read as a system message.
    return _ROLES.get(row["role"], MessageRole.TOOL)


def _to_stored(rows: Sequence[Row]) -> list[StoredMessage]:
    """Read the messages, and the turns behind them; where no message fits, there is one row with the total alone."""
    ends, stored = dict[UUID, tuple[TurnId, TurnOutcome]](), list[StoredMessage]()
    for row in rows:
        if row["status"] is not None:
            fault, stop = as_member(BackendFault, row["fault"]), as_member(StopReason, row["stop_reason"])
            end = row["id"], TurnOutcome(TurnStatus(row["status"]), fault, stop)
            ends[row["user_message_id"]] = ends[row["assistant_message_id"]] = end
    for row in rows:
        if row["role"] is not None:
            turn_id, outcome = ends.get(row["id"], (None, None))
            stored.append(StoredMessage(HistoryMessage(_role(row), row["content"]), turn_id, outcome))
    return stored


def _to_session(row: Row) -> Session:
    return Session(
        id=row["id"],
        title=row["title"],
        agent=row["agent"] or row["agent_elsewhere"],
        model=row["model"] or row["reported_model"],
        metadata=json_object(row["metadata"]),
        created_at=row["created_at"] or FIRST,  # other programs may leave it empty
        last_message_at=row["last_message_at"],
        message_count=row["message_count"],
        facts=NOTHING_SAID if row["status"] is None else _to_facts(row),
    )


def _to_facts(row: Row) -> SessionFacts:
    report = Report(
        external_link=row["external_link"],
        external_id=row["external_id"],
        agent=row["agent_elsewhere"],
        model=row["reported_model"],
        provider=row["provider"],
        input_tokens=row["reported_input_tokens"],
        output_tokens=row["reported_output_tokens"],
        cost_usd=row["reported_cost_usd"],
        content_preview=row["content_preview"],
    )
    return SessionFacts(
        status=SessionStatus(row["status"]),
        interaction_type=row["interaction_type"],
        tags=tuple(row["tags"]),
        rating=Rating(rating=row["rating"], usefulness=row["usefulness"], note=row["note"]),
        report=None if row["recorded_at"] is None else report,
    )


def _to_message(row: Row, turn: Turn | None) -> Message:
    return Message(
        id=row["id"],
        session_id=row["session_id"],
        role=_role(row),
        content=row["content"],
        created_at=row["created_at"],
        tokens_in=row["tokens_in"],
        tokens_out=row["tokens_out"],
        metadata=json_object(row["metadata"]),
        turn=turn,
    )
