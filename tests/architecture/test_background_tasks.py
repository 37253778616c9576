"""A task of a group that outlives its function catches every error: one that leaves it ends the program."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentapi_mcp

SOURCE = Path(agentapi_mcp.__file__).parent
Function = ast.FunctionDef | ast.AsyncFunctionDef
GUARD = "guarded"
# Where the functions are that another module starts.
ELSEWHERE = {
    "signals.run": "stores/postgres/signals.py",
    "signals.run_sender": "stores/postgres/signals.py",
    "watch.run": "stores/local/catalogue_watch.py",
    "self.callers.news.run": "core/conversations/caller_news.py",
    "self._members.run": "core/conversations/membership_watch.py",
}
# Functions that catch nothing, and why they need not.
ALLOWED = {
    ("core/jobs/runner.py", "_run"): "each of its looks catches everything",
    ("core/identity/leases.py", "_renew_often"): "it counts in memory",
    ("stores/postgres/signals.py", "run_sender"): "both of its tasks send by what catches everything",
    ("web/stream_reauth.py", "watch"): "it ends one stream, whose request it belongs to",
}


def functions_of(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """Walk a function without those that are defined in it."""
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def long_lived(function: Function) -> Iterator[str]:
    """List the groups of a function that outlive it, or what it yields to."""
    nodes = list(own_nodes(function))
    yields = any(isinstance(node, ast.Yield) for node in nodes)
    for node in nodes:
        match node:
            case ast.withitem(
                context_expr=ast.Call(func=ast.Attribute(attr="TaskGroup" | "create_task_group")),
                optional_vars=ast.Name(name),
            ):
                if yields:
                    yield name
            case ast.Assign(targets=[ast.Name(name)], value=ast.Await(ast.Call(func=ast.Attribute(attr=opener)))):
                if opener == "enter_async_context":
                    yield name
            case _:
                pass


def started(tree: ast.AST) -> Iterator[tuple[int, ast.expr]]:
    """List what is started in long-lived groups, by line."""
    for function in functions_of(tree):
        groups = set(long_lived(function))
        for node in own_nodes(function):
            match node:
                case ast.Call(func=ast.Attribute(value=group, attr="create_task" | "start_soon"), args=[work, *_]):
                    if isinstance(group, ast.Attribute) or (isinstance(group, ast.Name) and group.id in groups):
                        yield node.lineno, work
                case _:
                    pass


def catches_everything(function: Function) -> bool:
    """Whether a function has a handler of all errors, or does its work by what has one."""
    return any(
        (isinstance(node, ast.ExceptHandler) and node.type is not None and ast.unparse(node.type) == "Exception")
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == GUARD)
        for node in own_nodes(function)
    )


def fault(path: Path, tree: ast.AST, work: ast.expr) -> str | None:
    """Tell what is wrong with what a module starts."""
    said = ast.unparse(work.func if isinstance(work, ast.Call) else work)
    if said == GUARD:
        return None
    name, home = said.rpartition(".")[2], str(path)
    if said in ELSEWHERE:
        home, tree = ELSEWHERE[said], ast.parse((SOURCE / ELSEWHERE[said]).read_text())
    found = [function for function in functions_of(tree) if function.name == name]
    if len(found) != 1:
        return f"{path} starts {said}, and nothing here tells which of {len(found)} functions that is"
    if catches_everything(found[0]) or (home, name) in ALLOWED:
        return None
    return f"{home}: {name} lets an error out, which ends the program; see base/concurrency.py"


def faults(path: Path, tree: ast.AST) -> Iterator[str]:
    return (found for _, work in started(tree) if (found := fault(path, tree, work)) is not None)


def modules() -> Iterator[tuple[Path, ast.AST]]:
    for path in sorted(SOURCE.rglob("*.py")):
        # What third parties test their backends with is no part of a running program.
        if path.relative_to(SOURCE).parts[0] != "testing":
            yield path.relative_to(SOURCE), ast.parse(path.read_text())


def test_no_error_of_a_background_task_ends_the_program() -> None:
    assert [found for path, tree in modules() for found in faults(path, tree)] == []


def test_the_tasks_of_all_layers_are_seen() -> None:
    seen = {str(path) for path, tree in modules() for _ in started(tree)}
    assert seen >= {
        "app/build.py",
        "app/services.py",
        "auth/keys.py",
        "core/accounts/tokens.py",
        "stores/redis/events.py",
    }


@pytest.mark.parametrize(
    "code",
    [
        "async def open(self):\n async with asyncio.TaskGroup() as g:\n  g.create_task(self._run())\n  yield",
        "async def open(self):\n async with anyio.create_task_group() as g:\n  g.start_soon(self._run)\n  yield",
        "async def open(stack):\n g = await stack.enter_async_context(asyncio.TaskGroup())\n g.create_task(_run())",
        "def start(self):\n self._group.create_task(self._run())",
    ],
)
def test_a_task_without_a_handler_is_found(code: str) -> None:
    rest = {
        "bare": "async def _run(self):\n await work()",
        "narrow": "async def _run(self):\n try:\n  await work()\n except ValueError:\n  pass",
        "caught": "async def _run(self):\n try:\n  await work()\n except Exception:\n  log()",
        "guarded": "async def _run(self):\n while True:\n  await guarded(work())",
    }
    found = {name: list(faults(Path("x.py"), ast.parse(f"{code}\n{more}"))) != [] for name, more in rest.items()}
    assert found == {"bare": True, "narrow": True, "caught": False, "guarded": False}
    assert list(faults(Path("x.py"), ast.parse(code))) != []  # what cannot be looked at is not passed over


def test_a_task_that_its_function_waits_for_needs_no_handler() -> None:
    code = "async def both():\n async with asyncio.TaskGroup() as g:\n  g.create_task(one())\n  g.create_task(two())"
    assert list(faults(Path("x.py"), ast.parse(code))) == []
