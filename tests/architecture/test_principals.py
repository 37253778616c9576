"""A principal is made in one place, so that nothing else decides who somebody is."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import agentapi_mcp
from agentapi_mcp.core.identity.principals import Principal

SOURCE = Path(agentapi_mcp.__file__).parent
MAKER = SOURCE / "core" / "access" / "principal_factory.py"
OTHERS = sorted(path for path in SOURCE.rglob("*.py") if path != MAKER)
FIELDS = {field.name for field in fields(Principal)}


def annotations(tree: ast.AST) -> Iterator[ast.expr]:
    """List the annotations of arguments, results and variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            yield node.returns


def name_of(node: ast.expr) -> str:
    """Return the last name of a name or an attribute."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def uses_as_a_value(tree: ast.AST) -> Iterator[int]:
    """List where the class is used other than in an annotation, a type alias, or to ask what a value is."""
    allowed = {id(part) for annotation in annotations(tree) for part in ast.walk(annotation)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) == "isinstance":
            allowed |= {id(part) for part in ast.walk(node.args[1])}
        elif isinstance(node, ast.Subscript):
            allowed |= {id(part) for part in ast.walk(node.slice)}  # Callable[[Principal], …], set[Principal]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (node.lineno for name in node.names if name.name.endswith("Principal") and name.asname)
        if isinstance(node, ast.Name | ast.Attribute) and name_of(node) == "Principal" and id(node) not in allowed:
            yield node.lineno


def replacements(tree: ast.AST) -> Iterator[int]:
    """List the calls of `replace` that change what a principal has, or may do so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in {"dataclasses", "copy"}:
            yield from (node.lineno for name in node.names if name.name == "replace" and name.asname)
        if not isinstance(node, ast.Call) or name_of(node.func) not in {"replace", "__replace__"}:
            continue
        given = {keyword.arg for keyword in node.keywords}
        # With `**` the fields cannot be read; then the class has to be, by the call that makes it.
        is_readable = None not in given or (node.args and isinstance(node.args[0], ast.Call))
        if given & FIELDS or not is_readable:
            yield node.lineno


def test_the_module_that_makes_principals_is_found_by_these_rules() -> None:
    tree = ast.parse(MAKER.read_text(encoding="utf-8"))
    assert len(list(uses_as_a_value(tree))) == 3
    assert len(list(replacements(tree))) == 1


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_other_module_makes_or_changes_a_principal(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(uses_as_a_value(tree)) == []
    assert list(replacements(tree)) == []


@pytest.mark.parametrize(
    "text",
    [
        "Principal(user_id, org_id)",
        "identity.Principal(user_id, org_id)",
        "make = partial(Principal, user_id)",
        "from agentapi_mcp.core.identity.principals import Principal as Somebody",
        "who: Principal = Principal(user_id, org_id)",
        "kind = Principal",
    ],
)
def test_each_way_to_use_the_class_is_seen(text: str) -> None:
    assert list(uses_as_a_value(ast.parse(text))) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "replace(somebody, role=role)",
        "dataclasses.replace(somebody, scopes=None)",
        "replace(somebody, **changes)",
        "somebody.__replace__(via='me')",
        "from dataclasses import replace as other",
    ],
)
def test_each_way_to_change_one_is_seen(text: str) -> None:
    assert list(replacements(ast.parse(text))) == [1]
