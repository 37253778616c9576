"""The pages for developers name files, classes and functions of the code; every one of them must exist."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import agentapi_mcp

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(agentapi_mcp.__file__).resolve().parent
ARCHITECTURE = ROOT / "docs" / "design" / "architecture.md"
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "design").glob("*.md"))]

# Names of other people's code and protocols: name -> whose it is.
FOREIGN = {
    "Connection.from_envelope": "the MCP SDK",
    "MCPServer": "the MCP SDK",
    "Protocol": "the standard library",
    "SecretStr": "pydantic",
}

_FENCE = re.compile(r"^```\w*\n.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"([\w./-]+\.py)(?:::(\w+))?")
_CLASS = re.compile(r"([A-Z]\w*[a-z]\w*)(?:\.(\w+))?(?:\(.*\))?")
_SNAKE_CASE = re.compile(r"[a-z]\w*_\w*[a-z0-9]")
_WORD = re.compile(r"\w+")
_PACKAGE = re.compile(r"^\| `([\w/]+)/` \|", re.MULTILINE)


def code_files() -> list[Path]:
    """List the modules of the program and its tests, but this one, which names what does not exist."""
    found = [path for folder in (SOURCE, ROOT / "tests") for path in sorted(folder.rglob("*.py"))]
    return [path for path in found if path != Path(__file__).resolve()]


def members(node: ast.ClassDef) -> Iterator[str]:
    """List what a class defines: methods, fields, and the members of an enumeration."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            yield part.name
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id
        elif isinstance(part, ast.Assign):
            yield from (target.id for target in part.targets if isinstance(target, ast.Name))


@cache
def read_classes() -> dict[str, set[str]]:
    """Read every class of the code, with what it defines."""
    classes: dict[str, set[str]] = {}
    for path in code_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, set()).update(members(node))
    return classes


@cache
def read_words() -> set[str]:
    """Read every word of the code and the schema."""
    files = [*code_files(), *sorted(SOURCE.rglob("*.sql"))]
    return {word for path in files for word in _WORD.findall(path.read_text(encoding="utf-8"))}


def code_names(text: str) -> list[str]:
    """List what stands in backticks, outside blocks of code."""
    return _CODE.findall(_FENCE.sub("", text))


def is_there(path: str, function: str | None) -> bool:
    """Tell whether a file exists, named from the root or from the package, and defines the function."""
    found = next((place / path for place in (ROOT, SOURCE) if (place / path).is_file()), None)
    return found is not None and (function is None or f"def {function}(" in found.read_text(encoding="utf-8"))


def is_known(name: str) -> bool:
    """Tell whether a name in backticks exists, where it has the form of a file, a class or a function."""
    if name in FOREIGN:
        return True
    if path := _PATH.fullmatch(name):
        return is_there(path[1], path[2])
    if found := _CLASS.fullmatch(name):
        classes = read_classes()
        return found[1] in classes and (found[2] is None or found[2] in classes[found[1]])
    return name in read_words() if _SNAKE_CASE.fullmatch(name) else True


def packages() -> set[str]:
    return {str(init.parent.relative_to(SOURCE)) for init in SOURCE.rglob("__init__.py")} - {"."}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_in_a_page_for_developers_exists(page: Path) -> None:
    assert [name for name in code_names(page.read_text(encoding="utf-8")) if not is_known(name)] == []


@pytest.mark.parametrize(
    "name",
    [
        "core/nothing.py",
        "errors.py",  # there are several: a page says which
        "tests/architecture/test_docs_names.py::test_that_is_not_there",
        "TurnRunnerThatIsNotThere",
        "Turns.converse",
        "no_such_function",
    ],
)
def test_a_name_that_does_not_exist_is_found(name: str) -> None:
    assert code_names(f"See `{name}`.") == [name]
    assert not is_known(name)


@pytest.mark.parametrize(
    "name", ["core/identity/principals.py", "tests/conftest.py", "Turns", "Turns.chat", "create_server", "make check"]
)
def test_a_name_that_exists_is_accepted(name: str) -> None:
    assert is_known(name)


def test_every_foreign_name_is_still_used() -> None:
    used = {name for page in PAGES for name in code_names(page.read_text(encoding="utf-8"))}
    assert set(FOREIGN) <= used


def test_the_page_on_the_architecture_lists_every_package() -> None:
    assert set(_PACKAGE.findall(ARCHITECTURE.read_text(encoding="utf-8"))) == packages()
