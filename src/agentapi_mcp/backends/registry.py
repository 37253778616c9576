"""Find a backend kind by name: a module of `kinds`, or else an installed entry point."""

import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import cast, get_type_hints

from typing_extensions import override

from agentapi_mcp.backends import kinds
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.core.backends.ports import Backend, BackendHost, ModelLister

ENTRY_POINT_GROUP = "agentapi_mcp.backends"

Create = Callable[[Mapping[str, object], BackendHost], Backend]


def builtin_names() -> tuple[str, ...]:
    """List the built-in kinds, without importing them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(kinds.__path__)))


class KindNames(Collection[str]):
    """Every kind that `create` accepts, built in or installed.

    What is installed is read only to list all, or for a name that is not built in: it takes longer than to read the
    configuration.
    """

    @override
    def __contains__(self, name: object) -> bool:
        return name in builtin_names() or name in _installed()

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*builtin_names(), *_installed()}))

    @override
    def __len__(self) -> int:
        return len(list(iter(self)))


def names() -> KindNames:
    """Return every kind that `create` accepts."""
    return KindNames()


def create(name: str, options: Mapping[str, object], host: BackendHost) -> Backend:
    """Create the backend of this kind; only listed names are imported.

    Raises:
        ConfigurationError: the kind is unknown or cannot be loaded, or its options are wrong.
    """
    return _find(name)(options, host)


def lists_models(name: str) -> bool:
    """Return whether backends of this kind are ModelListers, by the type that their `create` declares."""
    made = get_type_hints(_find(name)).get("return")
    return isinstance(made, type) and issubclass(made, ModelLister)


def _find(name: str) -> Create:
    if name in builtin_names():
        create: Create = import_module(f"{kinds.__name__}.{name}").create
        return create
    installed = _installed().get(name)
    if installed is None:
        raise ConfigurationError(f"There is no backend {name[:60]!r}; there are: {', '.join(names())}.")
    try:
        return cast(Create, installed.load())
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"The installed backend {name!r} cannot be loaded ({error}); mend or reinstall its package."
        ) from error


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
