"""What a conversation has cost: a line below each answer, and the sum."""

import re
from collections import Counter
from typing import Any

from rich.cells import cell_len, set_cell_size

from agentapi_mcp.cli.replies import ChatReply
from agentapi_mcp.cli.terminal import visible

_SHORT_ID = 8  # characters that tell sessions apart: the end of an id
# How a bill is shortened to fit into a row, from what matters least.
_SHORTER = (
    (re.compile(r" \(.*\)$"), ""),  # the model, and the source of a price
    (re.compile(r"^\d+\.\d s$"), ""),
    (re.compile(r"^.* tokens in, .*$"), ""),
    (re.compile(r"^session .*$"), ""),
    (re.compile(r"^the provider may go on billing$"), "billing may go on"),
)


class Bills:
    """The bills of the answers of a conversation."""

    def __init__(self) -> None:
        self._answers: Counter[str] = Counter()
        self._costs: dict[str, float] = {}
        self._tokens = [0, 0]
        self._unknown = 0

    def add(self, turn: dict[str, Any]) -> None:
        """Add the bill of a turn."""
        agent = str(turn["agent"])
        self._answers[agent] += 1
        if turn["cost_usd"] is None:
            self._unknown += 1
        self._costs[agent] = self._costs.get(agent, 0) + (turn["cost_usd"] or 0)
        for place, name in enumerate(("input_tokens", "output_tokens")):
            self._tokens[place] += turn["usage"][name] or 0

    @property
    def total(self) -> str:
        """The sum of what is known."""
        unknown = f" and {self._unknown} unknown" if self._unknown else ""
        return f"{dollars(sum(self._costs.values()))}{unknown}"

    def line(self, reply: ChatReply, width: int) -> str:
        """Describe the bill of an answer in one row: where it is too long, what matters least is left out."""
        parts = [*reply.bill.split(" · "), f"total {self.total}", f"session {short_id(reply.session_id)}"]
        line = _row(parts)
        for long, short in _SHORTER:
            if cell_len(line) > width:
                parts = [long.sub(short, part) for part in parts]
                line = _row(parts)
        return line if cell_len(line) <= width else set_cell_size(line, width - 1).rstrip() + "…"

    def summary(self) -> list[str]:
        """Describe what the conversation has cost, by agent."""
        if not self._answers:
            return ["Nothing was asked yet."]
        into, out = self._tokens
        lines = [
            f"{agent}: {_counted(count, 'answer')}, {dollars(self._costs[agent])}"
            for agent, count in self._answers.items()
        ]
        return [
            *lines,
            f"Together: {_counted(self._answers.total(), 'answer')}, {into:,} tokens in, {out:,} out, {self.total}.",
        ]


def _row(parts: list[str]) -> str:
    return visible(f"[{' · '.join(filter(None, parts))}]")


def dollars(amount: float) -> str:
    """Write an amount of US dollars with as many digits as it needs."""
    return f"${amount:.2f}" if amount >= 1 or not amount else f"${amount:.6f}".rstrip("0")


def short_id(id_: str) -> str:
    """Return the end of an id, which is enough to find it."""
    return id_[-_SHORT_ID:]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
