"""What is published of a turn's cost: every field, once, in one shape."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId
from agentapi_mcp.cli.chat.bills import Bills
from agentapi_mcp.core.backends.events import StopReason, Usage
from agentapi_mcp.core.budgets.models import BudgetLeft, BudgetState, Estimate
from agentapi_mcp.core.conversations.models import EndReason, RouteStep, Turn, TurnCost, TurnFault, TurnStatus
from agentapi_mcp.core.keys.models import KeySource
from agentapi_mcp.presentation.budgets import describe_estimate
from agentapi_mcp.presentation.costs import cost_json, read_cost
from agentapi_mcp.presentation.models import TurnOut
from agentapi_mcp.presentation.turns import describe_turn, turn_fields, turn_json, warning_of
from tests.support.records import filled, leaves, without_new

BEGAN = datetime(2026, 7, 1, 12, tzinfo=UTC)
STEP = RouteStep(
    agent="droid",
    backend="openai",
    model=None,
    outcome="rate_limit",
    latency=timedelta(microseconds=1234567),
    key=KeySource.USER,
)
COST = TurnCost(
    usage=Usage(input_tokens=1200, output_tokens=34, cached_tokens=5, reasoning_tokens=6, cost_usd=Decimal("0.000125")),
    cost_source="price list of 2026-07-01",
    billing_may_go_on=True,
    latency=timedelta(microseconds=1234567),
    time_to_first_token=timedelta(milliseconds=56),
    model_used="vendor/m",
    provider="vendor",
    budget=BudgetState(
        scope="member",
        period="day",
        limit_usd=Decimal(5),
        left_usd=Decimal("4.5"),
        renews_at="2026-07-02T00:00:00Z",
    ),
    route=(STEP,),
)
TURN = Turn(
    id=TurnId(UUID(int=1)),
    session_id=SessionId(UUID(int=2)),
    user_id=UserId(UUID(int=3)),
    org_id=OrgId(UUID(int=4)),
    status=TurnStatus.FAILED,
    agent="droid",
    backend="openai",
    model="m",
    message="hello",
    reply="so",
    created_at=BEGAN,
    ended_at=BEGAN + timedelta(minutes=1),
    stop_reason=StopReason.LENGTH,
    end_reason=EndReason.FAULT,
    error=TurnFault(BackendFault.RATE_LIMIT, "Busy.", "Wait.", retryable=True, retry_after=timedelta(seconds=1.5)),
    bill=COST,
    history_dropped=3,
    warning="short",
    asked_at=BEGAN,
)
# Programs read these: what is here stays, in this order, and more may come.
COST_TEXT = (
    '"usage": {"input_tokens": 1200, "output_tokens": 34, "cached_tokens": 5, "reasoning_tokens": 6}, '
    '"cost_usd": 0.000125, "cost_source": "price list of 2026-07-01", "billing_may_go_on": true, "latency_ms": 1235, '
    '"time_to_first_token_ms": 56, "model_used": "vendor/m", "provider": "vendor", '
    '"budget": {"scope": "member", "period": "day", "hard": true, "limit_usd": 5.0, "left_usd": 4.5, '
    '"renews_at": "2026-07-02T00:00:00Z"}, "route": [{"agent": "droid", '
    '"backend": "openai", "model": null, "outcome": "rate_limit", "milliseconds": 1235, "key": "user"}]'
)
ERROR_TEXT = (
    '"error": {"code": "rate_limit", "message": "Busy.", "next_step": "Wait.", "retryable": true, '
    '"retry_after_seconds": 1.5}'
)
TOOL_TEXT = (
    '{"session_id": "00000000-0000-0000-0000-000000000002", "turn_id": "00000000-0000-0000-0000-000000000001", '
    '"status": "failed", "joined": false, "asked": true, "reply": "so", "reply_truncated": false, "agent": "droid", '
    f'"backend": "openai", "model": "m", {COST_TEXT}, '
    '"estimated_cost_usd": null, "history_dropped": 3, "warning": "short", "end_reason": "fault", '
    '"saved": true, "transcript_uri": "agentapi://chat/sessions/00000000-0000-0000-0000-000000000002/transcript", '
    f'"next_step": "Wait.", {ERROR_TEXT}}}'
)
TRANSCRIPT_TEXT = (
    '{"id": "00000000-0000-0000-0000-000000000001", "status": "failed", "agent": "droid", "backend": "openai", '
    '"model": "m", "end_reason": "fault", "stop_reason": "length", "created_at": "2026-07-01T12:00:00Z", '
    f'"ended_at": "2026-07-01T12:01:00Z", {ERROR_TEXT}, "warning": "short", "history_dropped": 3, {COST_TEXT}}}'
)


def published(turn: Turn) -> dict[str, object]:
    return turn_fields(turn, turn.reply, text="[droid]", truncated=False, next_step="Wait.")


def as_published(value: object) -> object:
    """Return what stands for this value in JSON."""
    if isinstance(value, timedelta):
        return value // timedelta(milliseconds=1)
    return float(value) if isinstance(value, Decimal) else value


@pytest.mark.parametrize(("publish", "known"), [(published, TOOL_TEXT), (turn_json, TRANSCRIPT_TEXT)])
def test_what_programs_know_of_a_turn_has_not_changed(publish: Callable[[Turn], dict[str, object]], known: str) -> None:
    assert json.dumps(without_new(publish(TURN), json.loads(known))) == known


def test_what_tools_answer_is_what_commands_print() -> None:
    for turn in (TURN, replace(TURN, bill=filled(TurnCost)), replace(TURN, bill=TurnCost(), error=None)):
        fields = published(turn)
        assert json.dumps(TurnOut.model_validate(fields).model_dump(mode="json")) == json.dumps(fields)


def test_every_value_of_a_cost_is_published_once() -> None:
    cost = filled(TurnCost)
    assert Counter(leaves(cost_json(cost))) == Counter(map(as_published, leaves(cost)))


def test_tools_and_transcripts_publish_the_whole_cost() -> None:
    turn = replace(TURN, bill=filled(TurnCost))
    cost = cost_json(turn.bill)
    assert cost.items() <= turn_json(turn).items()
    assert cost.items() <= published(turn).items()
    assert cost.keys() <= TurnOut.model_fields.keys()


def test_the_published_cost_is_read_back_equal() -> None:
    for cost in (filled(TurnCost), TurnCost()):
        assert read_cost(json.loads(json.dumps(cost_json(cost)))) == cost


def test_an_unknown_fault_is_published_as_internal() -> None:
    assert turn_json(replace(TURN, error=TurnFault(None, "The server failed.", "Send it again.")))["error"] == {
        "code": "internal",
        "message": "The server failed.",
        "next_step": "Send it again.",
        "retryable": False,
        "retry_after_seconds": None,
    }


@pytest.mark.parametrize(
    ("dropped", "said"),
    [(0, None), (1, "1 older message not sent"), (2, "2 older messages not sent")],
)
def test_the_line_says_how_many_older_messages_were_not_sent(dropped: int, said: str | None) -> None:
    parts = describe_turn(replace(TURN, history_dropped=dropped)).split(" · ")
    assert [part for part in parts if "older" in part] == ([] if said is None else [said])


def test_a_soft_budget_that_is_used_up_is_a_warning_beside_what_is_left_of_another() -> None:
    spent = BudgetLeft(scope="organization", period="month", hard=False, limit_usd=Decimal(1), left_usd=Decimal("-0.5"))
    assert COST.budget is not None
    turn = replace(TURN, bill=replace(COST, budget=replace(COST.budget, exceeded=spent)))
    warning = "Your organisation's monthly budget ($1.00) is exceeded by $0.50; it does not renew."
    assert warning_of(turn) == f"short. {warning}"
    assert "$4.50 left of your daily budget" in describe_turn(turn)
    bills = Bills()
    bills.add(published(turn))
    assert bills.summary()[-2:] == ["$4.50 left of your daily budget; it renews at 2026-07-02 00:00 UTC.", warning]
    estimate = Estimate(cost_usd=Decimal(0), reserved_usd=Decimal(0), budget=turn.bill.budget, refused=False)
    assert warning in describe_estimate(estimate, "droid", None)
    # Alone it is told once.
    bills.add(published(replace(TURN, bill=replace(COST, budget=BudgetState(**asdict(spent))))))
    assert [line for line in bills.summary() if "budget" in line] == [warning]
