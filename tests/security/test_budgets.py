"""Budgets through the tools: administrators set those of their organisation, and a message beyond one is not asked."""

import json
from decimal import Decimal
from pathlib import Path
from typing import cast

import pytest

from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.core.budgets.models import BudgetKind
from agentapi_mcp.presentation.errors import ERROR_META_KEY
from tests.support.connect import call, fields_of, text_of
from tests.support.peers.openai import OpenAIPeer
from tests.support.tenants import tenants

LINK = "http-2026"


def asked_of(peer: OpenAIPeer) -> list[str]:
    """Return for what the provider was asked, besides checks."""
    return [exchange.path for exchange in peer.exchanges if exchange.path.endswith("/chat/completions")]


def budgets_of(fields: dict[str, object]) -> list[dict[str, object]]:
    """Return the budgets of an answer."""
    return cast("list[dict[str, object]]", fields["budgets"])


async def test_administrators_set_budgets_and_nobody_is_asked_beyond_them(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("ann", LINK) as ann, here.client("abe", LINK) as admin:
        for member in ("ann", "vic", "bo", "narrow"):
            async with here.client(member, LINK) as client:
                refused = await call(client, "set_budget", limit_usd=0)
                assert refused.is_error
                assert "ask an administrator" in text_of(refused)
        [soft] = budgets_of(fields_of(await call(admin, "set_budget", limit_usd=0, soft=True, scope="member")))
        answered = await call(ann, "chat", agent="droid", message="hello [[echo]]")
        bill = fields_of(answered)
        assert as_object(bill["budget"]) == {
            "scope": "member",
            "period": "month",
            "hard": False,
            "limit_usd": 0.0,
            "left_usd": -cast("float", bill["cost_usd"]),
            "renews_at": soft["renews_at"],
            "exceeded": None,
        }
        assert "(Warning: Your monthly budget ($0.00) is exceeded by $" in text_of(answered)
        assert "left of your monthly budget · session_id" in text_of(answered)
        again = fields_of(await call(ann, "get_turn", turn_id=bill["turn_id"]))
        assert (again["budget"], again["warning"]) == (bill["budget"], bill["warning"])

        await call(admin, "set_budget", limit_usd=0.000001, period="day")
        asked = len(asked_of(here.peer))
        refused = await call(ann, "chat", agent="droid", message="again [[echo]]")
        assert refused.is_error
        assert "Your organisation's daily budget ($0.000001) has $0.000001 left, and this" in text_of(refused)
        assert "raised by an administrator of your organisation (`set_budget`). Nothing was asked." in text_of(refused)
        assert len(asked_of(here.peer)) == asked
        # What costs nothing exceeds nothing.
        assert fields_of(await call(ann, "chat", agent="guide", message="hello"))["status"] == "completed"
        seen = budgets_of(fields_of(await call(ann, "list_budgets")))
        assert [(each["scope"], each["period"], each["set_by"]) for each in seen] == [
            ("member", "month", "administrator"),
            ("organization", "day", "administrator"),
        ]
        async with here.client("bo", LINK) as other:
            assert budgets_of(fields_of(await call(other, "list_budgets"))) == []
            assert fields_of(await call(other, "chat", agent="droid", message="hi [[echo]]"))["status"] == "completed"
        for each in seen:
            await call(admin, "remove_budget", budget_id=each["id"])
        assert budgets_of(fields_of(await call(admin, "list_budgets"))) == []
        assert fields_of(await call(ann, "chat", agent="droid", message="again [[echo]]"))["budget"] is None


async def test_an_agents_budget_holds_for_the_guide_that_borrows_its_model(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("ann", LINK) as ann, here.client("abe", LINK) as admin:
        question = {"agent": "guide", "model": "droid/claude-3-5-sonnet", "message": "How do I set a budget? [[echo]]"}
        [set_] = budgets_of(fields_of(await call(admin, "set_budget", limit_usd=1, scope="agent", subject="droid")))
        bill = fields_of(await call(ann, "chat", **question, max_tokens=1000))
        [budget] = budgets_of(fields_of(await call(admin, "set_budget", limit_usd=0, scope="agent", subject="droid")))
        assert (budget["id"], budget["spent_usd"]) == (set_["id"], bill["cost_usd"])
        asked = len(asked_of(here.peer))
        assert "it would be refused" in text_of(await call(ann, "chat", **question, new=True, estimate=True))
        refused = await call(ann, "chat", **question, new=True)
        assert (refused.is_error, len(asked_of(here.peer))) == (True, asked)
        assert "This agent's monthly budget ($0.00)" in text_of(refused)
        # By itself it costs nothing.
        assert fields_of(await call(ann, "chat", agent="guide", message="hello"))["status"] == "completed"
        await call(admin, "remove_budget", budget_id=budget["id"])


async def test_a_budget_of_the_operator_is_not_the_administrators(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("abe", LINK) as admin:
        budget = await here.services.budgets.set_as_operator(
            here.services.principal, here.members["abe"].org_id, BudgetKind(), Decimal(7)
        )
        refused = await call(admin, "remove_budget", budget_id=str(budget))
        assert refused.is_error
        assert "no such budget of yours" in text_of(refused)
        both = budgets_of(fields_of(await call(admin, "set_budget", limit_usd=5)))
        assert {(each["limit_usd"], each["set_by"]) for each in both} == {(7.0, "operator"), (5.0, "administrator")}


async def test_a_message_is_estimated_without_asking_and_bounded_by_its_caller(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("ann", LINK) as ann:
        asked, sessions = len(asked_of(here.peer)), text_of(await call(ann, "list_sessions"))
        message = {"agent": "droid", "message": "hello [[echo]]", "max_tokens": 1000}
        estimated = await call(ann, "chat", **message, estimate=True, max_cost_usd=0.001)
        fields = fields_of(estimated)
        assert (fields["status"], fields["turn_id"], fields["session_id"]) == ("estimated", "", "")
        assert not fields["asked"]
        cost = cast("float", fields["estimated_cost_usd"])
        assert as_object(fields["error"])["code"] == "budget_exceeded"
        assert 0.001 < cost < 1
        assert "more than the $0.001 allowed: it would be refused" in text_of(estimated)
        refused = await call(ann, "chat", **message, max_cost_usd=0.001)
        assert refused.is_error
        assert "more than the $0.001 that you allow" in text_of(refused)
        told = as_object((refused.meta or {})[ERROR_META_KEY])
        assert (told["code"], told["retryable"]) == ("budget_exceeded", False)
        assert (told["needed_usd"], told["max_cost_usd"], told["budget"]) == (cost, 0.001, None)
        assert (len(asked_of(here.peer)), text_of(await call(ann, "list_sessions"))) == (asked, sessions)
        answered = fields_of(await call(ann, "chat", **message, max_cost_usd=cost))
        assert cast("float", answered["cost_usd"]) < cost


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"limit_usd": -1}, "limit_usd must be a number of at least 0"),
        ({"limit_usd": "NaN"}, "limit_usd must be a number"),
        ({"limit_usd": 1e300}, "limit_usd must be an amount in US dollars between 0 and 1,000,000,000"),
        ({"limit_usd": 1e-10}, "limit_usd must be no finer than a billionth"),
        ({"limit_usd": 1, "scope": "user"}, "subject must say which user"),
        ({"limit_usd": 1, "scope": "user", "subject": "ann"}, "subject is not an id"),
        ({"limit_usd": 1, "scope": "user", "subject": "01a22a31-a450-71c2-b763-7a1881a1e965"}, "no such user"),
        ({"limit_usd": 1, "scope": "agent", "subject": "nobody"}, "subject must be the name of an agent; there are"),
        ({"limit_usd": 1, "subject": "guide"}, "subject is for another scope"),
    ],
)
async def test_what_is_no_budget_is_refused_and_changes_nothing(
    arguments: dict[str, object], words: str, edge_home: Path, tmp_path: Path
) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("abe", LINK) as admin:
        refused = await call(admin, "set_budget", **arguments)
        assert refused.is_error
        assert words in text_of(refused)
        assert json.dumps(budgets_of(fields_of(await call(admin, "list_budgets")))) == "[]"
