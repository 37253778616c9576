"""The error tree; an edge translates it by one table, a message is written for the caller.

AgentApiError
├── CallerError               the caller can fix it
│   ├── InvalidRequestError
│   ├── NotAuthenticatedError
│   ├── PermissionDeniedError
│   ├── NotFoundError         also when the caller may not know that it exists
│   ├── ConflictError         a turn is already running, or a key was used for something else
│   └── LimitExceededError    carries retry_after
├── BackendError              the agent failed; carries a BackendFault
├── ConfigurationError        the operator's file or setting is wrong
└── StoreError                we failed
    ├── StoreUnavailableError
    └── StoreMismatchError    the database is of another shape or version
"""

import math
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar


class AgentApiError(Exception):
    """The root: `str(error)` is written for the caller and never holds a secret, SQL or a foreign message."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class NextStep(StrEnum):
    """What the caller can do where each edge has its own way to do it; an edge words every one in one table."""

    FIND_SESSION = "find_session"
    FIND_TURN = "find_turn"
    WAIT_OR_CANCEL = "wait_or_cancel"


class CallerError(AgentApiError):
    """What the caller can fix.

    The message about an `argument` goes on from its name, which an edge may call otherwise.
    """

    code = "caller"

    def __init__(self, message: str, *, argument: str | None = None, next_step: NextStep | None = None) -> None:
        super().__init__(message if argument is None else f"{argument} {message}")
        self.message = message
        self.argument = argument
        self.next_step = next_step


class InvalidRequestError(CallerError):
    """An argument that cannot be meant."""

    code = "invalid_request"


class NotAuthenticatedError(CallerError):
    """Nobody is known to be asking; `was_good` where a token has been one for this server, so that nobody guesses."""

    code = "not_authenticated"

    def __init__(self, message: str, *, was_good: bool = False) -> None:
        super().__init__(message)
        self.was_good = was_good


class PermissionDeniedError(CallerError):
    """The principal may not do this; `scope` is what their token lacks, where that is all; `action` what it was."""

    code = "permission_denied"

    def __init__(self, message: str, *, scope: str | None = None, action: str | None = None) -> None:
        super().__init__(message)
        self.scope = scope
        self.action = action


class NotFoundError(CallerError):
    """There is no such thing, or none that the caller may know of."""

    code = "not_found"


class ConflictError(CallerError):
    """Something is in the way; `turn_id` names the turn to wait for, where it is one."""

    code = "conflict"

    def __init__(self, message: str, *, turn_id: str | None = None, next_step: NextStep | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.turn_id = turn_id


class LimitExceededError(CallerError):
    """A limit is reached; try again after `retry_after`."""

    code = "limit_exceeded"
    retryable = True

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ConfigurationError(AgentApiError):
    """The operator's file or a setting is wrong; the message names the place and the remedy."""

    code = "configuration"


class IssuerUnavailableError(AgentApiError):
    """An authorization server does not tell its keys now, so that nobody can say whether its token is good."""

    code = "issuer_unavailable"
    retryable = True


class StoreError(AgentApiError):
    """We failed to keep or to find something."""

    code = "store"


class StoreUnavailableError(StoreError):
    """The store cannot be reached now; the message says what to do."""

    code = "store_unavailable"
    retryable = True


class StoreMismatchError(StoreError):
    """The store is of another shape or version than this program needs; nothing was changed."""

    code = "store_mismatch"


def sentences(*parts: str) -> str:
    """Join what is said in sentences, whoever wrote them: each ends before the next begins."""
    said = [part.strip() for part in parts if part.strip()]
    return " ".join(part if part.endswith((".", "!", "?", "…", ":")) else f"{part}." for part in said)


class BackendFault(StrEnum):
    """The classes of failure that every backend speaks of (design: backends)."""

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


@dataclass(frozen=True, slots=True)
class FaultAdvice:
    """Whether a fault may be retried, and the next step in words."""

    retryable: bool
    next_step: str


FAULT_ADVICE: dict[BackendFault, FaultAdvice] = {
    BackendFault.AUTH: FaultAdvice(retryable=False, next_step="Check the agent's API key; the operator sets it."),
    BackendFault.PERMISSION: FaultAdvice(
        retryable=False, next_step="The provider's account may not do this; try another model, or ask the operator."
    ),
    BackendFault.PAYMENT: FaultAdvice(
        retryable=False, next_step="The provider's account has no credit left; add credit, or use another agent."
    ),
    BackendFault.RATE_LIMIT: FaultAdvice(retryable=True, next_step="Wait and send the message again."),
    BackendFault.BAD_REQUEST: FaultAdvice(
        retryable=False, next_step="The provider refused the request; change the parameters or the model."
    ),
    BackendFault.CONTEXT_LENGTH: FaultAdvice(
        retryable=False,
        next_step="The conversation is too long for this model; start a new session or take a larger model.",
    ),
    BackendFault.NOT_FOUND: FaultAdvice(
        retryable=False,
        next_step="The provider does not know this model, or the address: choose another of the agent's, or check "
        "base_url, which often ends in /v1.",
    ),
    BackendFault.CONTENT_POLICY: FaultAdvice(
        retryable=False, next_step="The provider's content policy refused it; reword the message."
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
    """The agent failed. `message` is ours or the provider's first line, cleaned.

    `lacks_key_of` names a provider where a key of the caller's own would have been enough.
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
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.lacks_key_of = lacks_key_of
        self.retry_after = retry_after
        self.may_retry = FAULT_ADVICE[fault].retryable if retryable is None else retryable

    @property
    def next_step(self) -> str:
        """What to do about it, in words; a provider that judges otherwise than we would is believed."""
        advice = FAULT_ADVICE[self.fault]
        if advice.retryable and not self.may_retry:
            return "The provider says that trying again does not help; use another model or agent."
        if self.may_retry and not advice.retryable:
            return f"{advice.next_step} The provider says that it may be tried again as it is."
        return advice.next_step


def retry_after_seconds(error: AgentApiError) -> int | None:
    """Return when to try again, in whole seconds, where the error knows."""
    if isinstance(error, LimitExceededError | BackendError) and error.retry_after is not None:
        return math.ceil(error.retry_after.total_seconds())
    return None
