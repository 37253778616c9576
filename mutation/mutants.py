"""The mutants of the engine: each is a module with one change, made by one of cosmic-ray's default operators."""

# cosmic-ray has no types: what is taken from it is given its own below.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import ast
import difflib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
MODULES = (
    "agentapi_mcp.core.conversations.runner_options",
    "agentapi_mcp.core.conversations.turn_runner",
    "agentapi_mcp.core.conversations.turn_callers",
    "agentapi_mcp.core.conversations.turn_saver",
    "agentapi_mcp.core.conversations.turn_follower",
    "agentapi_mcp.core.conversations.turns",
    "agentapi_mcp.stores.postgres.turns",
)
_Position = tuple[int, int]


class _Operator(Protocol):
    """An operator of cosmic-ray, whose own code has no types."""

    def mutation_positions(self, node: object) -> Iterable[tuple[_Position, _Position]]: ...


class _OperatorType(Protocol):
    def __call__(self) -> _Operator: ...

    def arguments(self) -> Sequence[object]: ...


@dataclass(frozen=True, slots=True)
class Mutant:
    """A module with one change. Its name outlives changes elsewhere in the module: it has no number of a line."""

    module: str
    name: str
    line: int
    code: str

    @property
    def place(self) -> str:
        """The function or class that is changed."""
        return f"{self.module}.{self.name.partition(':')[0]}"


def path_of(module: str) -> Path:
    """Return where the source of a module is."""
    place = SOURCE / Path(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def mutants_of(module: str) -> list[Mutant]:
    """List the mutants of a module in the order of its lines, without those that change nothing which runs."""
    source = path_of(module).read_text(encoding="utf-8")
    tree = ast.parse(source)
    annotations = [_extent(node) for node in _annotations(tree)]
    mutants: dict[str, Mutant] = {}
    for position, code in _changes(source):
        # An annotation is evaluated, and may fail, in some versions of Python alone; it is the type checker's to judge.
        if any(start <= position < end for start, end in annotations):
            continue
        # Operators make the same code in several ways; some, as of the `*` between parameters, make none.
        if code not in mutants and _compiles(code):
            mutants[code] = Mutant(module, f"{_scope(tree, position[0])}: {_change(source, code)}", position[0], code)
    return sorted(mutants.values(), key=lambda mutant: (mutant.line, mutant.name))


def untouched_by(modules: Sequence[str]) -> list[str]:
    """List the modules of the program that import none of these, themselves or through others."""
    imports = {module: _imports(module) for module in _program()}
    touched = set(modules)
    while more := {module for module, names in imports.items() if module not in touched and names & touched}:
        touched |= more
    return sorted(imports.keys() - touched)


def _program() -> Iterator[str]:
    for path in (SOURCE / "agentapi_mcp").rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] != "__main__":
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(module: str) -> set[str]:
    """Return all that a module may import, with the packages that are loaded before."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path_of(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {package for name in {module, *names} for package in _with_packages(name)} - {module}


def _with_packages(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def statement_lines(source: str, line: int) -> range:
    """Return the lines of the statement that a line belongs to, without the statements in it."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            body: list[ast.stmt] = getattr(node, "body", [])
            end = body[0].lineno if body else (node.end_lineno or node.lineno) + 1
            if node.lineno <= line < end:
                found = range(node.lineno, end)
    return found


def _changes(source: str) -> Iterator[tuple[_Position, str]]:
    """Yield where each operator changes the source, and what comes of it; those that need arguments are no defaults."""
    nodes: list[object] = list(ast_nodes(get_ast(source)))
    names: Iterable[str] = plugins.operator_names()
    for name in names:
        kind: _OperatorType = plugins.get_operator(name)
        if kind.arguments():
            continue
        starts = [start for node in nodes for start, _ in kind().mutation_positions(node)]
        for occurrence, start in enumerate(starts):
            code: str | None = mutate_code(source, kind(), occurrence)
            if code is not None and code != source:
                yield start, code


def _annotations(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            annotation = getattr(node, field, None)
            if isinstance(annotation, ast.expr):
                yield annotation


def _extent(node: ast.expr) -> tuple[_Position, _Position]:
    return (node.lineno, node.col_offset), (node.end_lineno or node.lineno, node.end_col_offset or 0)


def _compiles(code: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):  # an operator compares with a literal by `is`, too
            compile(code, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _scope(tree: ast.Module, line: int) -> str:
    """Return the names of the classes and functions around a line."""
    names: list[str] = []
    inside: list[ast.stmt] = tree.body
    while inside:
        around = [node for node in inside if _first_line(node) <= line <= (node.end_lineno or 0)]
        names += [
            node.name for node in around if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        inside = [child for node in around for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return ".".join(names) or "module"


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _change(source: str, code: str) -> str:
    """Return the lines that differ, before and after."""
    lines = list(difflib.unified_diff(source.splitlines(), code.splitlines(), n=0, lineterm=""))[3:]
    before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign).strip() for sign in "-+")
    return f"{before} >> {after or 'nothing'}"
