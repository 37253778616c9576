"""What import-linter cannot say: which libraries a layer may use, and that imports by name keep to the layers too."""

import ast
import re
import sys
from pathlib import Path

import pytest

import agentapi_mcp

SOURCE = Path(agentapi_mcp.__file__).parent
PARTS = ("stores", "backends", "auth")
_NAMED = re.compile(rf"{agentapi_mcp.__name__}\.({'|'.join(PARTS)})\b")
OTHERS = sorted(
    path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in {"app", "testing", *PARTS}
)

# A layer uses these libraries and no other: `core` is the same whatever framework, driver or protocol is round it.
LIBRARIES = {
    "base": {"pydantic_core", "typing_extensions", "uuid_utils"},
    "core": {"cachetools", "pydantic", "typing_extensions"},
    "presentation": {"pydantic"},
    "web": {"anyio", "cachetools", "opentelemetry", "starlette", "typing_extensions", "uvicorn"},
    "edges": {"anyio", "cachetools", "mcp", "mcp_types", "pydantic", "starlette", "typing_extensions"},
    "app": {"typing_extensions"},
    "resident": {"anyio", "mcp"},
    "client": {"anyio", "httpx2", "mcp", "mcp_types", "typing_extensions"},
    "cli": {
        *("click", "httptools", "markdown_it", "mcp", "mcp_types", "prompt_toolkit", "pydantic", "rich", "tomlkit"),
        *("typing_extensions", "uvicorn"),
    },
    "stores": {"asyncpg", "cachetools", "pydantic", "redis", "typing_extensions"},
    "backends": {"aiohttp", "httpx2", "opentelemetry", "pydantic", "pydantic_core", "typing_extensions", "yarl"},
    "auth": {"anyio", "cryptography", "httpx2", "jwt", "typing_extensions"},
}


def libraries(text: str) -> set[str]:
    """List the libraries that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=str(name), level=0):
                found.add(name.partition(".")[0])
            case _:
                pass
    return found - sys.stdlib_module_names - {agentapi_mcp.__name__}


@pytest.mark.parametrize("layer", LIBRARIES)
def test_a_layer_imports_the_libraries_that_it_may_and_no_other(layer: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (SOURCE / layer).rglob("*.py")]
    assert {name for text in texts for name in libraries(text)} == LIBRARIES[layer]


def test_every_layer_says_which_libraries_it_may_import() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == LIBRARIES.keys() | {"testing"}  # which runs under pytest, in others' projects


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
