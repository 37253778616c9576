"""What a conversation has cost: a line below each answer, and the sum."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from agentapi_mcp.base.text import number_of
from agentapi_mcp.cli.ids import short_id
from agentapi_mcp.cli.replies import ChatReply
from agentapi_mcp.cli.terminal import visible
from agentapi_mcp.core.budgets.models import BudgetState
from agentapi_mcp.presentation.budgets import left_and_used_up
from agentapi_mcp.presentation.costs import read_cost
from agentapi_mcp.presentation.values import dollars

# How a bill is shortened to fit into a row, from what matters least.
_SHORTER = (
    (re.compile(r" \(.*\)$"), ""),  # the model, and the source of a price
    (re.compile(r"^\d+\.\d s$"), ""),
    (re.compile(r"^.* tokens? in, .*$"), ""),
    (re.compile(r"^session .*$"), ""),
    (re.compile(r"^the provider may go on billing$"), "billing may go on"),
    (re.compile(r"^(\S+ left) of .*$"), r"\1"),
)


class Bills:
    """The bills of the answers of a conversation."""

    def __init__(self) -> None:
        self._costs: dict[str, list[float | None]] = {}
        self._budget: BudgetState | None = None
        self._tokens: tuple[list[float | None], list[float | None]] = ([], [])

    def add(self, turn: dict[str, Any]) -> None:
        """Add the bill of a turn."""
        self._costs.setdefault(str(turn["agent"]), []).append(turn["cost_usd"])
        for counts, name in zip(self._tokens, ("input_tokens", "output_tokens"), strict=True):
            counts.append(turn["usage"][name])
        self._budget = read_cost(turn).budget

    @property
    def total(self) -> str:
        """The sum of what is known."""
        return _sum([cost for costs in self._costs.values() for cost in costs], dollars)

    def line(self, reply: ChatReply, width: int) -> str:
        """Describe the bill of an answer in one row: where it is too long, what matters least is left out."""
        parts = [*reply.bill.split(" · "), f"total {self.total}", f"session {short_id(reply.session_id)}"]
        line = _row(parts)
        for long, short in _SHORTER:
            if cell_len(line) > width:
                parts = [long.sub(short, part) for part in parts]
                line = _row(parts)
        return fitted(line, width)

    def summary(self) -> list[str]:
        """Describe what the conversation has cost, by agent, and what was left after the last answer."""
        if not self._costs:
            return ["Nothing was asked yet."]
        into, out = (_sum(counts, lambda count: f"{count:,.0f}") for counts in self._tokens)
        answers = sum(map(len, self._costs.values()))
        return [
            *(
                f"{agent}: {number_of(len(costs), 'answer')}, {_sum(costs, dollars)}"
                for agent, costs in self._costs.items()
            ),
            f"Together: {number_of(answers, 'answer')}, tokens in: {into}, out: {out}, {self.total}.",
            *([] if self._budget is None else left_and_used_up(self._budget)),
        ]


def _sum(values: Sequence[float | None], written: Callable[[float], str]) -> str:
    """Write the sum of what is known, and how many are unknown; nothing known is no zero."""
    known = [value for value in values if value is not None]
    unknown = len(values) - len(known)
    if not known and unknown:
        return "unknown"
    return f"{written(sum(known))} and {unknown} unknown" if unknown else written(sum(known))


def _row(parts: list[str]) -> str:
    return visible(f"[{' · '.join(filter(None, parts))}]")


def fitted(line: str, width: int) -> str:
    """Return a line that fits into a row, cut where it is too long."""
    return line if cell_len(line) <= width else set_cell_size(line, width - 1).rstrip() + "…"
