"""Secrets are compared in constant time, so that how long a refusal takes tells nothing of them."""

import ast
import re
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src" / "agentapi_mcp"
SECRET = re.compile(r"(^|_)(token|secret|password|passphrase|digest|signature|seal|nonce|hash|mac|api_key|bearer)s?$")
# Each with why it may be compared as any other value.
ALLOWED = {
    "core/identity/cursors.py: seal != _seal(scope, principal, body)": "it is a checksum that anybody can compute",
    "core/access/personal_tokens.py: _check_digits(secret[:-_CHECK_DIGITS]) == secret[-_CHECK_DIGITS:]": "the same",
}


def name_of(value: ast.expr) -> str:
    """Return what an operand is called: the last of its names."""
    match value:
        case ast.Name():
            return value.id
        case ast.Attribute():
            return value.attr
        case ast.Call():
            return name_of(value.func)
        case ast.Subscript(slice=ast.Constant(value=str() as key)):
            return key
        case ast.Subscript() | ast.Await():
            return name_of(value.value)
        case _:
            return ""


def comparisons(source: str) -> list[str]:
    """List where values that are called like secrets are compared in a time that depends on them."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        and any(SECRET.search(name_of(side)) for side in (node.left, *node.comparators))
    ]


def test_no_secret_is_compared_in_a_time_that_depends_on_it() -> None:
    found = {
        f"{file.relative_to(SOURCES).as_posix()}: {each}"
        for file in SOURCES.rglob("*.py")
        for each in comparisons(file.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED)


def test_a_comparison_in_the_wrong_way_would_be_found() -> None:
    source = "token == given\nrow['key_hash'] != x\nself._digest == b\nlen(token) == 2\ntoken_kind == 3\nx == f(token)"
    assert comparisons(source) == ["token == given", "row['key_hash'] != x", "self._digest == b"]
