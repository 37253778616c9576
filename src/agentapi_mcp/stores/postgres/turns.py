"""Turns in Postgres: begun once, leased to one process, and ended once."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

import asyncpg
from typing_extensions import override

from agentapi_mcp.base.errors import NextStep, NotFoundError, StoreError, StoreUnclearError
from agentapi_mcp.base.ids import SessionId, TurnId
from agentapi_mcp.base.json_texts import json_text
from agentapi_mcp.core.budgets.models import Estimate, Expense
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.models import (
    LISTED_CHARACTERS,
    AcceptedTurn,
    Defaults,
    Ending,
    FoundTurn,
    NewTurn,
    Obstacles,
    Renewal,
    RenewedLease,
    SettledTurn,
    SettlingRule,
    StaleDefaults,
    Turn,
    TurnMark,
    TurnStatus,
)
from agentapi_mcp.core.conversations.ports import TurnStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import PaidBy
from agentapi_mcp.stores.postgres.audit import event_fields
from agentapi_mcp.stores.postgres.budgets import budget_refusal, expense_claim, read_state, to_estimate
from agentapi_mcp.stores.postgres.database import Connection, Database, Row
from agentapi_mcp.stores.postgres.jsons import json_object
from agentapi_mcp.stores.postgres.orphans import find_orphans, settle
from agentapi_mcp.stores.postgres.share_refusals import share_refusal
from agentapi_mcp.stores.postgres.turn_mapping import TURN, TURN_FOUND, TURN_LISTED, cost_record, fault_record, to_turn

# The functions are versioned, since programs of several versions can share a database (0015_turn_price.sql).
_BEGIN: LiteralString = "SELECT * FROM agentapi.begin_turn_2($1, $2::text::jsonb, $3::text::jsonb, $4)"
_END: LiteralString = "SELECT * FROM agentapi.end_turn_2($1, $2::text::jsonb, $3, $4::text::jsonb)"
_ESTIMATE: LiteralString = "SELECT * FROM agentapi.estimate_turn_1($1, $2, $3, $4)"
_OF_USER: LiteralString = " WHERE t.user_id = $1 AND t.org_id = $2"
_NEWEST: LiteralString = " ORDER BY t.created_at DESC, t.id DESC LIMIT $3"
RECENT: LiteralString = f"{TURN_LISTED}{_OF_USER}{_NEWEST}"
_RECENT_OPEN: LiteralString = f"{TURN_LISTED}{_OF_USER} AND t.status IN ('running', 'input_required'){_NEWEST}"
# A beginning is a range of the primary key. An end is looked for in all turns of the user.
_IDS_LIKE: LiteralString = (
    "SELECT found.id FROM ("
    "(SELECT t.id FROM agentapi.turns t WHERE t.user_id = $1 AND t.org_id = $2 AND t.id BETWEEN $5 AND $6 LIMIT $4) "
    "UNION (SELECT t.id FROM agentapi.turns t WHERE t.user_id = $1 AND t.org_id = $2 "
    "AND right(replace(t.id::text, '-', ''), length($3)) = $3 LIMIT $4)"
    ") AS found ORDER BY found.id DESC LIMIT $4"
)
_ID_DIGITS = 32
_MARKED: dict[TurnMark, LiteralString] = {
    TurnMark.FOLLOWED: "followed_at",
    TurnMark.DELIVERED: "delivered_at",
    TurnMark.ANSWERED_RUNNING: "answered_running_at",
    TurnMark.CALLER_GONE: "caller_gone_at",
}
_MARK: dict[TurnMark, LiteralString] = {
    mark: f"UPDATE agentapi.turns SET {column} = greatest({column}, clock_timestamp() - $4::interval) "  # noqa: S608  # made of literals
    f"WHERE id = $1 AND user_id = $2 AND org_id = $3 RETURNING {column}"
    for mark, column in _MARKED.items()
}
_PARAMETERS = tuple(field.name for field in fields(Parameters))


class PostgresTurns(TurnStore):
    """The turns of all processes on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def begin(self, principal: Principal, new: NewTurn) -> AcceptedTurn | Obstacles | StaleDefaults:
        row = await self._call_begin(principal, new)
        match row["outcome"]:
            case "begun":
                return AcceptedTurn(
                    _begun(principal, new, row),
                    row["previous"],
                    {} if row["state"] is None else json.loads(row["state"]),
                    session_created=new.session_id is None,
                    following=_following(new, row),
                    replaces=new.replaces is not None,
                )
            case "stale":
                return StaleDefaults(again=new.again)
            case "no_session":
                raise no_session()
            case "ended":
                return Obstacles(same_turn=new.id)
            case _:
                return Obstacles(open_turn=row["open_turn"], keyed_turn=row["keyed_turn"], same_turn=row["same_turn"])

    async def _call_begin(self, principal: Principal, new: NewTurn) -> Row:
        shares: dict[str, object] = {str(what): most for what, most in new.most.items()}
        if new.refused:
            shares["refused"] = True
        try:
            return await self._database.call(
                principal,
                _BEGIN,
                new.defaults and _known_json(new.defaults),
                _new_json(new),
                new.message,
                claims={
                    "agentapi_shares": shares,
                    "agentapi_payment": _payment(new.paid_by),
                    "agentapi_reserve": expense_claim(new.expense),
                },
            )
        except StoreError as exc:
            refused = share_refusal(exc.__cause__) or budget_refusal(exc.__cause__, new.expense)
            if refused is not None:
                raise refused from None
            if new.again and isinstance(exc.__cause__, asyncpg.UniqueViolationError):
                # The call before, whose answer was lost, ran on, and has committed just now.
                raise StoreUnclearError("The turn was stored by an earlier call.") from exc
            raise

    @override
    async def estimate(
        self, principal: Principal, session_id: SessionId | None, agent: str, paid_by: PaidBy, expense: Expense
    ) -> Estimate:
        claims = {"agentapi_reserve": expense_claim(expense)}
        row = await self._database.call(principal, _ESTIMATE, session_id, agent, paid_by.key, claims=claims)
        if not row["session_found"]:
            raise no_session()
        return to_estimate(row)

    @override
    async def find(self, principal: Principal, turn_id: TurnId) -> FoundTurn:
        async with self._database.as_writer(principal) as connection:
            row = _found(
                await connection.fetchrow(
                    TURN_FOUND + " WHERE t.id = $1 AND t.user_id = $2 AND t.org_id = $3",
                    turn_id,
                    principal.user_id,
                    principal.org_id,
                )
            )
        return FoundTurn(
            turn=to_turn(row),
            fingerprint=row["fingerprint"],
            owner=row["lease_owner"],
            lease_is_over=row["lease_is_over"],
            owner_gone=row["owner_unlisted"] and self._database.owns_connections,
            caller_left=row["caller_left"],
            delivered=row["delivered_at"] is not None,
            age=row["age"],
            replaced_by=row["replaced_by"],
            replaces=row["replaces"],
        )

    @override
    async def get(self, principal: Principal, turn_id: TurnId) -> Turn:
        async with self._database.as_principal(principal) as connection:
            return await _read(connection, principal, turn_id)

    @override
    async def recent(self, principal: Principal, limit: int, *, only_open: bool = False) -> tuple[Turn, ...]:
        statement = _RECENT_OPEN if only_open else RECENT
        async with self._database.as_principal(principal, is_list=True) as connection:
            # One character more than are shown tells whether there are more.
            rows = await connection.fetch(statement, principal.user_id, principal.org_id, limit, LISTED_CHARACTERS + 1)
        return tuple(to_turn(row) for row in rows)

    @override
    async def ids_like(self, principal: Principal, part: str, limit: int) -> tuple[TurnId, ...]:
        first, last = (UUID(part.ljust(_ID_DIGITS, digit)) for digit in "0f")
        async with self._database.as_principal(principal, is_list=True) as connection:
            rows = await connection.fetch(_IDS_LIKE, principal.user_id, principal.org_id, part, limit, first, last)
        return tuple(TurnId(row["id"]) for row in rows)

    @override
    async def mark(
        self, principal: Principal, turn_id: TurnId, mark: TurnMark, ago: timedelta = timedelta(0)
    ) -> datetime | None:
        async with self._database.as_system(
            "what became of a turn's callers, who need not be allowed to write", user=principal.user_id
        ) as connection:
            # The system's role sees the rows of every tenant, so the statement names the owner.
            return await connection.fetchval(_MARK[mark], turn_id, principal.user_id, principal.org_id, ago)

    @override
    async def mark_delivered(self, turn_ids: Sequence[TurnId]) -> None:
        await self._database.call_as_system(
            "which answers of this process have arrived", "SELECT agentapi.mark_delivered_1($1)", list(turn_ids)
        )

    @override
    async def mark_asked(self, owner: UUID, turn_id: TurnId) -> bool:
        async with self._database.as_system("the owner of a turn is about to ask its provider") as connection:
            tag = await connection.execute(
                "UPDATE agentapi.turns SET asked_at = clock_timestamp() "
                "WHERE id = $1 AND lease_owner = $2 AND status = 'running'",
                turn_id,
                owner,
            )
        return tag != "UPDATE 0"

    @override
    async def request_cancel(self, principal: Principal, turn_id: TurnId) -> Turn:
        async with self._database.as_writer(principal) as connection:
            await connection.execute(
                # A repeated request keeps the time of the first.
                "UPDATE agentapi.turns SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()) "
                "WHERE id = $1 AND user_id = $2 AND org_id = $3 AND status IN ('running', 'input_required')",
                turn_id,
                principal.user_id,
                principal.org_id,
            )
            return await _read(connection, principal, turn_id)

    @override
    async def renew(self, owner: UUID, turn_ids: Sequence[TurnId], lease: timedelta) -> Renewal:
        async with self._database.as_system("leases of running turns") as connection:
            rows = await connection.fetch(
                # One statement for all turns of the process; it also returns what their callers did meanwhile, and the
                # time of the store's clock, also where no turn runs. A turn that somebody keeps locked is returned, and
                # not renewed: the others must not wait for it.
                "WITH own AS (SELECT id, cancel_requested_at IS NOT NULL AS cancel_requested, followed_at, "
                "answered_running_at IS NOT NULL AS answered_running FROM agentapi.turns "
                "WHERE id = ANY($2::uuid[]) AND lease_owner = $1 AND status IN ('running', 'input_required')), "
                "free AS (SELECT id FROM agentapi.turns WHERE id IN (SELECT id FROM own) FOR UPDATE SKIP LOCKED), "
                "renewed AS (UPDATE agentapi.turns SET lease_until = clock_timestamp() + $3::interval "
                "WHERE id IN (SELECT id FROM free) AND lease_owner = $1 AND status IN ('running', 'input_required')) "
                "SELECT clock_timestamp() AS at, o.id, o.cancel_requested, o.followed_at, o.answered_running "
                "FROM (SELECT) AS one LEFT JOIN own o ON true",
                owner,
                list(turn_ids),
                lease,
            )
        leases = (
            RenewedLease(
                turn_id=row["id"],
                cancel_requested=row["cancel_requested"],
                followed_at=row["followed_at"],
                answered_running=row["answered_running"],
            )
            for row in rows
            if row["id"] is not None
        )
        return Renewal(rows[0]["at"], tuple(leases))

    @override
    async def save_partial(self, principal: Principal, owner: UUID, turn_id: TurnId, text: str) -> bool:
        async with self._database.as_writer(principal) as connection:
            tag = await connection.execute(
                # Fenced by the lease: a process that lost it must not overwrite what another one settled.
                "UPDATE agentapi.turns SET partial_text = $3 "
                "WHERE id = $1 AND lease_owner = $2 AND status IN ('running', 'input_required')",
                turn_id,
                owner,
                text,
            )
        return tag != "UPDATE 0"

    @override
    async def finish(self, principal: Principal, ended: Turn, ending: Ending) -> Turn | None:
        cost = json_text(cost_record(ended.bill))
        row = await self._database.call(principal, _END, _end_json(ended, ending), ended.reply, cost)
        if row["outcome"] != "ended":
            return None
        budget = row["budget"]
        return replace(
            ended,
            bill=ended.bill if budget is None else replace(ended.bill, budget=read_state(json.loads(budget))),
            ended_at=row["ended"],
            cancel_requested_at=row["cancel_requested"],
            last_message_id=row["reply_message"] or ended.last_message_id,
            asked_at=ended.asked_at if ending.asked else None,
            saved=True,
        )

    @override
    async def owners(self) -> frozenset[UUID]:
        async with self._database.as_system("who runs turns now") as connection:
            rows = await connection.fetch(
                "SELECT DISTINCT lease_owner FROM agentapi.turns WHERE status IN ('running', 'input_required')"
            )
        return frozenset(row["lease_owner"] for row in rows)

    @override
    async def settle(self, rule: SettlingRule) -> tuple[SettledTurn, ...]:
        async with self._database.as_system("find turns that nobody runs any more") as connection:
            sessions = await find_orphans(connection, rule)
        settled: list[SettledTurn] = []
        for session_id in sessions:
            async with self._database.as_system("settle a turn that nobody runs any more") as connection:
                settled += await settle(connection, rule, [session_id])
        return tuple(settled)


def _payment(paid_by: PaidBy) -> dict[str, object]:
    """Return what note_payment reads (0020_ledger.sql)."""
    return {"by": str(paid_by.source), "provider": paid_by.provider, "key": paid_by.key}


def no_session() -> NotFoundError:
    """Return the error for a missing session; one of another user is indistinguishable."""
    return NotFoundError("There is no such session.", next_step=NextStep.FIND_SESSION)


async def _read(connection: Connection, principal: Principal, turn_id: TurnId) -> Turn:
    row = await connection.fetchrow(
        TURN + " WHERE t.id = $1 AND t.user_id = $2 AND t.org_id = $3", turn_id, principal.user_id, principal.org_id
    )
    return to_turn(_found(row))


def _found(row: Row | None) -> Row:
    if row is None:
        raise NotFoundError("There is no such turn.", next_step=NextStep.FIND_TURN)
    return row


def _begun(principal: Principal, new: NewTurn, row: Row) -> Turn:
    return Turn(
        id=new.id,
        session_id=SessionId(row["in_session"]),
        user_id=principal.user_id,
        org_id=principal.org_id,
        status=TurnStatus.RUNNING,
        agent=new.agent,
        backend=new.backend,
        model=new.model,
        message=new.message,
        reply="",
        created_at=row["began"],
        last_message_id=row["user_message"],
        asked_at=row["began_asking"],
    )


def _following(new: NewTurn, row: Row) -> Defaults | None:
    """Return what the next message of the session of a turn that has begun begins with; None where it is not known."""
    if new.defaults is None or new.again:
        return None
    known, model = new.defaults, new.model_row_name
    if (known.agent, known.model) != (new.agent, model):
        known = replace(known, agent=new.agent, model=model)
    if new.session_id is None:
        metadata = row["metadata"]
        return replace(
            known,
            session_id=SessionId(row["in_session"]),
            metadata=json_object(metadata),
            metadata_digest=row["metadata_digest"],
            size=known.size + len(metadata or ""),
        )
    return known if new.session_id == known.session_id else None


def _known_json(defaults: Defaults) -> str:
    return json_text(
        {
            "session": defaults.session_id,
            "settings": defaults.settings_digest,
            "agent": defaults.agent,
            "model": defaults.model,
            "metadata": defaults.metadata_digest,
        }
    )


def _new_json(new: NewTurn) -> str:
    return json_text(
        {
            "id": new.id,
            "message": new.message_id,
            "session": new.session_id,
            "new_session": None if new.session_id else new.new_session_id,
            "title": new.title,
            "agent_id": new.agent_id,
            "agent": new.agent,
            "backend": new.backend,
            "model_id": new.model_row_id,
            "model": new.model,
            "fingerprint": f"\\x{new.fingerprint.hex()}",
            "parameters": {name: getattr(new.parameters, name) for name in _PARAMETERS},
            "owner": new.lease_owner,
            "lease": new.lease.total_seconds(),
            "client": new.client,
            "key": new.idempotency_key,
            "join": new.join,
            "replaces": new.replaces,
            "asked": new.asked,
            "again": new.again,
            "retry": new.retry,
            "events": [event_fields(event) for event in new.events],
        }
    )


def _end_json(ended: Turn, ending: Ending) -> str:
    return json_text(
        {
            "id": ended.id,
            "session": ended.session_id,
            "owner": ending.lease_owner,
            "message": ending.message_id,
            "status": str(ended.status),
            "end_reason": ended.end_reason and str(ended.end_reason),
            "stop_reason": ended.stop_reason and str(ended.stop_reason),
            "error": fault_record(ended.error),
            "warning": ended.warning,
            "history_dropped": ended.history_dropped,
            "state": dict(ending.state),
            "asked": ending.asked,
            "caller_gone": ending.caller_gone,
            "events": [event_fields(event) for event in ending.events],
        }
    )
