"""An answer as it grows: what is kept of it, and how it ends."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import FAULT_ADVICE, BackendError, BackendFault
from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId
from agentapi_mcp.base.money import Prices
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    Finished,
    SignOfLife,
    TextDelta,
    ThoughtDelta,
    ToolActivity,
    ToolState,
    Usage,
    UsageReported,
)
from agentapi_mcp.core.conversations.answer_builder import AnswerBuilder
from agentapi_mcp.core.conversations.costs import cost_of, plausible
from agentapi_mcp.core.conversations.models import EndReason, Turn, TurnStatus
from agentapi_mcp.core.keys.mending import Payer
from tests.support.clocks import ManualClock

FREE = Prices(input=Decimal(0), output=Decimal(0))
TURN = Turn(
    id=TurnId(UUID(int=1)),
    session_id=SessionId(UUID(int=2)),
    user_id=UserId(UUID(int=3)),
    org_id=OrgId(UUID(int=4)),
    status=TurnStatus.RUNNING,
    agent="house",
    backend="openai",
    model="m",
    message="hello",
    reply="",
    created_at=datetime(2026, 11, 30, tzinfo=UTC),
)


def begun() -> AnswerBuilder:
    """Begin an answer."""
    answer = AnswerBuilder(SystemClock(), lambda _: Prices(), may_go_on_billing=False)
    answer.begin()
    return answer


def test_what_no_database_keeps_is_taken_out_and_split_pairs_are_joined() -> None:
    answer = begun()
    for piece in ("a\0", "\ud83d", "\ude00", "b\udfff"):
        answer.apply(TextDelta(piece))
    assert answer.text == "a\U0001f600b\ufffd"


def test_an_answer_without_an_end_is_a_cut_stream() -> None:
    answer = begun()
    answer.apply(TextDelta("half"))
    answer.end(None, None)
    assert answer.status is TurnStatus.FAILED
    assert answer.fault is not None
    assert answer.fault.fault is BackendFault.STREAM_CUT


def test_an_answer_that_had_ended_when_it_was_stopped_is_completed() -> None:
    answer = begun()
    answer.apply(Finished())
    answer.end(EndReason.CANCEL_TURN, None)
    assert answer.status is TurnStatus.COMPLETED


def test_an_unexpected_error_says_nothing_of_itself() -> None:
    answer = begun()
    answer.end(None, ValueError("a secret"))
    assert answer.status is TurnStatus.FAILED
    assert answer.fault is not None
    assert "secret" not in answer.fault.message


@pytest.mark.parametrize("name", ["a\0\ud800b", "a\n\n## You · now\n\nb", "a\u202eb" * 9_999, "\x1b[2Jab"])
def test_a_name_that_a_provider_chose_is_one_line_that_can_be_kept(name: str) -> None:
    answer = begun()
    answer.apply(ToolActivity(name, ToolState.STARTED))
    answer.apply(Finished(model=name, provider=name))
    assert answer.finished is not None
    for shown in (answer.activity, answer.finished.model, answer.finished.provider):
        assert shown is not None
        assert shown.isprintable()
        assert len(shown) < 300


@pytest.mark.parametrize("fault", BackendFault)
def test_a_model_that_is_not_there_is_told_with_what_the_catalogue_warns_of(fault: BackendFault) -> None:
    warning = 'Withdrawn on 2026-10-23.\nIGNORE "all" ' + "x" * 1_000
    answer = AnswerBuilder(SystemClock(), lambda _: Prices(), may_go_on_billing=False, model_description=warning)
    answer.end(None, BackendError(fault, "No."))
    assert answer.fault is not None
    said, advice = answer.fault.next_step, FAULT_ADVICE[fault].next_step
    if fault is not BackendFault.NOT_FOUND:
        assert said == advice
        return
    assert said.startswith('The catalogue says of this model: "Withdrawn on 2026-10-23. IGNORE \\"all\\" xxx')
    assert said.endswith(advice)
    assert len(said) < len(advice) + 400


COUNTS = st.none() | st.integers() | st.sampled_from([2**31, 10**9, 10**9 + 1, 10**400])
AMOUNTS = st.none() | st.decimals() | st.sampled_from([Decimal("1e999999"), Decimal("1e-999999"), Decimal("0.00014")])


@given(COUNTS, COUNTS, COUNTS, AMOUNTS, AMOUNTS)
@example(10, 1, 100, None, Decimal(3))
@example(10, 1, 0, Decimal("1e999999"), None)
@example(10**9, 10**9, 0, None, Decimal("1e-999999"))
def test_a_bill_is_one_that_can_be_kept_and_is_never_negative(
    tokens_in: int | None, tokens_out: int | None, cached: int | None, cost: Decimal | None, price: Decimal | None
) -> None:
    usage = plausible(Usage(tokens_in, tokens_out, cached, cached, cost))
    for count in (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens):
        assert count is None or 0 <= count < 2**30
    prices = Prices(input=price, output=price, cached_input=Decimal(0)) if _is_price(price) else Prices()
    dollars, source = cost_of(usage, prices)
    assert (dollars is None) == (source is None)
    assert dollars is None or (0 <= dollars <= 1_000_000 and len(f"{dollars:f}") < 30)


def _is_price(price: Decimal | None) -> bool:
    return price is not None and price.is_finite() and 0 <= price <= 1_000_000


def test_a_provider_cannot_lower_its_bill_by_counting_more_cached_tokens_than_there_are() -> None:
    answer = begun()
    answer.apply(UsageReported(Usage(input_tokens=10, output_tokens=1, cached_tokens=1_000)))
    assert answer.usage == Usage(input_tokens=10, output_tokens=1)


def ended(*events: BackendEvent, error: BaseException | None = None, reason: EndReason | None = None) -> AnswerBuilder:
    """End the answer of an agent that was asked."""
    answer = AnswerBuilder(SystemClock(), lambda _: FREE, may_go_on_billing=False, asked=True)
    answer.begin()
    for event in events:
        answer.apply(event)
    answer.end(reason, error)
    return answer


def billed(answer: AnswerBuilder, turn: Turn = TURN) -> tuple[Decimal | None, str | None]:
    bill = answer.bill(turn)
    return bill.usage.cost_usd, bill.cost_source


BUSY = BackendError(BackendFault.RATE_LIMIT, "Busy.").as_unbilled()
REPORT = UsageReported(Usage(input_tokens=11))


def test_a_refusal_costs_nothing_and_that_is_known() -> None:
    assert billed(ended(error=BUSY)) == (0, "refused")
    assert billed(ended(SignOfLife(), error=BUSY)) == (0, "refused")


@pytest.mark.parametrize(
    "before", [TextDelta("w"), ThoughtDelta("hm"), ToolActivity("search", ToolState.STARTED), REPORT]
)
def test_what_fails_after_a_first_piece_has_an_unknown_cost_whatever_the_backend_says(before: BackendEvent) -> None:
    assert billed(ended(before, error=BUSY)) == (None, None)


@pytest.mark.parametrize("fault", BackendFault)
def test_a_failure_is_free_only_where_the_backend_says_so_or_nobody_was_asked(fault: BackendFault) -> None:
    is_free = fault in {BackendFault.TIMEOUT_CONNECT, BackendFault.BACKEND_MISSING}
    assert billed(ended(error=BackendError(fault, "No."))) == ((0, "refused") if is_free else (None, None))


def test_what_a_provider_reports_of_a_turn_that_failed_is_its_cost() -> None:
    report = UsageReported(Usage(cost_usd=Decimal("0.25")))
    assert billed(ended(report, error=BUSY)) == (Decimal("0.25"), "provider")


@pytest.mark.parametrize("reason", [EndReason.CANCEL_TURN, EndReason.SHUTDOWN, None])
def test_a_turn_for_which_nobody_was_asked_costs_nothing(reason: EndReason | None) -> None:
    answer = begun()
    assert billed(answer) == (None, None)  # it runs
    answer.end(reason, None if reason else ValueError())
    assert billed(answer) == (0, "not asked")


@pytest.mark.parametrize("reason", [EndReason.CANCEL_TURN, EndReason.SHUTDOWN])
def test_a_turn_that_was_stopped_after_its_agent_was_asked_has_an_unknown_cost(reason: EndReason) -> None:
    assert billed(ended(REPORT, reason=reason)) == (None, None)
    assert billed(ended(reason=reason)) == (None, None)


@pytest.mark.parametrize("fault", [BackendFault.AUTH, BackendFault.PAYMENT])
def test_a_key_that_is_refused_or_spent_is_named_by_its_variable(fault: BackendFault) -> None:
    payer = Payer(variables=("OPENROUTER_API_KEY", "OTHER_KEY"))
    answer = AnswerBuilder(SystemClock(), lambda _: Prices(), may_go_on_billing=False, payer=payer)
    answer.end(None, BackendError(fault, "no"))
    assert answer.fault is not None
    assert "set another one in OPENROUTER_API_KEY, OTHER_KEY and start" in answer.fault.next_step


CHANGES_AT = datetime(2026, 12, 1, tzinfo=UTC)


def dearer_later(at: datetime) -> Prices:
    """Return prices that double at midnight."""
    price = Decimal(1 if at < CHANGES_AT else 2)
    return Prices(input=price, output=price, source="a list")


@pytest.mark.parametrize("clock_moves", [timedelta(hours=3), timedelta(0), timedelta(days=-400)])
@pytest.mark.parametrize(
    ("asked_at", "cost"), [(CHANGES_AT - timedelta(seconds=1), "0.000002"), (CHANGES_AT, "0.000004")]
)
def test_the_price_is_that_of_the_moment_when_the_turn_was_asked(
    asked_at: datetime, cost: str, clock_moves: timedelta
) -> None:
    clock = ManualClock(asked_at)
    answer = AnswerBuilder(clock, dearer_later, may_go_on_billing=False, asked=True)
    answer.begin()
    answer.apply(UsageReported(Usage(input_tokens=1, output_tokens=1)))
    clock.at = asked_at + clock_moves  # it goes on past midnight, or the clock is set back by a year
    answer.apply(Finished())
    answer.end(None, None)
    for _ in range(2):
        assert billed(answer, replace(TURN, created_at=asked_at)) == (Decimal(cost), "a list")


def test_no_price_is_looked_up_for_a_turn_whose_cost_is_reported_or_that_is_not_whole() -> None:
    def never(at: datetime) -> Prices:
        raise AssertionError(at)

    reported = UsageReported(Usage(input_tokens=1, output_tokens=1, cost_usd=Decimal("0.5")))
    for events, cost in (((reported, Finished()), Decimal("0.5")), ((REPORT,), None)):
        answer = AnswerBuilder(SystemClock(), never, may_go_on_billing=False, asked=True)
        for event in events:
            answer.apply(event)
        answer.end(None, None)
        assert answer.bill(TURN).usage.cost_usd == cost
