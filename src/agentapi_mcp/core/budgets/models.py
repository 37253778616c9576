"""Models of budgets. Amounts are US dollars, and whole billionths of them (nano-dollars) where they are counted."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from agentapi_mcp.base.ids import OrgId

NANOS = 1_000_000_000
# As the table has it; sums of what is spent beyond it still fit.
MOST_USD = Decimal(1_000_000_000)


class BudgetScope(StrEnum):
    """For whom a budget holds; MEMBER is each member of the organisation for themselves."""

    ORGANIZATION = "organization"
    MEMBER = "member"
    USER = "user"
    AGENT = "agent"
    KEY = "key"


class BudgetPeriod(StrEnum):
    """In which time it may be spent, in UTC; a TOTAL never begins anew."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetKind:
    """What tells a budget from others: there is one of each kind.

    `subject` is the user's or key's id or the agent's name, where the scope is one of these. With a `plan` it holds for
    every organisation of that plan, and belongs to no single one.
    """

    scope: BudgetScope = BudgetScope.ORGANIZATION
    subject: str = ""
    plan: str | None = None
    period: BudgetPeriod = BudgetPeriod.MONTH
    hard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A budget with what is spent of it in the period that runs, for the caller where it is each member's.

    `reserved_usd` is for turns that run; `unpriced` counts those of unknown cost, for which `spent_usd` has what was
    reserved. `org_id` is None for a plan's. `renews_at` is when the next period begins, as text, None for a total.
    """

    id: UUID
    org_id: OrgId | None
    kind: BudgetKind
    limit_usd: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal
    unpriced: int
    renews_at: str | None
    by_operator: bool

    @property
    def left_usd(self) -> Decimal:
        """What is left; less than nothing where turns cost more than they had reserved, or the limit was lowered."""
        return self.limit_usd - self.spent_usd - self.reserved_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLeft:
    """What is left of a budget."""

    scope: str = ""
    period: str = ""
    hard: bool = True
    limit_usd: Decimal = Decimal(0)
    left_usd: Decimal = Decimal(0)
    renews_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetState(BudgetLeft):
    """What was left of the tightest budget of a turn, in its bill.

    A soft one that is used up is the tightest where there is no other; beside another it is `exceeded`.
    """

    exceeded: BudgetLeft | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRates:
    """What a turn with more input tokens than `above` may cost; None is unknown.

    `input_price` is US dollars for a million tokens, `output_nanos` the cost of its longest answer.
    """

    above: int = 0
    input_price: Decimal | None = None
    output_nanos: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expense:
    """What is known before a turn of what it may cost.

    `rates` are by ascending `above`, from 0; where those that hold are unknown, `unpriced_nanos` is reserved.
    `fixed_bytes` are those of its instructions and its message, and as much as `history_bytes` may stand before them.
    Beyond `most_nanos` its caller does not want it. It counts in the budgets of the agent that is the `lender` of its
    model as well.
    """

    rates: tuple[ExpectedRates, ...] = ()
    fixed_bytes: int = 0
    history_bytes: int = 0
    unpriced_nanos: int = NANOS // 10
    most_nanos: int | None = None
    lender: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a turn is expected to cost at most, None where that is not known, and what would be reserved for it.

    `budget` is the one that would refuse it, if it is `refused`, else the tightest.
    """

    cost_usd: Decimal | None
    reserved_usd: Decimal
    budget: BudgetState | None
    refused: bool
