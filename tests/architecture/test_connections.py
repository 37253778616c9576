"""What is done for a user takes that user's share of the connections; only the program's own work goes first."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import is_dataclass
from operator import attrgetter
from types import ModuleType, UnionType
from typing import Union, cast, get_args, get_origin, get_type_hints

import pytest

from agentapi_mcp.base.ids import UserId
from agentapi_mcp.core.access.models import PersonalToken
from agentapi_mcp.core.accounts.models import SealedAccount
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import ApiKey
from agentapi_mcp.stores import postgres

# Named for a user in its parameters, and yet the program's own work.
OWN_WORK = {"PostgresAccounts.sealed": "the user is where the last batch of a rotation ended"}


def names_a_user(hint: object, depth: int = 2) -> bool:
    """Return whether a value of this type is a user, or has one, itself or in one of its fields."""
    if hint is UserId or hint is Principal:
        return True
    if get_origin(hint) in {Union, UnionType}:
        return any(names_a_user(each, depth) for each in get_args(hint))
    if depth == 0 or not isinstance(hint, type) or not is_dataclass(hint):
        return False
    return any(names_a_user(each, depth - 1) for each in get_type_hints(hint).values())


def transactions(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls that open a transaction as the program."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "as_system":
            yield node


def goes_first(call: ast.Call) -> bool:
    """Return whether a transaction goes before those of all users, in the lane for calls."""
    return not {"user", "lane"} & {keyword.arg for keyword in call.keywords}


def functions(module: ModuleType) -> Iterator[tuple[str, list[ast.Call]]]:
    """Yield the name of each function and method of a module, with the transactions that it opens."""
    for node in ast.parse(inspect.getsource(module)).body:
        for inner in node.body if isinstance(node, ast.ClassDef) else (node,):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                name = inner.name if inner is node else f"{cast('ast.ClassDef', node).name}.{inner.name}"
                yield name, list(transactions(inner))


def for_a_user() -> dict[str, list[ast.Call]]:
    """Return the transactions, as the program, of each function of the stores that is given a user."""
    found: dict[str, list[ast.Call]] = {}
    for each in pkgutil.iter_modules(postgres.__path__, f"{postgres.__name__}."):
        module = importlib.import_module(each.name)
        for name, calls in functions(module):
            hints = get_type_hints(attrgetter(name)(module)) if calls else {}
            if any(names_a_user(hint) for parameter, hint in hints.items() if parameter != "return"):
                found[name] = calls
    return found


def test_what_is_done_for_a_user_takes_a_connection_of_that_users_share() -> None:
    found = for_a_user()
    assert "PostgresMcpSessions.find" in found
    assert {name for name, calls in found.items() if any(map(goes_first, calls))} == set(OWN_WORK)


@pytest.mark.parametrize("type_", [UserId, UserId | None, Principal, ApiKey, SealedAccount, PersonalToken])
def test_each_way_to_name_a_user_is_seen(type_: object) -> None:
    assert names_a_user(type_)


@pytest.mark.parametrize(
    ("text", "is_first"),
    [
        ("it.as_system('why')", True),
        ("it.as_system('why', is_list=True)", True),
        ("it.as_system('why', user=user_id)", False),
        ("it.as_system('why', lane=Lane.RESERVED)", False),
    ],
)
def test_each_way_to_open_a_transaction_is_seen(text: str, is_first: bool) -> None:  # noqa: FBT001  # a case
    assert [goes_first(call) for call in transactions(ast.parse(text))] == [is_first]
