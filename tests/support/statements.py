"""The SQL that a package sends, read from its calls and from the constants of its imported modules."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import cast

METHODS = frozenset({"fetch", "fetchrow", "fetchval", "fetchmany", "execute", "executemany", "cursor"})
UNREAD = ("prepare", "copy_")  # methods with these prefixes send SQL or rows too, and their arguments are not read
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class SqlCall:
    """A call that sends SQL: `name` is its function and argument, as in `Connection.fetch(sql)`, wherever they move.

    `texts` are the statements that its argument can stand for; none where that cannot be read. A method that is not
    called where it is named, as in `function: connection.fetch`, may be called with anything.
    """

    place: str
    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Scope:
    """Where an expression is evaluated: in a module, and in a function of it."""

    module: ModuleType
    qualname: str = ""
    function: FUNCTIONS | None = None
    outer: "Scope | None" = None

    def texts_of(self, node: ast.expr) -> tuple[str, ...]:
        """Return the texts that an expression can stand for, none if that is known only at run time."""
        match node:
            case ast.Constant(value=str(text)):
                return (text,)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return tuple(first + second for first, second in product(self.texts_of(left), self.texts_of(right)))
            case ast.IfExp(body=body, orelse=orelse):
                first, second = self.texts_of(body), self.texts_of(orelse)
                return (*first, *second) if first and second else ()
            case _:
                return self._texts_held(node)

    def _texts_held(self, node: ast.expr) -> tuple[str, ...]:
        """Return the texts that a name, an attribute of an imported module or a dictionary's item stands for."""
        match node:
            case ast.Name(id=name):
                return self._texts_named(name)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                held = self._constant(name)
                return _as_texts(getattr(held, attribute, None)) if isinstance(held, ModuleType) else ()
            case ast.Subscript(value=ast.Name(id=name)):
                return _values_of(self._constant(name))
            case _:
                return ()

    def _texts_named(self, name: str) -> tuple[str, ...]:
        bound = self.find_binding(name)
        if bound is None:
            return _as_texts(getattr(self.module, name, None))
        scope, values = bound
        return scope.texts_of(values[0]) if len(values) == 1 and values[0] is not None else ()

    def _constant(self, name: str) -> object:
        """Return what the module holds under a name, None where a function has bound the name to something else."""
        return None if self.find_binding(name) else getattr(self.module, name, None)

    def find_binding(self, name: str) -> "tuple[Scope, list[ast.expr | None]] | None":
        """Return the innermost function's scope that binds a name, with all its values: None for one not assigned."""
        if self.function is None:
            return None
        values = list(_bound_in(self.function, name))
        if values:
            return self, values
        return None if self.outer is None else self.outer.find_binding(name)


def _as_texts(value: object) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else ()


def _values_of(held: object) -> tuple[str, ...]:
    """Return every value of a dictionary of texts, since any key may be asked for."""
    values = list(cast("Mapping[object, object]", held).values()) if isinstance(held, Mapping) else []
    texts = tuple(value for value in values if isinstance(value, str))
    return texts if len(texts) == len(values) else ()


def _bound_in(function: FUNCTIONS, name: str) -> Iterator[ast.expr | None]:
    """Yield the value of each binding of a name in a function, None for a parameter, a loop and the like."""
    plain: dict[ast.Name, ast.expr] = {}
    for node in ast.walk(function):
        match node:
            case ast.arg(arg=bound) if bound == name:
                yield None
            case ast.Assign(targets=[ast.Name() as target], value=value):
                plain[target] = value
            case ast.AnnAssign(target=ast.Name() as target, value=ast.expr() as value):
                plain[target] = value
            case ast.Name(id=bound, ctx=ast.Store()) if bound == name:
                yield plain.get(node)  # its assignment has been walked before it
            case _:
                pass


def sql_calls(module: ModuleType, tree: ast.Module) -> Iterator[SqlCall]:
    """Yield the calls of a module that send SQL."""
    yield from _calls_below(tree, Scope(module))


def _calls_below(node: ast.AST, scope: Scope) -> Iterator[SqlCall]:
    for child in ast.iter_child_nodes(node):
        method, argument = _method_of(child), _sql_argument(child)
        if argument is not None:
            place = f"{scope.module.__name__}:{argument.lineno}"
            texts = scope.texts_of(argument) if method in METHODS else ()
            yield SqlCall(place, f"{scope.qualname}({ast.unparse(argument)})", texts)
        elif isinstance(child, ast.Attribute) and method is not None and not _calls(node, child):
            place = f"{scope.module.__name__}:{child.lineno}"
            yield SqlCall(place, f"{scope.qualname}: {ast.unparse(child)}", ())
        yield from _calls_below(child, _scope_of(child, scope))


def _scope_of(node: ast.AST, scope: Scope) -> Scope:
    """Return the scope of what a definition holds, else the scope itself."""
    if not isinstance(node, FUNCTIONS | ast.ClassDef):
        return scope
    name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
    qualname = f"{scope.qualname}.{name}".lstrip(".")
    if isinstance(node, ast.ClassDef):
        return Scope(scope.module, qualname, scope.function, scope.outer)
    return Scope(scope.module, qualname, node, scope)


def _method_of(node: ast.AST) -> str | None:
    """Return the name of the method that is called or named here, if it is one that sends SQL."""
    named = node.func if isinstance(node, ast.Call) else node
    if not isinstance(named, ast.Attribute) or not isinstance(named.ctx, ast.Load):
        return None
    return named.attr if named.attr in METHODS or named.attr.startswith(UNREAD) else None


def _calls(node: ast.AST, named: ast.Attribute) -> bool:
    return isinstance(node, ast.Call) and node.func is named


def _sql_argument(node: ast.AST) -> ast.expr | None:
    """Return the argument that holds the SQL, if this is a call that sends some."""
    if not isinstance(node, ast.Call) or _method_of(node) is None:
        return None
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    return given[0] if given else None  # a pipeline of Redis is executed without an argument


def package_calls(package: ModuleType) -> list[SqlCall]:
    """List the calls of all modules of a package that send SQL; only those modules are imported."""
    root = Path(cast("str", package.__file__)).parent
    found: list[SqlCall] = []
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(_method_of(node) is not None for node in ast.walk(tree)):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join([package.__name__, *(part for part in parts if part != "__init__")])
            found += sql_calls(import_module(name), tree)
    return found
