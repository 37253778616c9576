"""Map provider errors to faults: their reason, when to come back, and the provider's own words."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from pydantic import SecretStr

from agentapi_mcp.backends.wire.fault_classes import fault_of
from agentapi_mcp.backends.wire.reasons import ProviderError, read_error
from agentapi_mcp.backends.wire.redaction import LONGEST_LINE, Redactor
from agentapi_mcp.backends.wire.waits import wait_of
from agentapi_mcp.base.errors import FAULT_ADVICE, REFUSALS, BackendError, BackendFault
from agentapi_mcp.base.text import one_line

_FIRST_ERROR = 400
_FOLDED = 'The operator can set system_role = "user" in the agent\'s options, which puts the instructions in a message.'
# Next steps for what a model refuses, by words of the refusal, where every kind over HTTP has an option that helps.
COMMON_HINTS: Mapping[str, str] = {
    "temperature": (
        "Leave temperature out, or take one that the model allows; where it is set for everybody, the operator can set "
        'omit_parameters = ["temperature"] in the agent\'s options.'
    ),
    "system role not supported": _FOLDED,
    "does not support 'system'": _FOLDED,
    "developer instruction is not enabled": _FOLDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultReader:
    """Maps a provider's errors to faults; `provider` is its name in messages.

    `hints` are next steps for requests that are refused with certain words, which are in lower case, where an option of
    the agent helps.
    """

    provider: str
    redactor: Redactor
    hints: Mapping[str, str] = field(default_factory=dict[str, str])

    def hiding(self, key: SecretStr | None) -> Self:
        """Return a reader that also redacts the key of a single turn."""
        redactor = self.redactor if key is None else self.redactor.also(key.get_secret_value())
        return self if redactor is self.redactor else replace(self, redactor=redactor)

    def of_reply(self, status: int, headers: Mapping[str, str], body: object) -> BackendError:
        """Map a reply with an error status to a fault; `body` is its JSON, or else its text."""
        error = read_error(body)
        found = self._to_backend_error(error, error.status if status < _FIRST_ERROR else status, headers)
        found.unbilled = found.fault in REFUSALS
        return found

    def of_error(self, body: object) -> BackendError:
        """Map an error inside a successful reply to a fault."""
        error = read_error(body)
        return self._to_backend_error(error, error.status, {})

    def of_text(self, text: str) -> BackendError:
        """Map a text that stands where an answer in JSON should to a fault, by its words where they tell one."""
        error = read_error(text)
        fault = fault_of(error, None)
        if fault is not BackendFault.UPSTREAM:
            return self._to_backend_error(error, None, {})
        line = one_line("; ".join(filter(None, map(self.redactor.line, error.words))), LONGEST_LINE)
        said = f", but says: {line}" if line else "."
        return BackendError(BackendFault.BAD_REPLY, f"The provider's reply is not JSON{said}")

    def _to_backend_error(self, error: ProviderError, status: int | None, headers: Mapping[str, str]) -> BackendError:
        fault = fault_of(error, status)
        retryable = FAULT_ADVICE[fault].retryable if error.retryable is None else error.retryable
        is_limited = fault is BackendFault.RATE_LIMIT
        said = " ".join(error.words)
        # Redacted one by one: each may have a stack trace behind it.
        line = one_line("; ".join(filter(None, map(self.redactor.line, error.words))), LONGEST_LINE)
        is_refused = fault is BackendFault.BAD_REQUEST
        hint = next((hint for word, hint in self.hints.items() if is_refused and word in said.lower()), None)
        how = f"answered with HTTP {status}" if status else "failed"
        return BackendError(
            fault,
            f"{self.provider} says: {line}" if line else f"{self.provider} {how}.",
            retryable=retryable,
            next_step=hint,
            retry_after=wait_of(error.waits, said, error.headers, headers, is_limited=is_limited)
            if retryable
            else None,
        )
