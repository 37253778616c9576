"""What users say of their sessions and turns, in Postgres (0019_facts.sql)."""

from typing import LiteralString

import asyncpg
from typing_extensions import override

from agentapi_mcp.base.errors import ConflictError, InvalidRequestError, NextStep, NotFoundError
from agentapi_mcp.base.ids import SessionId, TurnId, new_id
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.core.conversations.ports import FactStore
from agentapi_mcp.core.conversations.session_facts import NewInteraction, Rating, Tagging, TurnRating
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Connection, Database
from agentapi_mcp.stores.postgres.sessions import notify_changed, read_session, with_totals
from agentapi_mcp.stores.postgres.share_refusals import share_refusal
from agentapi_mcp.stores.postgres.turns import no_session

# The session's row first, in the same order as everywhere: no deadlock with a turn's end, which locks the sums too.
_LOCK: LiteralString = "SELECT id FROM public.chat_sessions WHERE id = $1 AND user_id = $2 AND org_id = $3 FOR UPDATE"
_FIRST_OPEN: LiteralString = """
SELECT CASE WHEN t.status IN ('running', 'input_required') THEN t.id END
  FROM agentapi.turns t WHERE t.session_id = $1 ORDER BY t.created_at, t.id LIMIT 1
"""
_RATE_SESSION: LiteralString = """
INSERT INTO agentapi.session_facts AS f (session_id, user_id, org_id, rating, usefulness, note)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (session_id) DO UPDATE
   SET rating = CASE WHEN NOT $7 THEN coalesce($4, f.rating) END, note = CASE WHEN NOT $7 THEN coalesce($6, f.note) END,
       usefulness = CASE WHEN NOT $7 THEN coalesce($5, f.usefulness) END, updated_at = clock_timestamp()
"""
_TURN: LiteralString = """
SELECT t.session_id, t.status IN ('running', 'input_required') AS is_open
  FROM agentapi.turns t WHERE t.id = $1 AND t.user_id = $2 AND t.org_id = $3
"""
_RATE_TURN: LiteralString = """
INSERT INTO agentapi.turn_ratings AS r (turn_id, user_id, org_id, rating, note) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (turn_id) DO UPDATE
   SET rating = CASE WHEN NOT $6 THEN coalesce($4, r.rating) END, note = CASE WHEN NOT $6 THEN coalesce($5, r.note) END,
       updated_at = clock_timestamp()
RETURNING r.rating, r.note
"""
_TAGS: LiteralString = "SELECT tags FROM agentapi.session_facts WHERE session_id = $1"
_TAG: LiteralString = """
INSERT INTO agentapi.session_facts AS f (session_id, user_id, org_id, tags, interaction_type)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (session_id) DO UPDATE
   SET tags = $4, interaction_type = coalesce($5, f.interaction_type), updated_at = clock_timestamp()
"""
_ARCHIVE: LiteralString = """
INSERT INTO agentapi.session_facts AS f (session_id, user_id, org_id, status)
VALUES ($1, $2, $3, CASE WHEN $4 THEN 'archived' ELSE 'active' END)
ON CONFLICT (session_id) DO UPDATE
   SET status = CASE WHEN $4 THEN 'archived' WHEN f.recorded_at IS NULL THEN 'active' ELSE 'completed' END,
       updated_at = clock_timestamp()
"""
_FIND: LiteralString = """
SELECT f.session_id FROM agentapi.session_facts f
 WHERE f.user_id = $1 AND f.org_id = $2 AND coalesce(f.external_id, f.external_link) = $3 AND f.recorded_at IS NOT NULL
"""
_NEW_SESSION: LiteralString = """
INSERT INTO public.chat_sessions (id, user_id, org_id, agent_id, title, created_at, last_message_at)
VALUES ($1, $2, $3, (SELECT a.id FROM agentapi.agent_names a WHERE a.name = $4 LIMIT 1), $5,
        coalesce($6::timestamptz, $7, now()), coalesce($7::timestamptz, $6, now()))
"""
# The trigger enters it, where it was not there.
_RECORD: LiteralString = """
INSERT INTO agentapi.session_facts (session_id, user_id, org_id, status, interaction_type, tags, external_link,
    external_id, agent_elsewhere, model, provider, reported_input_tokens, reported_output_tokens, reported_cost_usd,
    content_preview, ended_at, recorded_at)
VALUES ($1, $2, $3, 'completed', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, coalesce($15::timestamptz, $16),
        clock_timestamp())
ON CONFLICT (user_id, org_id, coalesce(external_id, external_link))
      WHERE recorded_at IS NOT NULL AND coalesce(external_id, external_link) IS NOT NULL DO NOTHING
"""
_TYPES: LiteralString = """
SELECT id FROM agentapi.terms WHERE kind = 'interaction_type' AND is_active ORDER BY sort_order, id
"""


class _TakenError(Exception):
    """Another call has recorded the same meanwhile; what this one wrote is undone."""


class PostgresFacts(FactStore):
    """The facts of one principal at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def rate_session(
        self, principal: Principal, session_id: SessionId, rating: Rating, *, clear: bool
    ) -> Session:
        owner = principal.user_id, principal.org_id
        async with self._database.as_writer(principal) as connection:
            await _lock(connection, principal, session_id)
            running = await connection.fetchval(_FIRST_OPEN, session_id)
            if running is not None:
                raise _still_runs(running)
            said = (None, None, None) if clear else (rating.rating, rating.usefulness, rating.note)
            await connection.execute(_RATE_SESSION, session_id, *owner, *said, clear)
            return await _changed(connection, principal, session_id)

    @override
    async def rate_turn(self, principal: Principal, turn_id: TurnId, rating: Rating, *, clear: bool) -> TurnRating:
        owner = principal.user_id, principal.org_id
        async with self._database.as_writer(principal) as connection:
            turn = await connection.fetchrow(_TURN, turn_id, *owner)
            if turn is None:
                raise NotFoundError("There is no such turn.", next_step=NextStep.FIND_TURN)
            if turn["is_open"]:
                raise _still_runs(turn_id)
            await _lock(connection, principal, turn["session_id"])
            try:
                said = (None, None) if clear else (rating.rating, rating.note)
                row = await connection.fetchrow(_RATE_TURN, turn_id, *owner, *said, clear)
            except asyncpg.PostgresError as exc:
                raise share_refusal(exc) or exc from None
        if row is None:
            raise AssertionError
        return TurnRating(
            turn_id=turn_id, session_id=turn["session_id"], rating=Rating(rating=row["rating"], note=row["note"])
        )

    @override
    async def tag(self, principal: Principal, session_id: SessionId, tagging: Tagging, most: int) -> Session:
        async with self._database.as_writer(principal) as connection:
            await _lock(connection, principal, session_id)
            had: list[str] = await connection.fetchval(_TAGS, session_id) or []
            tags = [tag for tag in dict.fromkeys((*had, *tagging.add)) if tag not in tagging.remove]
            if len(tags) > max(most, len(had)):
                raise InvalidRequestError(
                    f"The session would have {len(tags)} tags; it may have {most}. Remove some that it has."
                )
            owner = principal.user_id, principal.org_id
            await connection.execute(_TAG, session_id, *owner, tags, tagging.interaction_type)
            return await _changed(connection, principal, session_id)

    @override
    async def archive(self, principal: Principal, session_id: SessionId, *, archived: bool) -> Session:
        async with self._database.as_writer(principal) as connection:
            await _lock(connection, principal, session_id)
            await connection.execute(_ARCHIVE, session_id, principal.user_id, principal.org_id, archived)
            return await _changed(connection, principal, session_id)

    @override
    async def record(self, principal: Principal, new: NewInteraction) -> tuple[Session, bool]:
        found = await self._find(principal, new)
        if found is None:
            try:
                return await self._record(principal, new), True
            except _TakenError:
                found = await self._find(principal, new)
        if found is None:
            raise NotFoundError("Another call recorded it, and it was deleted meanwhile; record it again.")
        _refuse_other(found, new)
        return found, False

    @override
    async def interaction_types(self, principal: Principal) -> tuple[str, ...]:
        async with self._database.as_principal(principal) as connection:
            return tuple(row["id"] for row in await connection.fetch(_TYPES))

    async def _find(self, principal: Principal, new: NewInteraction) -> Session | None:
        key = new.report.external_id or new.report.external_link
        async with self._database.as_writer(principal) as connection:
            session_id = await connection.fetchval(_FIND, principal.user_id, principal.org_id, key)
            return None if session_id is None else await read_session(connection, principal, session_id)

    async def _record(self, principal: Principal, new: NewInteraction) -> Session:
        session_id, report = SessionId(new_id()), new.report
        owner, times = (principal.user_id, principal.org_id), (new.started_at, new.ended_at)
        values = (
            *(new.interaction_type, list(new.tags), report.external_link, report.external_id),
            *(report.agent, report.model, report.provider, report.input_tokens, report.output_tokens),
            *(report.cost_usd, report.content_preview, new.ended_at, new.started_at),
        )
        async with self._database.as_writer(principal) as connection:
            await connection.execute(_NEW_SESSION, session_id, *owner, report.agent, new.title, *times)
            try:
                done = await connection.execute(_RECORD, session_id, *owner, *values)
            except asyncpg.PostgresError as exc:
                raise share_refusal(exc) or exc from None
            if done == "INSERT 0 0":
                raise _TakenError
            return await _changed(connection, principal, session_id)


async def _lock(connection: Connection, principal: Principal, session_id: SessionId) -> None:
    if await connection.fetchval(_LOCK, session_id, principal.user_id, principal.org_id) is None:
        raise no_session()


async def _changed(connection: Connection, principal: Principal, session_id: SessionId) -> Session:
    [session] = await with_totals(connection, [await read_session(connection, principal, session_id)])
    await notify_changed(connection, principal, session_id)
    return session


def _still_runs(turn_id: object) -> ConflictError:
    return ConflictError(
        f"The turn {turn_id} is still running; it is rated once it has ended.",
        turn_id=str(turn_id),
        next_step=NextStep.WAIT_OR_CANCEL,
    )


def _refuse_other(found: Session, new: NewInteraction) -> None:
    """Refuse a record that says something else than the one with its id, rather than drop what it says."""
    was, now = found.facts.report, new.report
    if was is None:
        raise AssertionError
    # What was left out this time is no contradiction, and what a preview says need not be repeated to the letter.
    names = ("external_link", "agent", "model", "provider", "input_tokens", "output_tokens", "cost_usd")
    told = {name: getattr(now, name) for name in names if getattr(now, name) is not None}
    differs = [name for name, value in told.items() if value != getattr(was, name)]
    if differs:
        raise ConflictError(
            f"Another conversation was recorded as this one, the session {found.id}, with another "
            f"{', '.join(differs)}. Pass another external_id for a further one, or delete that session and record it "
            "anew."
        )
