"""Fit instructions, history and message into a model's context window."""

from collections.abc import Mapping

from cachetools import LRUCache

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HistoryMessage
from agentapi_mcp.core.conversations.models import History, bytes_of

# An estimate; what providers report corrects it per model (docs/design/turns.md).
_BYTES_PER_TOKEN = 4
_UNKNOWN_WINDOW = 32_000
_RESERVED_FOR_ANSWER = 4_096
_MAX_HISTORY_BYTES = 8_000_000
_WEIGHT = 0.3


# An agent and the model that it is asked for, by the name that is sent: the one that answers may have another name.
AskedModel = tuple[AgentId, str | None]


class TokenRatios:
    """Ratio of reported to estimated tokens, learned for each model; of the `max_models` that were used last."""

    def __init__(self, max_models: int = 1_000) -> None:
        self._ratios = LRUCache[AskedModel, float](max_models)

    def get(self, model: AskedModel) -> float:
        """Return the ratio of a model; 1 before the first report."""
        return self._ratios.get(model, 1.0)

    def learn(self, model: AskedModel, prompt_bytes: int, input_tokens: int) -> None:
        """Update the moving average with one reported usage."""
        if prompt_bytes <= 0 or input_tokens <= 0:
            return
        # Bounded: one odd report must neither empty nor overflow the history.
        observed = min(4.0, max(0.25, input_tokens * _BYTES_PER_TOKEN / prompt_bytes))
        before = self._ratios.get(model, observed)
        self._ratios[model] = before + _WEIGHT * (observed - before)


def longest_answer(max_tokens: int | None, max_output_tokens: int | None, context_window: int | None) -> int | None:
    """Return the tokens of the longest answer: what was asked for, or what the model can; None if neither is known.

    A model may answer as long as its whole window; by default, half of it is left to the question.
    """
    if max_output_tokens is None:
        return max_tokens
    if max_tokens is not None:
        return min(max_tokens, max_output_tokens)
    return max_output_tokens if context_window is None else min(max_output_tokens, max(1, context_window // 2))


def history_budget(context_window: int | None, max_tokens: int | None, fixed_bytes: int, ratio: float) -> int:
    """Return the bytes available for history after `fixed_bytes` of instructions and message."""
    window = context_window or _UNKNOWN_WINDOW
    reserved = min(max_tokens or _RESERVED_FOR_ANSWER, window // 2)
    budget = int((window - reserved) * _BYTES_PER_TOKEN / ratio) - fixed_bytes
    return max(0, min(budget, _MAX_HISTORY_BYTES))


def fit_history(history: History, max_bytes: int) -> History:
    """Drop the oldest messages until the rest fits."""
    if history.size <= max_bytes:
        return history
    newest: list[HistoryMessage] = []
    left = max_bytes
    for message in reversed(history.messages):
        left -= bytes_of(message.text)
        if left < 0:
            break
        newest.append(message)
    dropped = history.dropped + len(history.messages) - len(newest)
    unfinished = history.unfinished if history.unfinished <= len(newest) else 0
    return History(tuple(reversed(newest)), dropped, history.last_message_id, unfinished)


def join_instructions(
    settings: Mapping[str, object], instructions: str | None, system_prompt: str | None
) -> str | None:
    """Join the instructions of the organisation, the agent and the caller, in this order."""
    organisation = settings.get("system_prompt")
    parts = (organisation if isinstance(organisation, str) else None, instructions, system_prompt)
    return "\n\n".join(part.strip() for part in parts if part and part.strip()) or None
