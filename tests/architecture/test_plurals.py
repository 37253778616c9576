"""One function writes a number with what it counts, so that nobody reads `1 members`."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import agentapi_mcp
from agentapi_mcp.base.text import number_of

SOURCE = Path(agentapi_mcp.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
# What the program counts. A limit, which no number of things is, has a name in capitals or is called `most`.
COUNTED = (
    "account|agent|answer|character|client|connection|entrie|error|event|fault|file|key|line|member|message|model|name"
    "|other|question|replica|row|server|session|token|tool|turn|user|warning"
)
_NOUN = re.compile(rf"\s(?:[a-z]+ )?(?:{COUNTED})s\b")
_NUMBER = re.compile(r"len\(|count|number|missing|unknown|s$")
_LIMIT = re.compile(
    r"number_of|[A-Z_][A-Z_\d]*[A-Z]\b|most|self\.(?:_most|values|number|containers)|_options\.max_|room"
)


def plurals_by_hand(tree: ast.AST) -> Iterator[str]:
    """Yield what writes a plural otherwise."""
    for node in ast.walk(tree):
        match node:
            case ast.IfExp(body=ast.Constant(value=one), orelse=ast.Constant(value=other)) if (
                {one, other} in ({"", "s"}, {"", "es"}) or f"{one}s" == other or f"{other}s" == one
            ):
                yield ast.unparse(node)
            case ast.JoinedStr(values=parts):
                for value, text in pairwise(parts):
                    if _is_plural(value, text):
                        yield ast.unparse(value) + ast.unparse(text)
            case _:
                pass


def _is_plural(value: ast.expr, text: ast.expr) -> bool:
    if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
        return False
    said = _NOUN.match(str(text.value))
    shown = ast.unparse(value.value)
    return said is not None and _NUMBER.search(shown) is not None and not _LIMIT.search(shown)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_number_is_written_with_what_it_counts_by_the_one_function(path: Path) -> None:
    assert list(plurals_by_hand(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        """f"{count} turn{'s' if count > 1 else ''}" """,
        """f"{count} {'turn' if count == 1 else 'turns'}" """,
        """f"{len(found)} members" """,
        """f"{numbers.sessions:,} running sessions, " """,
    ],
)
def test_a_plural_by_hand_is_found(code: str) -> None:
    assert len(list(plurals_by_hand(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ['''f"at most {_MOST_NAMES} names"''', '''f"{agent} models it"''', """number_of(1, "turn")"""]
)
def test_a_limit_is_no_count(code: str) -> None:
    assert list(plurals_by_hand(ast.parse(code.replace("models it", "has them")))) == []


@pytest.mark.parametrize(
    ("number", "what", "plural", "text"),
    [
        (0, "turn", None, "0 turns"),
        (1, "turn", None, "1 turn"),
        (2, "turn", None, "2 turns"),
        (12_000, "entry", "entries", "12,000 entries"),
        (1, "entry", "entries", "1 entry"),
    ],
)
def test_a_number_is_written_with_what_it_counts(number: int, what: str, plural: str | None, text: str) -> None:
    assert number_of(number, what, plural) == text
