"""Map provider errors to faults, by error code first and by HTTP status last."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Self

from pydantic import SecretStr

from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.base.errors import FAULT_ADVICE, BackendError, BackendFault
from agentapi_mcp.base.json_values import as_amount, as_count, as_list, as_object, as_text

# Bounds what a provider says; a larger number is an error, and could overflow a timedelta.
_LONGEST_WAIT = Decimal(7 * 24 * 3600)

_BY_CODE: dict[str, BackendFault] = {
    # OpenRouter's error_type
    "rate_limit_exceeded": BackendFault.RATE_LIMIT,
    "provider_overloaded": BackendFault.OVERLOADED,
    "provider_unavailable": BackendFault.UPSTREAM,
    "payment_required": BackendFault.PAYMENT,
    "context_length_exceeded": BackendFault.CONTEXT_LENGTH,
    "content_policy_violation": BackendFault.CONTENT_POLICY,
    "server": BackendFault.UPSTREAM,
    "timeout": BackendFault.UPSTREAM,
    # OpenAI's code and type
    "invalid_api_key": BackendFault.AUTH,
    "authentication_error": BackendFault.AUTH,
    "insufficient_quota": BackendFault.PAYMENT,
    "billing_hard_limit_reached": BackendFault.PAYMENT,
    "model_not_found": BackendFault.NOT_FOUND,
    "string_above_max_length": BackendFault.CONTEXT_LENGTH,
    "content_filter": BackendFault.CONTENT_POLICY,
    "permission_error": BackendFault.PERMISSION,
    "rate_limit_error": BackendFault.RATE_LIMIT,
    "overloaded_error": BackendFault.OVERLOADED,
    "server_error": BackendFault.UPSTREAM,
    # Anthropic's type; its "api_error" is less specific than the status, which claude-code-router adds
    "billing_error": BackendFault.PAYMENT,
    "not_found_error": BackendFault.NOT_FOUND,
    "request_too_large": BackendFault.CONTEXT_LENGTH,
    "timeout_error": BackendFault.UPSTREAM,
    # claude-code-router's code
    "provider_not_found": BackendFault.NOT_FOUND,
    # Google's status
    "unauthenticated": BackendFault.AUTH,
    "permission_denied": BackendFault.PERMISSION,
    "resource_exhausted": BackendFault.RATE_LIMIT,
    "not_found": BackendFault.NOT_FOUND,
    "unavailable": BackendFault.OVERLOADED,
    "deadline_exceeded": BackendFault.UPSTREAM,
}
_BY_STATUS: dict[int, BackendFault] = {
    401: BackendFault.AUTH,
    402: BackendFault.PAYMENT,
    403: BackendFault.PERMISSION,
    404: BackendFault.NOT_FOUND,
    408: BackendFault.UPSTREAM,
    413: BackendFault.CONTEXT_LENGTH,
    429: BackendFault.RATE_LIMIT,
    503: BackendFault.OVERLOADED,
    529: BackendFault.OVERLOADED,
}
_FIRST_SERVER_ERROR, _FIRST_CLIENT_ERROR = 500, 400
_MAX_STATUS = 599
_TOO_LONG = re.compile(
    r"context (?:length|window|size)|maximum context|prompt is too long|too many tokens|token count .*exceeds"
    r"|exceeds? the (?:maximum|available) .*(?:tokens|context)",
    re.IGNORECASE,
)

_NO_CREDIT = re.compile(r"credit balance is too low", re.IGNORECASE)  # Anthropic sends it with status 400
_FILTERED = re.compile(r"blocked by content filtering", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderError:
    """A parsed provider error; None where it does not say."""

    message: str = ""
    codes: tuple[str, ...] = ()
    status: int | None = None
    moderated: bool = False
    retryable: bool | None = None
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultReader:
    """Maps a provider's errors to faults; `provider` is its name in messages."""

    provider: str
    redactor: Redactor

    def hiding(self, key: SecretStr | None) -> Self:
        """Return a reader that also redacts the key of a single turn."""
        redactor = self.redactor if key is None else self.redactor.also(key.get_secret_value())
        return self if redactor is self.redactor else replace(self, redactor=redactor)

    def of_reply(self, status: int, headers: Mapping[str, str], body: object) -> BackendError:
        """Map a reply with an error status to a fault."""
        error = read_error(body)
        return self._to_backend_error(error, error.status if status < _FIRST_CLIENT_ERROR else status, headers)

    def of_error(self, body: object) -> BackendError:
        """Map an error inside a successful reply to a fault."""
        error = read_error(body)
        return self._to_backend_error(error, error.status, {})

    def _to_backend_error(self, error: ProviderError, status: int | None, headers: Mapping[str, str]) -> BackendError:
        fault = _fault(error, status)
        retryable = FAULT_ADVICE[fault].retryable if error.retryable is None else error.retryable
        line = self.redactor.line(error.message)
        how = f"answered with HTTP {status}" if status else "failed"
        return BackendError(
            fault,
            f"{self.provider} says: {line}" if line else f"{self.provider} {how}.",
            retryable=retryable,
            retry_after=(error.retry_after or _header_wait(headers)) if retryable else None,
        )


def read_error(body: object) -> ProviderError:
    """Parse an error body of OpenAI, OpenRouter, Google (also in an array), vLLM or FastAPI."""
    outer = as_object(next(iter(as_list(body)), body))
    inner = outer.get("error", outer)
    if isinstance(inner, str):
        return ProviderError(message=inner)
    error, metadata = as_object(inner), as_object(as_object(inner).get("metadata"))
    availability = as_object(error.get("availability"))
    retryable = availability.get("retryable")
    codes = (metadata.get("error_type"), error.get("error_type"), *map(error.get, ("status", "code", "type")))
    return ProviderError(
        message=as_text(error.get("message")) or as_text(error.get("detail")) or "",
        codes=tuple(code.lower() for code in codes if isinstance(code, str)),
        status=_http_status(error.get("code")),
        moderated="flagged_input" in metadata or "reasons" in metadata,
        retryable=retryable if isinstance(retryable, bool) else None,
        retry_after=_seconds(availability.get("retry_after")) or _retry_info(error),
    )


def _fault(error: ProviderError, status: int | None) -> BackendFault:
    if error.moderated:
        return BackendFault.CONTENT_POLICY
    # OpenAI reports a wrong key as "invalid_request_error", so codes outside of the table are ignored.
    by_code = next((_BY_CODE[code] for code in error.codes if code in _BY_CODE), None)
    if by_code is not None:
        return by_code
    by_status = _by_status(status)
    if by_status is BackendFault.BAD_REQUEST and _NO_CREDIT.search(error.message):
        return BackendFault.PAYMENT
    if by_status is BackendFault.BAD_REQUEST and _FILTERED.search(error.message):
        return BackendFault.CONTENT_POLICY
    if by_status in {BackendFault.BAD_REQUEST, BackendFault.UPSTREAM} and _TOO_LONG.search(error.message):
        return BackendFault.CONTEXT_LENGTH
    return by_status


def _by_status(status: int | None) -> BackendFault:
    if status is None or status >= _FIRST_SERVER_ERROR:
        return _BY_STATUS.get(status or 0, BackendFault.UPSTREAM)
    if status < _FIRST_CLIENT_ERROR:
        return BackendFault.BAD_REPLY
    return _BY_STATUS.get(status, BackendFault.BAD_REQUEST)


def _http_status(value: object) -> int | None:
    """Read an error code that is an HTTP status; providers have numbers of their own too, of any size."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[45]\d\d", value) else None
    number = as_count(value)
    return number if number is not None and number <= _MAX_STATUS else None


def _seconds(value: object) -> timedelta | None:
    seconds = as_amount(value)
    return None if seconds is None else timedelta(seconds=float(min(seconds, _LONGEST_WAIT)))


def _retry_info(error: Mapping[str, object]) -> timedelta | None:
    details = (as_object(detail) for detail in as_list(error.get("details")))
    delays = (as_text(detail.get("retryDelay")) for detail in details if "RetryInfo" in str(detail.get("@type")))
    return next((_seconds(delay.removesuffix("s")) for delay in delays if delay), None)


def _header_wait(headers: Mapping[str, str]) -> timedelta | None:
    header = headers.get("retry-after", "").strip()
    if not header:
        return None
    wait = _seconds(header)
    if wait is not None:
        return wait
    try:
        wait = parsedate_to_datetime(header).astimezone(UTC) - datetime.now(UTC)
    except (ValueError, OverflowError):
        return None
    return min(max(wait, timedelta(0)), timedelta(seconds=float(_LONGEST_WAIT)))
