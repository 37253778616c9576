"""Every SQL literal of the stores is prepared on the migrated schema: a misspelt column fails here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

import agentapi_mcp.stores.postgres as stores
from tests.conftest import DatabaseUrls

FOLDER = Path(stores.__file__).parent
METHODS = frozenset({"fetch", "fetchrow", "fetchval", "execute"})
PREPARABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
MODULES = sorted(path.name for path in FOLDER.glob("*.py"))


def constants(tree: ast.Module) -> dict[str, str]:
    """Collect the module's text constants, dictionaries of them included under `name`."""
    found: dict[str, str] = {}
    for node in tree.body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            found[target.id] = value.value
    return found


def text_of(node: ast.expr, known: dict[str, str]) -> str | None:
    """Read the SQL that an argument stands for."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left, known), text_of(node.right, known)
        return None if left is None or right is None else left + right
    return None


def statements() -> Iterator[tuple[str, str]]:
    """List where each statement stands, and its text."""
    shared = constants(ast.parse((FOLDER / "turn_rows.py").read_text(encoding="utf-8")))
    for name in MODULES:
        tree = ast.parse((FOLDER / name).read_text(encoding="utf-8"))
        known = {**shared, **constants(tree)}
        for node in ast.walk(tree):
            called = node.func if isinstance(node, ast.Call) else None
            if not (isinstance(node, ast.Call) and isinstance(called, ast.Attribute) and called.attr in METHODS):
                continue
            text = text_of(node.args[0], known) if node.args else None
            if text is not None and text.lstrip().startswith(PREPARABLE):
                yield f"{name}:{node.lineno}", text


@pytest.mark.parametrize(("place", "sql"), [pytest.param(place, sql, id=place) for place, sql in statements()])
async def test_a_statement_fits_the_schema(place: str, sql: str, database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await owner.prepare(sql)
    except asyncpg.PostgresError as fault:
        pytest.fail(f"{place}: {fault}")
    finally:
        await owner.close()


def test_the_statements_are_found() -> None:
    assert len(list(statements())) >= 40
