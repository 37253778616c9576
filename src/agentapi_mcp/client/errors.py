"""What can go wrong for a program that asks agents.

ClientError
├── RefusedError         the server refused the call, in words that say why
│   └── BudgetExceededError  a budget, or the `max_cost_usd` of the message, lacks what it may cost
├── TurnError            the turn ended without a whole answer; it has the turn, with its bill
└── ConnectionLostError  what became of the turn is not known here: it is taken up again by its id
"""

from collections.abc import Mapping

from agentapi_mcp.base.json_values import as_text
from agentapi_mcp.client.turns import BudgetLeft, Turn


class ClientError(Exception):
    """The root of the errors of this client; `str(error)` is for people, and names the next step where there is one."""


class RefusedError(ClientError):
    """The server refused a call: an argument, a right, a limit, or what it cannot do now.

    `details` is what the server said of it for programs, empty where it said nothing.
    """

    def __init__(self, message: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}

    @property
    def code(self) -> str | None:
        """The stable name of the kind of refusal, such as `not_found`; None: the server gave none."""
        return as_text(self.details.get("code"))

    @property
    def fault(self) -> str | None:
        """The class of the fault where the agent is what cannot be used, such as `backend_missing`; else None."""
        return as_text(self.details.get("fault"))

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.details.get("retryable") is True

    @property
    def retry_after_seconds(self) -> float | None:
        """When to come back; None: the server does not say."""
        return _number(self.details.get("retry_after_seconds"))


class BudgetExceededError(RefusedError):
    """A budget, or the `max_cost_usd` of a message, lacks what it may cost in US dollars; nobody was asked."""

    @property
    def needed_usd(self) -> float | None:
        """What the message may cost at most; None: that is not known."""
        return _number(self.details.get("needed_usd"))

    @property
    def max_cost_usd(self) -> float | None:
        """The `max_cost_usd` that lacks it; None: a budget does."""
        return _number(self.details.get("max_cost_usd"))

    @property
    def budget(self) -> BudgetLeft | None:
        """The budget that lacks it, with what is left of it and when it renews; None: it is `max_cost_usd`."""
        budget = self.details.get("budget")
        return None if budget is None else BudgetLeft.model_validate(budget)


class TurnError(ClientError):
    """A turn failed, was cancelled or interrupted. `turn` has what was said before, and what it cost."""

    def __init__(self, turn: Turn) -> None:
        what = f"The turn was {turn.status}." if turn.error is None else turn.error.message
        super().__init__(f"{what} {turn.next_step or ''}".strip())
        self.turn = turn

    @property
    def code(self) -> str:
        """The class of the fault, such as `rate_limit`; else how the turn ended, such as `cancelled`."""
        return self.turn.status if self.turn.error is None else self.turn.error.code

    @property
    def retryable(self) -> bool:
        """Whether the same message may be answered later, and asking again cannot cost twice."""
        return self.turn.error is not None and self.turn.error.retryable

    @property
    def retry_after_seconds(self) -> float | None:
        """When the provider says to come back; None: it does not."""
        return None if self.turn.error is None else self.turn.error.retry_after_seconds


class ConnectionLostError(ClientError):
    """The server is gone, or cannot be reached. The turn, if it was begun, runs on or is settled without this client.

    With `turn_id`, `turn()` of a new connection takes it up; without one, `chat` with the same message and this
    `idempotency_key` does: it never asks twice. Both are None where no message was sent.
    """

    def __init__(self, message: str, turn_id: str | None = None, idempotency_key: str | None = None) -> None:
        super().__init__(message)
        self.turn_id = turn_id
        self.idempotency_key = idempotency_key


def refused(message: str, details: Mapping[str, object]) -> RefusedError:
    """Return a refusal as the class of its kind."""
    kind = BudgetExceededError if details.get("code") == "budget_exceeded" else RefusedError
    return kind(message, details)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
