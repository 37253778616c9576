"""Parameters of a turn, and their validation."""

import math
from dataclasses import dataclass

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.validation import check_text

MAX_PROMPT_BYTES = 200_000

_MAX_TEMPERATURE = 2.0

_MAX_TOKENS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters that a caller may set for one turn; None means the default."""

    system_prompt: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None


def check_parameters(parameters: Parameters) -> None:
    """Validate parameters of a turn.

    Raises:
        InvalidRequestError: names the invalid one, and what is allowed.
    """
    if parameters.system_prompt is not None:
        check_text(parameters.system_prompt, "system_prompt", MAX_PROMPT_BYTES)
    temperature = parameters.temperature
    if temperature is not None and not (math.isfinite(temperature) and 0 <= temperature <= _MAX_TEMPERATURE):
        raise InvalidRequestError(f"must be between 0 and {_MAX_TEMPERATURE:g}.", argument="temperature")
    if parameters.max_tokens is not None and not 1 <= parameters.max_tokens <= _MAX_TOKENS:
        raise InvalidRequestError(f"must be between 1 and {_MAX_TOKENS:,}.", argument="max_tokens")
