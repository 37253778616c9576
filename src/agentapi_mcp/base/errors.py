"""The error hierarchy; each edge translates it by one table, and messages are written for the caller.

AgentApiError
├── CallerError               the caller can fix it
│   ├── InvalidRequestError
│   ├── NotAuthenticatedError
│   ├── PermissionDeniedError
│   ├── NotFoundError         also when the caller may not see it
│   ├── ConflictError         a turn is already running, or an idempotency key was reused
│   └── LimitExceededError    carries retry_after
│       └── BudgetExceededError
├── BackendError              the agent failed; carries a BackendFault
├── ConfigurationError        the operator's file or a setting is invalid
└── StoreError                storage failed
    ├── StoreUnavailableError
    │   └── StoreUnclearError it is not known whether the change was made
    ├── StoreBusyError        another transaction holds what is needed
    ├── StoreSlowError        a list or search took longer than it may
    └── StoreMismatchError    the database has another schema or version
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Self
from uuid import UUID


class AgentApiError(Exception):
    """Root of the hierarchy; `str(error)` is for the caller, without secrets, SQL or messages of libraries."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class NextStep(StrEnum):
    """A next step for the caller that each edge phrases in its own terms."""

    FIND_SESSION = "find_session"
    FIND_TURN = "find_turn"
    WAIT_OR_CANCEL = "wait_or_cancel"
    LEAVE_RETRY_OUT = "leave_retry_out"


class CallerError(AgentApiError):
    """An error that the caller can fix.

    A message about an `argument` continues from its name, which an edge may replace by its own.
    """

    code = "caller"

    def __init__(self, message: str, *, argument: str | None = None, next_step: NextStep | None = None) -> None:
        super().__init__(message if argument is None else f"{argument} {message}")
        self.message = message
        self.argument = argument
        self.next_step = next_step


class InvalidRequestError(CallerError):
    """An argument that fails validation."""

    code = "invalid_request"


class TokenFlaw(StrEnum):
    """Why a token is not valid, which decides what it counts against.

    - `FORGED`: unknown, or not signed by a trusted issuer; it may be a guess.
    - `ENDED`: it was valid once, and has expired or was revoked.
    - `MALFORMED`: the request holds it in no form in which one can be read; it counts as one that is forged.
    - `UNSUITABLE`: signed by a trusted issuer, but for another server, or not valid yet.
    """

    FORGED = "forged"
    ENDED = "ended"
    MALFORMED = "malformed"
    UNSUITABLE = "unsuitable"


class NotAuthenticatedError(CallerError):
    """Not authenticated; `flaw` is that of the token, if there was one."""

    code = "not_authenticated"

    def __init__(self, message: str, *, flaw: TokenFlaw = TokenFlaw.FORGED) -> None:
        super().__init__(message)
        self.flaw = flaw


class PermissionDeniedError(CallerError):
    """The principal may not do `action`; `scope` is set if only this scope of their token is missing.

    `member` is the user, and the organisation that they may no longer use, whose credential proves who they are.
    """

    code = "permission_denied"

    def __init__(
        self,
        message: str,
        *,
        scope: str | None = None,
        action: str | None = None,
        member: tuple[UUID, UUID] | None = None,
    ) -> None:
        super().__init__(message)
        self.scope = scope
        self.action = action
        self.member = member


class NotFoundError(CallerError):
    """The object does not exist, or the caller may not see it."""

    code = "not_found"


class ConflictError(CallerError):
    """The request conflicts with the current state; `turn_id` is the running turn, if it is the cause."""

    code = "conflict"

    def __init__(self, message: str, *, turn_id: str | None = None, next_step: NextStep | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.turn_id = turn_id


class LimitExceededError(CallerError):
    """A limit is reached; retry after `retry_after`. `is_servers` is true for a limit of all, not of the caller."""

    code = "limit_exceeded"
    retryable = True

    def __init__(self, message: str, *, retry_after: timedelta | None = None, is_servers: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_servers = is_servers


class BudgetExceededError(LimitExceededError):
    """A budget, or what the caller set for one message, lacks what it may cost; the same message is refused again.

    `details` are for programs, as JSON: `needed_usd`, null where it is not known, and `max_cost_usd` or `budget`.
    """

    code = "budget_exceeded"
    retryable = False

    def __init__(self, message: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}


class ConfigurationError(AgentApiError):
    """The operator's file or a setting is invalid; the message names the place and the fix."""

    code = "configuration"


class IssuerUnavailableError(AgentApiError):
    """An authorization server cannot be reached: its keys to verify tokens, or its pages to connect an account."""

    code = "issuer_unavailable"
    retryable = True


class StoreError(AgentApiError):
    """A storage operation failed."""

    code = "store"


class StoreUnavailableError(StoreError):
    """The store is unavailable; the message says what to do."""

    code = "store_unavailable"
    retryable = True


class StoreUnclearError(StoreUnavailableError):
    """The store's answer was lost, and it is not known whether the change was made; the message says so."""

    code = "store_unclear"
    retryable = False  # a repetition could make the change twice


class StoreBusyError(StoreError):
    """Somebody else keeps what is needed locked; nothing was changed."""

    code = "store_busy"
    retryable = True


class StoreSlowError(StoreError):
    """A list or search took longer than it may, and was ended; the message says how to ask for less."""

    code = "store_slow"
    retryable = True


class StoreMismatchError(StoreError):
    """The store has another schema or version than the program needs; nothing was changed."""

    code = "store_mismatch"


def sentences(*parts: str) -> str:
    """Join parts as sentences, adding a full stop where one is missing."""
    stripped = [part.strip() for part in parts if part.strip()]
    return " ".join(part if part.endswith((".", "!", "?", "…", ":")) else f"{part}." for part in stripped)


class BackendFault(StrEnum):
    """The classes of failure that all backends use."""

    AUTH = "auth"
    PERMISSION = "permission"
    PAYMENT = "payment"
    RATE_LIMIT = "rate_limit"
    BAD_REQUEST = "bad_request"
    CONTEXT_LENGTH = "context_length"
    NOT_FOUND = "not_found"
    CONTENT_POLICY = "content_policy"
    OVERLOADED = "overloaded"
    UPSTREAM = "upstream"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_IDLE = "timeout_idle"
    TIMEOUT_TOTAL = "timeout_total"
    CONNECTION = "connection"
    BAD_REPLY = "bad_reply"
    STREAM_CUT = "stream_cut"
    CANCELLED = "cancelled"
    BACKEND_MISSING = "backend_missing"


REFUSALS = frozenset(
    {
        BackendFault.AUTH,
        BackendFault.PERMISSION,
        BackendFault.PAYMENT,
        BackendFault.RATE_LIMIT,
        BackendFault.BAD_REQUEST,
        BackendFault.NOT_FOUND,
        BackendFault.OVERLOADED,
    }
)
"""What a provider says before any work, which costs nothing, if an answer has not begun.

Azure bills a prompt that its content filter or its limit of input refuses, so these are not among them.
"""

_NOT_ASKED = frozenset({BackendFault.TIMEOUT_CONNECT, BackendFault.BACKEND_MISSING})


@dataclass(frozen=True, slots=True)
class FaultAdvice:
    """Whether a fault can be retried, and the next step."""

    retryable: bool
    next_step: str


FAULT_ADVICE: dict[BackendFault, FaultAdvice] = {
    BackendFault.AUTH: FaultAdvice(retryable=False, next_step="Check the agent's API key; the operator sets it."),
    BackendFault.PERMISSION: FaultAdvice(
        retryable=False, next_step="The provider's account may not do this; try another model, or ask the operator."
    ),
    BackendFault.PAYMENT: FaultAdvice(
        retryable=False,
        next_step="The provider's account or key has no credit or quota left; add credit, raise the limit, or use "
        "another agent.",
    ),
    BackendFault.RATE_LIMIT: FaultAdvice(retryable=True, next_step="Wait and send the message again."),
    BackendFault.BAD_REQUEST: FaultAdvice(
        retryable=False, next_step="The provider refused the request; change the parameters or the model."
    ),
    BackendFault.CONTEXT_LENGTH: FaultAdvice(
        retryable=False,
        next_step="The conversation is too long for this model; shorten the message, start a new session or take a "
        "larger model.",
    ),
    BackendFault.NOT_FOUND: FaultAdvice(
        retryable=False,
        next_step="The provider does not know this model, or the address: choose another of the agent's, or check "
        "base_url, which often ends in /v1.",
    ),
    BackendFault.CONTENT_POLICY: FaultAdvice(
        retryable=False,
        next_step="The provider's content policy refused it; reword the message, which is not sent with later ones. If "
        "they are refused too, start a new session.",
    ),
    BackendFault.OVERLOADED: FaultAdvice(
        retryable=True, next_step="The provider is overloaded; try again in a moment, or use another agent."
    ),
    BackendFault.UPSTREAM: FaultAdvice(
        retryable=True, next_step="The provider failed; try again, or use another agent."
    ),
    BackendFault.TIMEOUT_CONNECT: FaultAdvice(
        retryable=True, next_step="The provider could not be reached in time; check the network and its base URL."
    ),
    BackendFault.TIMEOUT_IDLE: FaultAdvice(
        retryable=True, next_step="The agent went silent; try again, or raise the agent's idle_timeout_seconds."
    ),
    BackendFault.TIMEOUT_TOTAL: FaultAdvice(
        retryable=True, next_step="The agent took too long; ask for less, or raise the agent's total_timeout_seconds."
    ),
    BackendFault.CONNECTION: FaultAdvice(
        retryable=True, next_step="The connection failed; check that the agent's base URL is right and reachable."
    ),
    BackendFault.BAD_REPLY: FaultAdvice(
        retryable=True,
        next_step="The agent's reply could not be read; check that its base URL is the API that its backend speaks.",
    ),
    BackendFault.STREAM_CUT: FaultAdvice(
        retryable=True, next_step="The answer was cut off; send the message again to get a whole one."
    ),
    BackendFault.CANCELLED: FaultAdvice(
        retryable=False, next_step="The turn was cancelled; send the message again if it is still wanted."
    ),
    BackendFault.BACKEND_MISSING: FaultAdvice(
        retryable=False, next_step="The agent is not set up on this server; the list of agents says what is missing."
    ),
}


class BackendError(AgentApiError):
    """The agent failed; the message is ours, or the provider's own words, sanitized, as one line.

    `lacks_key_of` names a provider if the caller's own key for it would be enough. `next_step` replaces the advice for
    the fault class where more is known. `unbilled` says that the turn is known to have cost nothing: nobody was asked,
    or it was refused before any work.
    """

    code = "backend"

    def __init__(
        self,
        fault: BackendFault,
        message: str,
        *,
        retry_after: timedelta | None = None,
        retryable: bool | None = None,
        lacks_key_of: str | None = None,
        next_step: str | None = None,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.unbilled = fault in _NOT_ASKED
        self.lacks_key_of = lacks_key_of
        self.retry_after = retry_after
        self._next_step = next_step
        self.may_retry = FAULT_ADVICE[fault].retryable if retryable is None else retryable

    def as_unbilled(self) -> Self:
        """Say of this error that the turn is known to have cost nothing."""
        self.unbilled = True
        return self

    @property
    def next_step(self) -> str:
        """The next step for the caller."""
        if self._next_step is not None:
            return self._next_step
        # The provider's own statement on retrying takes precedence over the advice for the fault class.
        advice = FAULT_ADVICE[self.fault]
        if advice.retryable and not self.may_retry:
            return "The provider says that trying again does not help; use another model or agent."
        if self.may_retry and not advice.retryable:
            return f"{advice.next_step} The provider says that it may be tried again as it is."
        return advice.next_step

    @next_step.setter
    def next_step(self, step: str) -> None:
        self._next_step = step


class AccountNeededError(BackendError):
    """The agent cannot be asked before its caller connects an account of theirs at a provider."""

    def __init__(self, fault: BackendFault, message: str, *, provider: str) -> None:
        super().__init__(fault, message)
        self.provider = provider
        self.connect_by(f"`agentapi-mcp accounts connect {provider}`")

    def connect_by(self, how: str) -> None:
        """Set the command or the address by which this caller connects the account."""
        self.next_step = f"Connect it ({how}), then send the message again."


def retry_after_seconds(error: AgentApiError) -> int | None:
    """Return the delay before a retry in whole seconds, None if unknown."""
    if isinstance(error, LimitExceededError | BackendError) and error.retry_after is not None:
        return math.ceil(error.retry_after.total_seconds())
    return None
