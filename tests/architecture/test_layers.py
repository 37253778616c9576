"""Only `app` names stores, backends and ways to sign in; imports by name are seen here, as import-linter cannot."""

import ast
import re
from pathlib import Path

import pytest

import agentapi_mcp

SOURCE = Path(agentapi_mcp.__file__).parent
PARTS = ("stores", "backends", "auth")
_NAMED = re.compile(rf"{agentapi_mcp.__name__}\.({'|'.join(PARTS)})\b")
OTHERS = sorted(
    path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in {"app", "testing", *PARTS}
)


def named_parts(text: str) -> set[str]:
    """List the parts that a module imports, or names as text to be imported later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name.name}" for name in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]
        found |= {match[1] for name in names for match in _NAMED.finditer(name)}
    return found


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_outside_app_names_no_store_backend_or_sign_in(path: Path) -> None:
    assert named_parts(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("from agentapi_mcp.stores.postgres.turns import PostgresTurns", "stores"),
        ("from agentapi_mcp import backends", "backends"),
        ("import agentapi_mcp.auth.authenticators", "auth"),
        ("import_module('agentapi_mcp.stores.redis')", "stores"),
        ("def later():\n    from agentapi_mcp.backends.registry import names", "backends"),
    ],
)
def test_each_way_to_name_one_is_seen(text: str, part: str) -> None:
    assert named_parts(text) == {part}


def test_the_modules_are_found() -> None:
    assert {path.relative_to(SOURCE).parts[0] for path in OTHERS} >= {"core", "edges", "web", "cli", "settings.py"}
