"""What a command imports is most of what it costs: each imports what it uses, and nothing of the rest."""

import asyncio
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import agentapi_mcp
from agentapi_mcp.cli.commands import SUMMARIES

pytestmark = pytest.mark.acceptance

_PROGRAM = """
import atexit, sys
from agentapi_mcp.__main__ import main
atexit.register(lambda: print("\\n#", *(name for name, module in sys.modules.items() if module), file=sys.stderr))
main()
"""
_COUNTING = """
import atexit, re, sys
compiled, really = [], re.compile
def counted(pattern, flags=0):
    compiled.append((sys._getframe(1).f_globals["__name__"], len(pattern)))
    return really(pattern, flags)
re.compile = counted
from agentapi_mcp.__main__ import main
atexit.register(lambda: print("\\n#", *(f"{name}:{length}" for name, length in compiled), file=sys.stderr))
main()
"""
CLIENT = {"opentelemetry"}
SETTINGS = {"asyncio", "pydantic", "pydantic_settings"}
# Each takes 10 ms at least; `agentapi_mcp.` stands before the names of our own.
HEAVY = frozenset(
    {
        *CLIENT,
        *SETTINGS,
        *("aiohttp", "anthropic", "anyio", "asyncpg", "cryptography", "google", "httptools", "httpx", "httpx2", "jwt"),
        *(
            "markdown_it",
            "mcp",
            "mcp_types",
            "openai",
            "prompt_toolkit",
            "pygments",
            "redis",
            "rich",
            "starlette",
            "structlog",
            "tomlkit",
            "uvicorn",
            "uvloop",
        ),
        *(
            ".app.startup",
            ".core.conversations.turns",
            ".backends.kinds.openai",
            ".presentation.models",
            ".stores.postgres.migrate",
        ),
    }
)
OPENED = SETTINGS | {"asyncpg", ".app.startup", ".core.conversations.turns"}
RUNS = {
    "--version": set[str](),
    "--help": set[str](),
    "accounts list": OPENED,
    "agents list": OPENED | CLIENT | {".backends.kinds.openai"},  # whose health is asked
    "audit": OPENED,
    "budgets list": OPENED,
    "completion bash": set[str](),
    "connect codex --print": {"asyncio", "tomlkit"},
    "help": set[str](),
    "keys list": OPENED,
    "members list": OPENED,
    "migrate --status": SETTINGS | {"asyncpg", ".stores.postgres.migrate"},
    "models list": OPENED | CLIENT | {".backends.kinds.openai"},
    "organization show": OPENED | {".presentation.models"},
    "preferences show": OPENED,
    "providers list": OPENED,
    "secrets generate": {"asyncio"},
    "sessions list": OPENED,
    "status": set[str](),
    "stop": set[str](),
    "tokens list": OPENED,
    "terms list": OPENED,
    "turns list": OPENED,
    "usage --by agent": OPENED,
}
MISTAKES = ("budgets set ten", "budgets plan", "chat --max-cost nan hello", "usage --by horses", "usage --limit 0")
# Only where there is something to show, as others may have left it in the same home.
WHERE_SHOWN = {"preferences show": {".presentation.models"}}
# Not tried here: what asks a provider, changes what other tests use, or serves; the help of each is.
OTHERS = {
    *(
        "archive",
        "backup",
        "chat",
        "disconnect",
        "doctor",
        "export",
        "move",
        "rate",
        "record",
        "reset",
        "restore",
        "serve",
    ),
    *("tag", "uninstall"),
}
# Of our own modules: what prints, and what declares the options.
MOST_FOR_HELP = 50
LONGEST_PATTERN = 200  # characters
# Packages that say themselves what they need: a store that is optional, the tests for others' backends, and what Python
# programs import.
_WITH_LIBRARIES = {"agentapi_mcp.client", "agentapi_mcp.stores.redis", "agentapi_mcp.testing"}


async def run(program: str, home: Path, command: str, status: int = 0) -> str:
    """Run a command in a process of its own, and return what the program says on stderr in the end."""
    environ = {
        "AGENTAPI_HOME": str(home),
        "AGENTAPI_POSTGRES_LINGER_SECONDS": "10",
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(agentapi_mcp.__file__).parents[1]),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *command.split()),
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, err = await process.communicate()
    said, _, last = err.decode().rpartition("\n# ")
    assert process.returncode == status, said
    return last


async def imported(home: Path, command: str) -> set[str]:
    """Return which of the heavy modules a command has imported when it ends."""
    names = await run(_PROGRAM, home, command)
    loaded = {name.removeprefix(agentapi_mcp.__name__) for name in names.split()}
    assert "sys" in loaded
    return loaded & HEAVY


@pytest.mark.parametrize("command", sorted(SUMMARIES))
async def test_the_help_of_a_command_imports_nothing_that_is_heavy_and_little_else(
    command: str, edge_home: Path
) -> None:
    names = (await run(_PROGRAM, edge_home, f"{command} --help")).split()
    assert {name.removeprefix(agentapi_mcp.__name__) for name in names} & HEAVY == set()
    assert sum(name.startswith(agentapi_mcp.__name__) for name in names) < MOST_FOR_HELP


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_told_before_anything_heavy_is_imported(mistake: str, edge_home: Path) -> None:
    names = (await run(_PROGRAM, edge_home, mistake, status=2)).split()
    assert {name.removeprefix(agentapi_mcp.__name__) for name in names} & HEAVY == set()


@pytest.mark.parametrize("command", RUNS)
async def test_a_command_imports_what_it_uses_and_nothing_else_that_is_heavy(command: str, edge_home: Path) -> None:
    assert await imported(edge_home, command) - WHERE_SHOWN.get(command, set()) == RUNS[command]


async def test_a_command_compiles_no_long_pattern_as_it_imports(edge_home: Path) -> None:
    compiled = [each.rsplit(":", 1) for each in (await run(_COUNTING, edge_home, "agents list")).split()]
    ours = [(name, int(length)) for name, length in compiled if name.startswith(agentapi_mcp.__name__)]
    assert len(ours) > 10
    # A longer one takes a millisecond or more: it is compiled where it is used, since faults and questions are rare.
    assert [(name, length) for name, length in ours if length > LONGEST_PATTERN] == []


async def test_a_command_ends_without_looking_for_garbage_among_what_it_imported(edge_home: Path) -> None:
    program = _PROGRAM.replace("import atexit, sys", "import atexit, gc, sys").replace(
        "*(name for name, module in sys.modules.items() if module)", "gc.get_freeze_count(), len(gc.get_objects())"
    )
    frozen, others = map(int, (await run(program, edge_home, "--version")).split())
    assert frozen > 10 * others


async def test_the_program_and_its_packages_load_nothing_until_it_is_known_what_is_asked(edge_home: Path) -> None:
    packages = [
        module.name
        for module in pkgutil.walk_packages(agentapi_mcp.__path__, f"{agentapi_mcp.__name__}.")
        if module.ispkg and module.name not in _WITH_LIBRARIES
    ]
    assert len(packages) > 20
    program = f"""
import importlib, sys
before = set(sys.modules)
for name in {["agentapi_mcp.__main__", *packages]}:
    importlib.import_module(name)
print("\\n#", *(set(sys.modules) - before), file=sys.stderr)
"""
    loaded = set((await run(program, edge_home, "")).split())
    assert loaded - set(sys.builtin_module_names) == {agentapi_mcp.__name__, "agentapi_mcp.__main__", *packages}


def test_every_command_that_can_be_tried_here_says_what_it_imports() -> None:
    assert {command.split()[0] for command in RUNS if not command.startswith("-")} == SUMMARIES.keys() - OTHERS
