"""Every test function asserts something that its reader can see."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PREFIXES = ("assert_", "check_", "expect_")  # how the name of a helper begins that asserts
HELPER = re.compile(rf"def (?:{'|'.join(PREFIXES)})")
OF_PYTEST = frozenset({"fail", "raises", "warns", "RaisesGroup"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(trees: Iterable[ast.Module]) -> Iterator[Function]:
    """Yield all functions and methods of these modules."""
    for tree in trees:
        yield from (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))


def asserts_itself(function: Function) -> bool:
    """Tell whether a function holds an assertion of its own."""
    return any(isinstance(node, ast.Assert) or _asks_pytest(node) for node in ast.walk(function))


def _asks_pytest(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="pytest"), attr=name)):
            return name in OF_PYTEST
        case _:
            return False


def called_by(function: Function) -> set[str]:
    """Name the functions and methods that a function calls."""
    names: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                names.add(name)
            case _:
                pass
    return names


def asserting_helpers(trees: Iterable[ast.Module]) -> set[str]:
    """Name the helpers that assert, or call one that does; of several of one name each must."""
    helpers = [each for each in functions(trees) if each.name.startswith(PREFIXES)]
    asserting: set[str] = set()
    silent = {each.name for each in helpers}
    while silent != (silent := _silent(helpers, asserting)):
        asserting = {each.name for each in helpers} - silent
    return asserting


def _silent(helpers: list[Function], asserting: set[str]) -> set[str]:
    return {each.name for each in helpers if not asserts_itself(each) and not called_by(each) & asserting}


def unasserted(trees: list[ast.Module]) -> list[str]:
    """Name the tests that hold no assertion, and call no helper that does."""
    helpers = asserting_helpers(trees)
    tests = [each for each in functions(trees) if each.name.startswith("test_")]
    return [each.name for each in tests if not asserts_itself(each) and not called_by(each) & helpers]


@pytest.mark.timeout(300)  # it parses all tests, some 20 s where much else runs
def test_every_test_asserts_something() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py"))]
    program = (path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    # Of the program only what tests may call: to parse all of it would be half of the time.
    trees = [ast.parse(text) for text in [*texts, *(text for text in program if HELPER.search(text))]]
    assert len([each for each in functions(trees) if each.name.startswith("test_")]) > 900
    assert unasserted(trees) == []


@pytest.mark.parametrize(
    "body",
    [
        "assert run()",
        "with pytest.raises(ValueError):\n        run()",
        "for each in run():\n        assert each",
        "expect_end(run())",
        "setup.check_all()",
        "pytest.fail('no')",
    ],
)
def test_an_assertion_is_seen(body: str) -> None:
    helpers = "def expect_end(it):\n    assert it\nclass Setup:\n    def check_all(self):\n        expect_end(self)\n"
    assert unasserted([ast.parse(f"{helpers}def test_x():\n    {body}\n")]) == []


@pytest.mark.parametrize(
    "body",
    ["run()", "expect_nothing()", "check_unknown()", "check_request()", "run().raises(ValueError)", "helper()"],
)
def test_a_test_that_only_runs_is_found(body: str) -> None:
    helpers = (
        "def expect_nothing():\n    run()\n"
        "def check_request():\n    assert True\nclass Other:\n    def check_request(self):\n        run()\n"
        "def helper():\n    assert True\n"
    )
    assert unasserted([ast.parse(f"{helpers}async def test_x():\n    {body}\n")]) == ["test_x"]
