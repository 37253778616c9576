"""Mapping between rows of `agentapi.turns` and turns."""

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Any, LiteralString, TypeVar

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.json_records import from_json, to_json
from agentapi_mcp.base.json_values import as_member, as_object
from agentapi_mcp.core.backends.events import StopReason
from agentapi_mcp.core.conversations.models import EndReason, Turn, TurnCost, TurnFault, TurnStatus
from agentapi_mcp.stores.postgres.database import APPLICATION, Row

CostT = TypeVar("CostT", bound=TurnCost)

# The fields of a cost that have columns of their own, beside `route`; all others are in `cost_details`.
COST_COLUMNS: tuple[LiteralString, ...] = (
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_usd",
    "cost_source",
    "billing_may_go_on",
    "latency_ms",
    "time_to_first_token_ms",
    "model_used",
    "provider",
)
_COST: LiteralString = "t." + ", t.".join(COST_COLUMNS)
_FACTS: LiteralString = f"""
SELECT t.id, t.session_id, t.user_id, t.org_id, t.status, t.agent_name, t.backend, t.model_name,
       t.cancel_requested_at, t.end_reason, t.stop_reason, t.error, t.warning, t.history_dropped, t.created_at,
       t.ended_at, t.user_message_id, t.assistant_message_id, t.delivered_at, t.asked_at,
       {_COST}, t.route, t.cost_details,
"""
_COLUMNS: LiteralString = f"{_FACTS} t.partial_text,"
_MESSAGES: LiteralString = """
  FROM agentapi.turns t
  JOIN public.chat_messages u ON u.id = t.user_message_id
  LEFT JOIN public.chat_messages a ON a.id = t.assistant_message_id
"""
_WITH_MESSAGES: LiteralString = f" u.content AS message, a.content AS reply {_MESSAGES}"
TURN: LiteralString = f"{_COLUMNS}{_WITH_MESSAGES}"
# For lists: the first $4 characters of the texts, of which Postgres then reads no more.
TURN_LISTED: LiteralString = f"""{_FACTS} left(t.partial_text, $4) AS partial_text,
       left(u.content, $4) AS message, left(a.content, $4) AS reply
{_MESSAGES}"""
# With what is known of its owner and its callers, for the writer, who alone may read that.
TURN_FOUND: LiteralString = f"""{_COLUMNS}
       t.fingerprint, t.lease_owner, t.replaced_by, coalesce(t.lease_until < clock_timestamp(), false) AS lease_is_over,
       coalesce(greatest(t.caller_gone_at, t.answered_running_at) > coalesce(t.followed_at, '-infinity'), false)
           AS caller_left,
       clock_timestamp() - t.created_at AS age,
       EXISTS (SELECT FROM agentapi.turns o WHERE o.session_id = t.session_id AND o.replaced_by = t.id) AS replaces,
       -- Its connections end with it, and everybody may read their names (database.py).
       t.lease_owner IS NOT NULL
           AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = '{APPLICATION}' || t.lease_owner)
           AS owner_unlisted,
{_WITH_MESSAGES}"""  # noqa: S608  # made of literals
# For queries that read the messages separately.
TURN_ALONE: LiteralString = f"{_COLUMNS} '' AS message, NULL AS reply FROM agentapi.turns t"


def to_turn(row: Row) -> Turn:
    """Convert a row selected by TURN."""
    return Turn(
        id=row["id"],
        session_id=row["session_id"],
        user_id=row["user_id"],
        org_id=row["org_id"],
        status=TurnStatus(row["status"]),
        agent=row["agent_name"],
        backend=row["backend"],
        model=row["model_name"],
        message=row["message"],
        # A running turn has no message yet; its text so far is in its own row.
        reply=row["partial_text"] if row["reply"] is None else row["reply"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
        # Of a later version of the program, these may be reasons that this one does not know.
        stop_reason=as_member(StopReason, row["stop_reason"]),
        end_reason=as_member(EndReason, row["end_reason"]),
        error=_fault(row["error"]),
        bill=to_cost(row, TurnCost),
        history_dropped=row["history_dropped"],
        cancel_requested_at=row["cancel_requested_at"],
        warning=row["warning"],
        last_message_id=row["assistant_message_id"] or row["user_message_id"],
        asked_at=row["asked_at"],
    )


def to_cost(row: Row, record: type[CostT]) -> CostT:
    """Convert the columns of a cost; what has no column is in `cost_details`, in part unknown to this version."""
    values: dict[str, object] = {**json.loads(row["cost_details"]), **{name: row[name] for name in COST_COLUMNS}}
    return from_json(record, {**values, "route": json.loads(row["route"]), "usage": values})


def cost_record(cost: TurnCost) -> dict[str, object]:
    """Serialize a cost by the names of its columns; amounts are texts, to be exact."""
    fields = to_json(cost)
    fields |= as_object(fields.pop("usage"))
    return {name: fields.pop(name) for name in (*COST_COLUMNS, "route")} | {"cost_details": fields}


def fault_record(fault: TurnFault | None) -> dict[str, object] | None:
    """Serialize a fault by the names of its fields, as its column stores it."""
    if fault is None:
        return None
    stored: dict[str, object] = asdict(fault)
    stored["retry_after"] = None if fault.retry_after is None else fault.retry_after.total_seconds()
    return stored


def _fault(text: str | None) -> TurnFault | None:
    if text is None:
        return None
    stored: dict[str, Any] = json.loads(text)
    return TurnFault(
        fault=as_member(BackendFault, stored["fault"]),
        message=stored["message"],
        next_step=stored["next_step"],
        retryable=stored["retryable"],
        retry_after=None if stored["retry_after"] is None else timedelta(seconds=stored["retry_after"]),
    )
