"""A port has a reason to be, and says what it promises once."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import agentapi_mcp
from agentapi_mcp import core

IMPLEMENTED_ELSEWHERE = {
    "Backend": "by each kind, in packages of others too, without inheriting",
    "BackendCase": "by the tests of each kind of backend",
    "Clock": "by the clock of the tests, which stands still",
    "Connections": "by a module that is imported with the first request",
    "Fetch": "by the tests, which wait for a shorter time",
    "GuideHost": "by the host of all backends, which has a view besides",
    "Installation": "by a class of fields, which cannot inherit read-only properties",
    "Peer": "by the tests of each kind of backend",
    "Record": "by every dataclass",
    "Response": "by a module that is imported with the first request",
    "_Credentials": "by google-auth, an optional dependency without types",
}


def protocols() -> Iterator[type]:
    """Import every module of the package, and yield the protocols that it declares."""
    for module in pkgutil.walk_packages(agentapi_mcp.__path__, "agentapi_mcp."):
        if module.name == "agentapi_mcp.__main__":
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name and getattr(value, "_is_protocol", False):
                yield value


def implementations(protocol: type) -> list[type]:
    """List the classes of the package that inherit the protocol."""
    found = [each for each in protocol.__subclasses__() if not getattr(each, "_is_protocol", False)]
    return [each for each in found if each.__module__.startswith("agentapi_mcp.")]


def layer(class_: type) -> str:
    """Return the package of the first level that a class is in."""
    return class_.__module__.split(".")[1]


def summary(function: object) -> str:
    """Return the first line of a docstring, which says what a function does; empty if there is none."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def core_methods() -> Iterator[tuple[str, str, object]]:
    """Yield class, name and function of each documented public method in the core, but for those of the ports."""
    for module in pkgutil.walk_packages(core.__path__, "agentapi_mcp.core."):
        for class_ in vars(importlib.import_module(module.name)).values():
            if isinstance(class_, type) and class_.__module__ == module.name and class_ not in PROTOCOLS:
                for name, value in vars(class_).items():
                    if not name.startswith("_") and inspect.isfunction(value) and value.__doc__:
                        yield class_.__qualname__, name, value


PROTOCOLS = sorted(protocols(), key=lambda each: each.__qualname__)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.__name__)
def test_a_port_has_two_implementations_or_one_in_a_layer_that_may_not_be_imported(protocol: type) -> None:
    layers = [layer(each) for each in implementations(protocol)]
    assert len(layers) > 1 or set(layers) - {layer(protocol)} or protocol.__name__ in IMPLEMENTED_ELSEWHERE


def test_no_implementation_repeats_the_words_of_its_port() -> None:
    repeated = [
        f"{class_.__qualname__}.{name}"
        for protocol in PROTOCOLS
        for class_ in implementations(protocol)
        for name, value in vars(class_).items()
        if name in vars(protocol) and value.__doc__ and value.__doc__ == vars(protocol)[name].__doc__
        if not name.startswith("_")
    ]
    assert repeated == []


def test_no_use_case_repeats_the_words_of_a_port() -> None:
    methods = list(core_methods())
    assert ("Sessions", "delete") in [(class_, name) for class_, name, _ in methods]
    ports = [(name, summary(value)) for each in PROTOCOLS for name, value in vars(each).items()]
    repeated = [f"{class_}.{name}" for class_, name, value in methods if (name, summary(value)) in ports]
    assert repeated == []
