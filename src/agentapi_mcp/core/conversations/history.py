"""What the model sees: instructions, then the history that fits, then the message."""

from collections.abc import Mapping

from cachetools import LRUCache

from agentapi_mcp.core.backends.models import HistoryMessage
from agentapi_mcp.core.conversations.models import History

_BYTES_PER_TOKEN = 4
_BYTES_PER_CHARACTER = 4  # at most
_UNKNOWN_WINDOW = 32_000
_RESERVED_FOR_ANSWER = 4_096
_MAX_HISTORY_BYTES = 8_000_000
_WEIGHT = 0.3
MOST_MODELS = 1_000


class TokenRatios:
    """How many real tokens one estimated token of a model is, learned from what providers report."""

    def __init__(self) -> None:
        self._ratios = LRUCache[str, float](MOST_MODELS)

    def get(self, model: str) -> float:
        """Return the ratio, 1 while nothing is known."""
        return self._ratios.get(model, 1.0)

    def learn(self, model: str, prompt_bytes: int, input_tokens: int) -> None:
        """Correct the ratio by one real usage, slowly and within bounds."""
        if prompt_bytes <= 0 or input_tokens <= 0:
            return
        seen = min(4.0, max(0.25, input_tokens * _BYTES_PER_TOKEN / prompt_bytes))
        before = self._ratios.get(model, seen)
        self._ratios[model] = before + _WEIGHT * (seen - before)


def history_budget(context_window: int | None, max_tokens: int | None, fixed_bytes: int, ratio: float) -> int:
    """Return how many bytes of history fit beside `fixed_bytes` of instructions and message."""
    window = context_window or _UNKNOWN_WINDOW
    reserved = min(max_tokens or _RESERVED_FOR_ANSWER, window // 2)
    budget = int((window - reserved) * _BYTES_PER_TOKEN / ratio) - fixed_bytes
    return max(0, min(budget, _MAX_HISTORY_BYTES))


def fit_history(history: History, max_bytes: int) -> History:
    """Drop the oldest messages until the rest fits."""
    if _BYTES_PER_CHARACTER * sum(len(message.text) for message in history.messages) <= max_bytes:
        return history
    kept: list[HistoryMessage] = []
    left = max_bytes
    for message in reversed(history.messages):
        left -= len(message.text.encode())
        if left < 0:
            break
        kept.append(message)
    dropped = history.dropped + len(history.messages) - len(kept)
    return History(tuple(reversed(kept)), dropped, history.last_message_id)


def join_instructions(
    settings: Mapping[str, object], instructions: str | None, system_prompt: str | None
) -> str | None:
    """Put the organisation's, the agent's and the caller's instructions together, in that order."""
    organisation = settings.get("system_prompt")
    parts = (organisation if isinstance(organisation, str) else None, instructions, system_prompt)
    return "\n\n".join(part.strip() for part in parts if part and part.strip()) or None
