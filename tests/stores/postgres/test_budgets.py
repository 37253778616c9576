"""Budgets: reserved where a turn begins, settled where it ends, whoever does either; never more than a hard limit."""

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from itertools import permutations
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.base.errors import BudgetExceededError, LimitExceededError, NotFoundError
from agentapi_mcp.base.ids import ApiKeyId, OrgId, new_id
from agentapi_mcp.core.budgets.models import NANOS, BudgetKind, BudgetPeriod, BudgetScope, ExpectedRates, Expense
from agentapi_mcp.core.conversations.models import SettlingRule, Turn
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope
from agentapi_mcp.core.keys.models import KeySource, PaidBy
from agentapi_mcp.stores.postgres.budgets import PostgresBudgets
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.support.budgets import CENT, EXPENSE, MEMBER, ORGANIZATION, OWNER, BudgetScene, budget_scene, rates


@pytest.fixture
async def scene(database: Database) -> BudgetScene:
    """Make the organisations."""
    return await budget_scene(database)


async def test_a_turn_reserves_what_it_may_cost_and_settles_what_it_has_cost(scene: BudgetScene) -> None:
    budget = await scene.set(ORGANIZATION, "1")
    turn = await scene.begin(scene.ann)
    assert await scene.sums(budget) == [(0, 10 * CENT, 0)]
    ended = await scene.end(scene.ann, turn, 3 * CENT)
    assert await scene.sums(budget) == [(3 * CENT, 0, 0)]
    assert ended is not None
    assert ended.bill.budget is not None
    assert (ended.bill.budget.left_usd, ended.bill.budget.limit_usd) == (Decimal("0.97"), 1)
    # Whoever repeats it, since the answer to its COMMIT was lost, spends nothing more, and hears the same.
    again = await scene.end(scene.ann, turn, 3 * CENT)
    assert again is not None
    assert again.bill.budget == ended.bill.budget
    assert await scene.sums(budget) == [(3 * CENT, 0, 0)]
    read = await PostgresTurns(scene.database).get(scene.ann, turn.id)
    assert read.bill.budget == ended.bill.budget


async def test_a_turn_without_budgets_writes_none(scene: BudgetScene) -> None:
    await scene.set(ORGANIZATION, "0", scene.bo)
    turn = await scene.begin(scene.ann)
    ended = await scene.end(scene.ann, turn, 3)
    assert ended is not None
    assert ended.bill.budget is None
    [row] = await scene.read("SELECT budget_periods, reserved_nanos FROM agentapi.turns WHERE id = $1", turn.id)
    assert list(row.values()) == [None, None]


async def test_what_lacks_is_refused_with_what_is_left_and_when_it_renews(scene: BudgetScene) -> None:
    budget = await scene.set(BudgetKind(period=BudgetPeriod.DAY), "0.25")
    turns = [await scene.begin(scene.ann) for _ in range(2)]
    with pytest.raises(BudgetExceededError) as caught:
        await scene.begin(scene.abe)
    [row] = await scene.read("SELECT (date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day')::date AS day")
    assert str(caught.value) == (
        "Your organisation's daily budget ($0.25) has $0.05 left, $0.20 of it is reserved for turns that run, and this "
        f"message may cost $0.10; it renews at {row['day']} 00:00 UTC. Lower max_tokens, choose a cheaper model, or "
        "have it raised by the operator of this server (`agentapi-mcp budgets set`). Nothing was asked."
    )
    assert isinstance(caught.value, LimitExceededError)
    assert caught.value.details == {
        "needed_usd": 0.1,
        "max_cost_usd": None,
        "budget": {
            "scope": "organization",
            "period": "day",
            "hard": True,
            "limit_usd": 0.25,
            "left_usd": 0.05,
            "renews_at": f"{row['day']}T00:00:00Z",
        },
    }
    assert not caught.value.retryable
    # Nothing of it is written: no session, no message, no turn.
    assert await scene.read("SELECT FROM public.chat_sessions WHERE user_id = $1", scene.abe.user_id) == []
    assert await scene.sums(budget) == [(0, 20 * CENT, 0)]
    for turn in turns:
        await scene.end(scene.ann, turn, 0)
    await scene.begin(scene.abe)


@pytest.mark.parametrize("unknown", [Expense(), Expense(rates=rates(Decimal(1), None)), Expense(rates=rates(None, 1))])
async def test_a_refusal_does_not_call_what_is_reserved_the_cost(scene: BudgetScene, unknown: Expense) -> None:
    await scene.set(BudgetKind(period=BudgetPeriod.TOTAL), "0.05")
    with pytest.raises(BudgetExceededError) as caught:
        await scene.begin(scene.ann, unknown)
    assert str(caught.value) == (
        "Your organisation's budget ($0.05) has $0.05 left, and this message of unknown cost reserves $0.10; it does "
        "not renew. Pass max_tokens if the model has a price, choose a model with one, or have it raised by "
        "the operator of this server (`agentapi-mcp budgets set`). Nothing was asked."
    )
    assert caught.value.details["needed_usd"] is None


async def test_a_refusal_of_what_is_used_up_advises_nothing_that_is_of_no_use(scene: BudgetScene) -> None:
    await scene.set(ORGANIZATION, "0.1")
    turn = await scene.begin(scene.ann)
    with pytest.raises(BudgetExceededError, match=r"Lower max_tokens, choose a cheaper model, or have"):
        await scene.begin(scene.ann)
    await scene.end(scene.ann, turn, 11 * CENT)
    with pytest.raises(
        BudgetExceededError, match=r"has -\$0\.01 left.* It is used up: choose what costs nothing, or have"
    ):
        await scene.begin(scene.ann)


async def test_all_that_is_left_may_be_reserved_and_no_nano_dollar_more(scene: BudgetScene) -> None:
    await scene.set(ORGANIZATION, "0.1")
    with pytest.raises(BudgetExceededError):
        await scene.begin(scene.ann, Expense(rates=rates(Decimal(0), 10 * CENT + 1)))
    turn = await scene.begin(scene.ann)
    # What costs nothing exceeds nothing, even where a turn has cost more than it held.
    await scene.begin(scene.ann, Expense(rates=rates(Decimal(0), 0)))
    await scene.end(scene.ann, turn, 11 * CENT)
    await scene.begin(scene.ann, Expense(rates=rates(Decimal(0), 0)))
    with pytest.raises(BudgetExceededError):
        await scene.begin(scene.ann, Expense(rates=rates(Decimal(0), 1)))


async def test_a_soft_budget_lets_everything_through_and_says_what_is_left(scene: BudgetScene) -> None:
    budget = await scene.set(BudgetKind(hard=False), "0.01")
    ended = await scene.end(scene.ann, await scene.begin(scene.ann), 3 * CENT)
    assert ended is not None
    assert ended.bill.budget is not None
    assert (ended.bill.budget.hard, ended.bill.budget.left_usd) == (False, Decimal("-0.02"))
    await scene.begin(scene.ann)
    assert await scene.sums(budget) == [(3 * CENT, 10 * CENT, 0)]


async def test_each_scope_counts_its_own(scene: BudgetScene) -> None:
    key = ApiKeyId(new_id())
    await scene.run(
        "INSERT INTO agentapi.user_api_keys (id, user_id, org_id, provider, name, sealed_key, key_id) "
        "VALUES ($1, $2, $3, 'p', 'k', '', '')",
        *(key, scene.ann.user_id, scene.ann.org_id),
    )
    of = {
        "organization": ORGANIZATION,
        "member": MEMBER,
        "ann": BudgetKind(scope=BudgetScope.USER, subject=str(scene.ann.user_id)),
        "abe": BudgetKind(scope=BudgetScope.USER, subject=str(scene.abe.user_id)),
        "agent": BudgetKind(scope=BudgetScope.AGENT, subject="guide"),
        "another agent": BudgetKind(scope=BudgetScope.AGENT, subject="b"),
        "key": BudgetKind(scope=BudgetScope.KEY, subject=str(key)),
        "plan": BudgetKind(plan="free"),
        "plan's member": BudgetKind(plan="free", scope=BudgetScope.MEMBER),
        "another plan": BudgetKind(plan="pro"),
    }
    budgets = {name: await scene.set(kind, "1") for name, kind in of.items()}
    await PostgresBudgets(scene.database).set_plan(scene.chief, scene.ann.org_id, "free")
    paid = PaidBy(KeySource.USER, "p", key)
    for who, nanos, by in ((scene.ann, 1, paid), (scene.abe, 20, PaidBy()), (scene.bo, 300, PaidBy())):
        await scene.end(who, await scene.begin(who, paid_by=by), nanos)
    spent = {name: [period[0] for period in await scene.sums(budget)] for name, budget in budgets.items()}
    assert spent == {
        "organization": [21],
        "member": [1, 20],
        "ann": [1],
        "abe": [20],
        "agent": [21],
        "another agent": [],
        "key": [1],
        "plan": [21],
        "plan's member": [1, 20],
        "another plan": [],
    }
    await PostgresBudgets(scene.database).set_plan(scene.chief, scene.ann.org_id, None)
    await scene.end(scene.ann, await scene.begin(scene.ann), 1)
    assert await scene.sums(budgets["plan"]) == [(21, 0, 0)]


async def test_the_tightest_budget_is_told(scene: BudgetScene) -> None:
    await scene.set(BudgetKind(period=BudgetPeriod.TOTAL), "5")
    await scene.set(BudgetKind(period=BudgetPeriod.DAY, scope=BudgetScope.MEMBER), "2")
    await scene.set(ORGANIZATION, "3")
    ended = await scene.end(scene.ann, await scene.begin(scene.ann), CENT)
    assert ended is not None
    assert ended.bill.budget is not None
    assert (ended.bill.budget.scope, ended.bill.budget.period, ended.bill.budget.left_usd) == (
        *("member", "day", Decimal("1.99")),
    )


async def test_what_is_left_of_much_is_told_to_the_nano_dollar(scene: BudgetScene) -> None:
    await scene.set(ORGANIZATION, "999999999.999999999")
    ended = await scene.end(scene.ann, await scene.begin(scene.ann), 7)
    assert ended is not None
    assert ended.bill.budget is not None
    assert ended.bill.budget.left_usd == Decimal("999999999.999999992")


async def test_a_soft_budget_that_is_used_up_hides_no_other(scene: BudgetScene) -> None:
    for hard, limit, period in ((True, "5", BudgetPeriod.TOTAL), (False, "0.02", BudgetPeriod.DAY)):
        await scene.set(BudgetKind(hard=hard, period=period), limit)
    await scene.set(BudgetKind(scope=BudgetScope.MEMBER, hard=False), "0")
    ended = await scene.end(scene.ann, await scene.begin(scene.ann), 3 * CENT)
    assert ended is not None
    estimate = await PostgresTurns(scene.database).estimate(scene.ann, None, "guide", PaidBy(), EXPENSE)
    for told in (ended.bill.budget, estimate.budget):
        assert told is not None
        assert (told.hard, told.period, told.left_usd) == (True, "total", Decimal("4.97"))
        assert told.exceeded is not None
        assert (told.exceeded.hard, told.exceeded.scope, told.exceeded.left_usd) == (False, "member", Decimal("-0.03"))
    assert await PostgresTurns(scene.database).get(scene.ann, ended.id) == ended


STATES = [
    {"name": "wide", "hard": True, "left_usd": "5"},
    {"name": "tight", "hard": True, "left_usd": "2"},
    {"name": "negative", "hard": True, "left_usd": "-1"},
    {"name": "refusing", "hard": True, "left_usd": "0.1", "refuses": True},
    {"name": "soft", "hard": False, "left_usd": "1"},
    {"name": "used up", "hard": False, "left_usd": "0"},
    {"name": "exceeded", "hard": False, "left_usd": "-7"},
]


@pytest.mark.parametrize(
    ("names", "told", "exceeded"),
    [
        ("wide tight", "tight", None),
        ("wide tight soft", "soft", None),
        ("wide negative refusing", "refusing", None),
        ("wide exceeded soft", "soft", "exceeded"),
        ("used_up exceeded", "exceeded", None),
        ("tight used_up exceeded wide", "tight", "exceeded"),
        ("refusing negative exceeded used_up", "refusing", "exceeded"),
    ],
)
async def test_which_budget_is_told_does_not_depend_on_their_order(
    database_urls: DatabaseUrls, names: str, told: str, exceeded: str | None
) -> None:
    states = [json.dumps(state) for state in STATES if str(state["name"]).replace(" ", "_") in names.split()]
    owner = await asyncpg.connect(database_urls.owner)
    try:
        for order in permutations(states):
            said: str | None = None
            for state in order:
                said = await owner.fetchval("SELECT agentapi.tighter_budget($1::jsonb, $2::jsonb)::text", said, state)
            fields = json.loads(said or "")
            assert (fields["name"], fields.get("exceeded", {}).get("name")) == (told, exceeded)
    finally:
        await owner.close()


# --- how turns end


async def test_what_nobody_knows_counts_with_what_was_reserved_until_it_is_known(scene: BudgetScene) -> None:
    budget = await scene.set(ORGANIZATION, "1")
    turn = await scene.begin(scene.ann)
    settled = await PostgresTurns(scene.database).settle(SettlingRule(own=frozenset(), dead=frozenset({OWNER})))
    assert [each.id for each in settled] == [turn.id]
    assert await scene.sums(budget) == [(10 * CENT, 0, 1)]
    # Its owner was alive after all.
    assert await scene.end(scene.ann, turn, 4 * CENT) is None
    assert await scene.end(scene.ann, turn, 7 * CENT) is None
    assert await scene.sums(budget) == [(4 * CENT, 0, 0)]


async def test_what_was_never_asked_costs_nothing(scene: BudgetScene) -> None:
    budget = await scene.set(ORGANIZATION, "1")
    turn = await scene.begin(scene.ann, asked=False)
    await PostgresTurns(scene.database).settle(SettlingRule(own=frozenset(), dead=frozenset({OWNER})))
    assert await scene.sums(budget) == [(0, 0, 0)]
    del turn


async def test_a_turn_that_is_deleted_in_mid_turn_is_settled_and_its_late_bill_counts_once(
    scene: BudgetScene,
) -> None:
    budget = await scene.set(ORGANIZATION, "1")
    turn, unasked = await scene.begin(scene.ann), await scene.begin(scene.ann, asked=False)
    for each in (turn, unasked):
        await scene.run("DELETE FROM public.chat_sessions WHERE id = $1", each.session_id)
    assert await scene.sums(budget) == [(10 * CENT, 0, 1)]
    for _ in range(2):
        assert await scene.end(scene.ann, turn, 4 * CENT) is None
    assert await scene.sums(budget) == [(4 * CENT, 0, 0)]


async def test_what_deleted_turns_held_is_kept_for_a_day(scene: BudgetScene, database_urls: DatabaseUrls) -> None:
    await scene.set(ORGANIZATION, "1")
    turns: list[UUID] = []
    owner = await asyncpg.connect(database_urls.owner)
    try:
        for _ in range(2):
            turn = await scene.begin(scene.ann)
            turns.append(turn.id)
            await scene.run("DELETE FROM public.chat_sessions WHERE id = $1", turn.session_id)
            rows = await owner.fetch("SELECT turn_id FROM agentapi.late_reservations WHERE turn_id = ANY($1)", turns)
            assert [row["turn_id"] for row in rows] == [turn.id]
            await owner.execute("UPDATE agentapi.late_reservations SET deleted_at = deleted_at - interval '25 hours'")
    finally:
        await owner.close()


async def test_a_turn_that_ended_is_deleted_without_a_trace_in_its_budget(scene: BudgetScene) -> None:
    budget = await scene.set(ORGANIZATION, "1")
    turn = await scene.begin(scene.ann)
    await scene.end(scene.ann, turn, CENT)
    await PostgresSessions(scene.database).delete(scene.ann, turn.session_id)
    assert await scene.sums(budget) == [(CENT, 0, 0)]


async def test_who_is_deleted_in_mid_turn_leaves_no_reservation(scene: BudgetScene) -> None:
    shared, members = await scene.set(ORGANIZATION, "1"), await scene.set(MEMBER, "1")
    own = await scene.set(BudgetKind(scope=BudgetScope.USER, subject=str(scene.ann.user_id)), "1")
    turn = await scene.begin(scene.ann)
    await scene.run("DELETE FROM public.chat_sessions WHERE user_id = $1", scene.ann.user_id)
    await scene.run("DELETE FROM public.profiles WHERE id = $1", scene.ann.user_id)
    assert await scene.sums(own) == []
    assert await scene.sums(shared) == await scene.sums(members) == [(10 * CENT, 0, 1)]
    assert await scene.end(scene.ann, turn, CENT) is None
    assert await scene.sums(shared) == await scene.sums(members) == [(CENT, 0, 0)]
    everything = await scene.read("SELECT to_jsonb(p)::text AS it FROM agentapi.budget_periods p")
    assert not any(str(scene.ann.user_id) in row["it"] for row in everything)


async def test_a_budget_that_is_removed_in_mid_turn_holds_nobody_up(scene: BudgetScene) -> None:
    gone, stays = await scene.set(ORGANIZATION, "1"), await scene.set(MEMBER, "1")
    turn = await scene.begin(scene.ann)
    await PostgresBudgets(scene.database).remove_as_operator(scene.chief, gone)
    ended = await scene.end(scene.ann, turn, CENT)
    assert ended is not None
    assert ended.bill.budget is not None
    assert ended.bill.budget.scope == "member"
    assert await scene.sums(stays) == [(CENT, 0, 0)]


async def test_an_organisation_is_deleted_whatever_runs_in_it(scene: BudgetScene) -> None:
    own, plans = await scene.set(ORGANIZATION, "1"), await scene.set(BudgetKind(plan="free"), "1")
    await PostgresBudgets(scene.database).set_plan(scene.chief, scene.ann.org_id, "free")
    turns = [await scene.begin(who) for who in (scene.ann, scene.ann, scene.abe)]
    await scene.run("DELETE FROM public.organizations WHERE id = $1", scene.ann.org_id)
    assert await scene.sums(own) == []
    assert await scene.sums(plans) == [(30 * CENT, 0, 3)]
    assert await scene.end(scene.ann, turns[0], CENT) is None


async def test_a_limit_that_changes_keeps_what_is_spent(scene: BudgetScene) -> None:
    budget = await scene.set(ORGANIZATION, "1")
    await scene.end(scene.ann, await scene.begin(scene.ann), 50 * CENT)
    assert await scene.set(ORGANIZATION, "0.55") == budget
    with pytest.raises(BudgetExceededError, match=r"has \$0\.05 left, and"):
        await scene.begin(scene.ann)
    await scene.set(ORGANIZATION, "0.60")
    await scene.begin(scene.ann)


# --- time


async def test_a_turn_counts_in_the_period_in_which_it_began(scene: BudgetScene, database_urls: DatabaseUrls) -> None:
    day = await scene.set(BudgetKind(period=BudgetPeriod.DAY), "0.1")
    month = await scene.set(BudgetKind(period=BudgetPeriod.MONTH), "1")
    turn = await scene.begin(scene.ann)
    owner = await asyncpg.connect(database_urls.owner)
    try:
        # As if it had begun the day and the month before: nothing is reset, and the next period has its own row.
        await owner.execute("UPDATE agentapi.budget_periods SET starts = starts - 40")
    finally:
        await owner.close()
    await scene.begin(scene.ann)
    assert await scene.sums(day) == await scene.sums(month) == [(0, 10 * CENT, 0), (0, 10 * CENT, 0)]
    await scene.end(scene.ann, turn, 7 * CENT)
    assert sorted(await scene.sums(day)) == [(0, 10 * CENT, 0), (7 * CENT, 0, 0)]
    assert (await scene.sums(month))[0] == (7 * CENT, 0, 0)


@pytest.mark.parametrize(
    ("period", "at", "starts", "renews"),
    [
        ("day", "2027-01-31 23:59:59.999999+00", "2027-01-31", "2027-02-01T00:00:00Z"),
        ("day", "2027-02-01 00:00:00+00", "2027-02-01", "2027-02-02T00:00:00Z"),
        ("day", "2027-02-01 08:59:00+09", "2027-01-31", "2027-02-01T00:00:00Z"),
        ("month", "2027-01-31 23:59:59.999999+00", "2027-01-01", "2027-02-01T00:00:00Z"),
        ("month", "2027-02-01 00:00:00+00", "2027-02-01", "2027-03-01T00:00:00Z"),
        ("month", "2028-12-31 12:00:00+00", "2028-12-01", "2029-01-01T00:00:00Z"),
        ("total", "2027-02-01 00:00:00+00", "0001-01-01", None),
    ],
)
async def test_periods_are_those_of_utc(
    database_urls: DatabaseUrls, period: str, at: str, starts: str, renews: str | None
) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await owner.execute("SET timezone = 'America/New_York'")
        row = await owner.fetchrow(
            "SELECT s.starts::text, agentapi.period_end($1, s.starts) AS renews "
            "FROM agentapi.period_start($1, $2::text::timestamptz) AS s (starts)",
            *(period, at),
        )
    finally:
        await owner.close()
    assert row is not None
    assert tuple(row) == (starts, renews)


# --- what is reserved


async def test_the_estimate_has_instructions_message_history_and_the_longest_answer(scene: BudgetScene) -> None:
    budget = await scene.set(ORGANIZATION, "1000")
    priced = Expense(rates=rates(Decimal("2.5"), 7), fixed_bytes=401, history_bytes=1_000)
    turn = await scene.begin(scene.ann, priced)
    # 101 tokens at 2,500 nano-dollars.
    assert await scene.sums(budget) == [(0, 252_507, 0)]
    await scene.end(scene.ann, turn, 0, reply="y" * 500)
    [said] = await scene.read(
        "SELECT sum(octet_length(content))::integer AS bytes FROM public.chat_messages WHERE session_id = $1",
        turn.session_id,
    )
    following = await scene.begin(scene.ann, priced, turn.session_id)
    assert await scene.sums(budget) == [(0, -(-(401 + said["bytes"]) // 4) * 2_500 + 7, 0)]
    await scene.end(scene.ann, following, 0, reply="y" * 900)
    # No more of the history than is sent.
    await scene.begin(scene.ann, priced, turn.session_id)
    assert await scene.sums(budget) == [(0, -(-1_401 // 4) * 2_500 + 7, 0)]


async def test_the_estimate_is_of_the_tier_that_the_whole_input_is_in(scene: BudgetScene) -> None:
    budget = await scene.set(ORGANIZATION, "1000")
    tiers = tuple(
        ExpectedRates(above=above, input_price=Decimal(price), output_nanos=output)
        for above, price, output in ((0, 1, 5), (100, 2, 50), (10_000, 4, 500))
    )
    expense = Expense(rates=tiers, fixed_bytes=400, history_bytes=1_000)
    turn = await scene.begin(scene.ann, expense)
    assert await scene.sums(budget) == [(0, 100 * 1_000 + 5, 0)]
    await scene.end(scene.ann, turn, 0, reply="y" * 1_000)
    # The history takes it into the next one.
    await scene.begin(scene.ann, expense, turn.session_id)
    assert await scene.sums(budget) == [(0, 350 * 2_000 + 50, 0)]


async def test_what_cannot_be_priced_reserves_the_set_amount(scene: BudgetScene) -> None:
    budget = await scene.set(ORGANIZATION, "1000")
    await scene.begin(scene.ann, Expense(rates=rates(Decimal(1), None), unpriced_nanos=123))
    assert await scene.sums(budget) == [(0, 123, 0)]


async def test_a_borrowed_model_counts_in_the_budgets_of_its_agent_too(scene: BudgetScene) -> None:
    guides, droids = [
        await scene.set(BudgetKind(scope=BudgetScope.AGENT, subject=name), "0.15") for name in ("guide", "droid")
    ]
    lent = replace(EXPENSE, lender="droid")
    await scene.begin(scene.ann, lent)
    assert (await scene.sums(guides), await scene.sums(droids)) == ([(0, 10 * CENT, 0)], [(0, 10 * CENT, 0)])
    said = await PostgresTurns(scene.database).estimate(scene.ann, None, "guide", PaidBy(), lent)
    assert said.refused
    with pytest.raises(BudgetExceededError, match=r"^This agent's monthly budget"):
        await scene.begin(scene.abe, lent)


async def test_nobody_is_asked_beyond_what_the_caller_would_pay(scene: BudgetScene) -> None:
    with pytest.raises(BudgetExceededError, match=r"may cost \$0\.10, more than the \$0\.05 that you allow") as caught:
        await scene.begin(scene.ann, replace(EXPENSE, most_nanos=5 * CENT))
    assert caught.value.details == {"needed_usd": 0.1, "max_cost_usd": 0.05, "budget": None}
    with pytest.raises(BudgetExceededError, match=r"is not known, so the \$1\.00 that you allow cannot be kept"):
        await scene.begin(scene.ann, Expense(most_nanos=NANOS))
    await scene.begin(scene.ann, replace(EXPENSE, most_nanos=10 * CENT))


async def test_an_estimate_writes_nothing_and_says_who_would_refuse(scene: BudgetScene) -> None:
    turns = PostgresTurns(scene.database)
    free = await turns.estimate(scene.ann, None, "guide", PaidBy(), EXPENSE)
    assert (free.cost_usd, free.reserved_usd, free.budget, free.refused) == (
        *(Decimal("0.1"), Decimal("0.1"), None, False),
    )
    await scene.set(MEMBER, "5")
    wide = await scene.set(ORGANIZATION, "0.15")
    fits = await turns.estimate(scene.ann, None, "guide", PaidBy(), EXPENSE)
    assert fits.budget is not None
    assert (fits.budget.scope, fits.budget.left_usd, fits.refused) == ("organization", Decimal("0.15"), False)
    turn = await scene.begin(scene.ann)
    lacks = await turns.estimate(scene.ann, turn.session_id, "guide", PaidBy(), Expense())
    assert lacks.budget is not None
    assert (lacks.cost_usd, lacks.budget.left_usd, lacks.refused) == (None, Decimal("0.05"), True)
    assert await scene.sums(wide) == [(0, 10 * CENT, 0)]
    for who in (scene.abe, scene.bo, replace(scene.bo, org_id=scene.ann.org_id)):
        with pytest.raises(NotFoundError):
            await turns.estimate(who, turn.session_id, "guide", PaidBy(), EXPENSE)
    with pytest.raises(NotFoundError):
        await turns.estimate(replace(scene.bo, org_id=scene.ann.org_id), None, "guide", PaidBy(), EXPENSE)


# --- at once


async def test_a_hundred_at_once_never_exceed_a_hot_budget(scene: BudgetScene) -> None:
    hot, members = await scene.set(ORGANIZATION, "3.05"), await scene.set(MEMBER, "2.05")
    refused = 0

    async def one(who: Principal) -> Turn | None:
        try:
            return await scene.begin(who)
        except BudgetExceededError:
            return None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(who)) for who in (scene.ann, scene.abe) * 50]
    begun = [turn for task in tasks if (turn := task.result()) is not None]
    refused = len(tasks) - len(begun)
    assert (len(begun), refused) == (30, 70)
    assert await scene.sums(hot) == [(0, 300 * CENT, 0)]
    async with asyncio.TaskGroup() as group:
        for turn in begun:
            who = scene.ann if turn.user_id == scene.ann.user_id else scene.abe
            group.create_task(scene.end(who, turn, CENT))
    assert await scene.sums(hot) == [(30 * CENT, 0, 0)]
    assert sum(spent for spent, _, _ in await scene.sums(members)) == 30 * CENT


# --- who sees and sets them


async def test_everybody_sees_what_holds_for_them_and_administrators_all(scene: BudgetScene) -> None:
    kinds = {
        "shared": ORGANIZATION,
        "each": MEMBER,
        "ann": BudgetKind(scope=BudgetScope.USER, subject=str(scene.ann.user_id)),
        "abe": BudgetKind(scope=BudgetScope.USER, subject=str(scene.abe.user_id)),
        "agent": BudgetKind(scope=BudgetScope.AGENT, subject="guide"),
        "plan": BudgetKind(plan="free"),
        "another plan": BudgetKind(plan="pro"),
    }
    names = {await scene.set(kind, "1"): name for name, kind in kinds.items()}
    names[await scene.set(ORGANIZATION, "1", scene.bo)] = "bo"
    store = PostgresBudgets(scene.database)
    await store.set_plan(scene.chief, scene.ann.org_id, "free")
    await scene.end(scene.ann, await scene.begin(scene.ann), CENT)
    members = {"shared", "each", "agent", "plan"}
    chief = scene.chief
    seen: dict[Principal, set[str]] = {
        scene.ann: members | {"ann"},
        scene.abe: members | {"abe"},
        chief: members | {"ann", "abe"},
        scene.bo: {"bo"},
        replace(scene.ann, role=Role.VIEWER): members | {"ann"},
        replace(chief, scopes=frozenset({TokenScope.READ})): members,
        replace(scene.ann, scopes=frozenset({TokenScope.KEYS})): set(),
        # Of another organisation than the claims say, whatever role they say.
        replace(scene.bo, org_id=scene.ann.org_id): set(),
    }
    for who, wanted in seen.items():
        assert (who, {names[budget.id] for budget in await store.list_(who)}) == (who, wanted)
    spent = {who: {names[budget.id]: budget.spent_usd for budget in await store.list_(who)} for who in seen}
    assert spent[scene.ann]["each"] == spent[scene.abe]["shared"] == Decimal("0.01")
    assert spent[scene.abe]["each"] == 0
    # A member sees no other's sums, in whatever query.
    for who, rows in ((scene.ann, 5), (scene.abe, 3), (scene.bo, 0)):
        async with scene.database.as_principal(who) as connection:
            found = await connection.fetchval("SELECT count(*) FROM agentapi.budget_periods")
        assert (who, found) == (who, rows)


async def test_administrators_set_and_remove_theirs_and_not_the_operators(scene: BudgetScene) -> None:
    store = PostgresBudgets(scene.database)
    operators = await scene.set(ORGANIZATION, "5")
    own = await store.set(scene.chief, ORGANIZATION, Decimal(1))
    assert own != operators
    assert await store.set(scene.chief, ORGANIZATION, Decimal(2)) == own
    for who, budget in ((scene.chief, operators), (scene.ann, own), (scene.bo, own)):
        with pytest.raises(NotFoundError):
            await store.remove(who, budget)
    for who in (scene.ann, replace(scene.bo, org_id=scene.ann.org_id)):
        with pytest.raises(NotFoundError):
            await store.set(who, MEMBER, Decimal(1))
    with pytest.raises(NotFoundError, match="user"):
        await store.set(scene.chief, BudgetKind(scope=BudgetScope.USER, subject=str(scene.bo.user_id)), Decimal(1))
    with pytest.raises(NotFoundError, match="key"):
        await store.set(scene.chief, BudgetKind(scope=BudgetScope.KEY, subject=str(new_id())), Decimal(1))
    with pytest.raises(NotFoundError, match="organisation"):
        await store.set_as_operator(scene.chief, OrgId(new_id()), ORGANIZATION, Decimal(1))
    limits = {budget.id: (budget.limit_usd, budget.by_operator) for budget in await store.list_(scene.chief)}
    assert limits == {operators: (5, True), own: (2, False)}
    # Nor by a statement that forgot to ask.
    for who, gone in ((scene.ann, 0), (scene.bo, 0), (scene.chief, 1)):
        async with scene.database.as_writer(who) as connection:
            assert await connection.execute("DELETE FROM agentapi.budgets") == f"DELETE {gone}"
    await store.remove_as_operator(scene.chief, operators)
    assert await store.list_(scene.chief) == ()


async def test_a_budget_is_no_more_than_one_of_its_kind(scene: BudgetScene) -> None:
    # So no turn has more than 84, however often they are set.
    for _ in range(3):
        for scope in (BudgetScope.ORGANIZATION, BudgetScope.MEMBER):
            for plan in (None, "free"):
                await scene.set(BudgetKind(scope=scope, plan=plan), "1")
    assert len(await PostgresBudgets(scene.database).list_as_operator(scene.chief, scene.ann.org_id)) == 4


async def test_nobody_has_a_right_to_write_what_is_spent(database: Database) -> None:
    async with database.as_system("test") as connection:
        rows = await connection.fetch(
            "SELECT r.rolname::text AS role, c.relname::text AS relation, p.privilege "
            "FROM pg_class c, pg_roles r, "
            "unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS p (privilege) "
            "WHERE c.oid = ANY (ARRAY['agentapi.budgets', 'agentapi.budget_periods', 'agentapi.late_reservations']"
            "::regclass[]) AND r.rolname IN "
            "('anon', 'authenticated', 'service_role', 'agentapi_writer', 'agentapi_system') "
            "AND has_table_privilege(r.oid, c.oid, p.privilege)"
        )
    written = ("SELECT", "INSERT", "UPDATE", "DELETE")
    assert {tuple(row.values()) for row in rows} == {
        ("authenticated", "budgets", "SELECT"),
        ("authenticated", "budget_periods", "SELECT"),
        ("agentapi_system", "budget_periods", "SELECT"),
        *((role, "budgets", right) for role in ("agentapi_writer", "agentapi_system") for right in written),
    }
