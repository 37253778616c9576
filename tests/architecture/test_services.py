"""What edges are given are use cases, and no stores."""

import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest

from agentapi_mcp import stores
from agentapi_mcp.core.access.ports import Authenticator, ProfileStore
from agentapi_mcp.core.clients.ports import ElicitationStore, TransportSessionStore
from agentapi_mcp.core.conversations.turns import Turns
from agentapi_mcp.core.signals import Signals
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from tests.support.use_cases import types_of_services


def store_classes() -> Iterator[type]:
    """List every class that is defined below `stores`."""
    for module in pkgutil.walk_packages(stores.__path__, f"{stores.__name__}."):
        for _, kind in inspect.getmembers(import_module(module.name), inspect.isclass):
            if kind.__module__ == module.name:
                yield kind


IMPLEMENTATIONS = list(store_classes())


def parts_of(annotation: object) -> list[object]:
    """Take a union apart."""
    if get_origin(annotation) in {Union, UnionType}:
        return [part for one in get_args(annotation) for part in parts_of(one)]
    return [] if annotation is type(None) else [annotation]


def methods_of(protocol: type) -> set[str]:
    """List what a protocol asks of its implementations."""
    found = {name for kind in protocol.__mro__ for name in vars(kind) if getattr(kind, "_is_protocol", False)}
    return {name for name in found if not name.startswith("_")}


def results_of(annotation: object) -> list[object]:
    """List what a call leads to: the parts of a union, the `T` of an `Awaitable[T]`, what a function returned does."""
    if get_origin(annotation) is Callable:
        return results_of(get_args(annotation)[-1])
    if get_args(annotation):
        return [each for part in get_args(annotation) for each in results_of(part)]
    return [] if annotation in {None, type(None)} else [annotation]


def fault(annotation: object) -> str | None:
    """Tell why a field may not be of this type; a function may not return what no field may be."""
    if get_origin(annotation) is Callable:
        return next((found for each in results_of(annotation) if (found := fault(each))), None)
    if not inspect.isclass(annotation) or annotation in {Any, object}:
        return f"{annotation!r} does not tell what it is"
    kind: type[Any] = annotation
    if kind.__module__.startswith(f"{stores.__name__}."):
        return f"{kind.__name__} is a store"
    if kind.__name__.endswith("Store"):
        return f"{kind.__name__} is the port of a store"
    is_protocol = getattr(kind, "_is_protocol", False)
    by = [each.__name__ for each in IMPLEMENTATIONS if is_protocol and methods_of(kind) <= set(dir(each))]
    by += [each.__name__ for each in IMPLEMENTATIONS if issubclass(each, kind)] if not is_protocol else []
    return f"{kind.__name__} is implemented by {', '.join(by)}" if by else None


@pytest.mark.parametrize(("name", "annotation"), types_of_services().items())
def test_a_field_of_the_services_is_no_store(name: str, annotation: object) -> None:
    parts = parts_of(annotation)
    assert parts, name
    assert [found for part in parts if (found := fault(part))] == []


@pytest.mark.parametrize(
    "annotation",
    [
        ProfileStore,
        Signals,
        TransportSessionStore,
        ElicitationStore,
        PostgresSessions,
        Any,
        list[Turns],
        Callable[[], ProfileStore],
        Callable[[str], Awaitable[ProfileStore | None]],
        Callable[[], AbstractAsyncContextManager[PostgresSessions]],
        Callable[[], Callable[[], Signals]],
        Callable[..., Any],
    ],
    ids=repr,
)
def test_what_would_be_one_is_seen(annotation: object) -> None:
    assert fault(annotation) is not None


@pytest.mark.parametrize(
    "annotation", [Authenticator, Turns, Callable[[], None], Callable[[], Awaitable[Turns]]], ids=repr
)
def test_what_is_none_is_let_be(annotation: object) -> None:
    assert fault(annotation) is None
