"""Starlette answers an unexpected error in plain text, unless it is passed on to the outermost middleware."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def test_every_starlette_application_with_routes_passes_errors_on() -> None:
    calls = [
        ast.unparse(node)
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Starlette"
    ]
    with_routes = [call for call in calls if "routes=" in call]
    assert len(with_routes) > 1
    assert [call for call in with_routes if "Exception: pass_on" not in call] == []
