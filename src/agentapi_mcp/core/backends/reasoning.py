"""Reasoning that models mark within their answers."""

import re
from collections.abc import Mapping

# What begins and ends reasoning at the beginning of an answer: of local models, Gemini's endpoint, and Mistral.
REASONING: Mapping[str, str] = {"<think>": "</think>", "<thought>": "</thought>", "[THINK]": "[/THINK]"}
# Some templates begin the answer with the opening tag, so that the model says only the closing one.
CLOSING = "</think>"
_CLOSED = re.compile(rf"^[ \t]*{CLOSING}[ \t]*$", re.MULTILINE)


def without_reasoning(answer: str) -> str:
    """Return an answer without the reasoning that it begins with; empty where nothing else was said.

    It is what chat templates take out of earlier answers. Of an answer that only quotes a tag, nothing is taken out.
    """
    rest = answer
    while True:
        begin = rest.lstrip()
        closing = next((end for tag, end in REASONING.items() if begin.startswith(tag)), None)
        if closing is None:
            break
        rest = begin.partition(closing)[2].lstrip()
    if rest is answer and CLOSING in rest:
        closed = _CLOSED.search(rest)
        if closed and "<think>" not in rest[: closed.start()]:
            return rest[closed.end() :].lstrip()
    return rest
