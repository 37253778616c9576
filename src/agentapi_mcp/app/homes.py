"""What is in the home, how big it is, and how it is removed."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentapi_mcp.app.database import embedded_postgres, home_of
from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.server.binaries import is_copy
from agentapi_mcp.stores.postgres.server.paths import Home, default_home

__all__ = ["default_home", "home_of"]

_HISTORY = "chat-history.jsonl"
_LOCK_OF_OWNER = re.compile(r"[0-9a-f-]{36}\.lock")
_OF_SERVER = re.compile(r"key|[0-9a-f]{16}(?:\.[0-9]+)?\.(?:sock|lock|log|stopped|ending)")
_MADE: Mapping[str, tuple[str, Callable[[Path], bool]]] = {
    "bin": ("programs of Postgres", is_copy),
    "owners": ("locks of running turns", lambda path: _LOCK_OF_OWNER.fullmatch(path.name) is not None),
    "run": ("the servers that clients share", lambda path: _OF_SERVER.fullmatch(path.name) is not None),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A file or directory of the home, what it is, and whether it is the program's own."""

    path: Path
    what: str
    size: int
    is_ours: bool


def has_data(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Tell whether the home has an embedded database."""
    return Home(home_of(settings, environ)).data.exists()


def data_size(settings: Settings, environ: Mapping[str, str]) -> int:
    """Return how big the embedded database is on disk."""
    return _size(Home(home_of(settings, environ)).data)


def parts(settings: Settings, environ: Mapping[str, str]) -> tuple[Part, ...]:
    """List what is in the home, and what belongs to it elsewhere."""
    home = Home(home_of(settings, environ))
    ours = {home.base: "the embedded database", home.root / _HISTORY: "what was typed in the chat"}
    # The home may be a directory of the user's, who has folders of these names: only what the program made goes.
    for name, (what, is_made) in _MADE.items():
        folder = home.root / name
        if folder.is_dir() and not folder.is_symlink() and all(map(is_made, folder.iterdir())):
            ours[folder] = what
    found = sorted(home.root.iterdir()) if home.root.is_dir() else []
    if home.sockets.parent != home.base and home.sockets.is_dir():
        ours[home.sockets] = "the socket of the embedded database"
        found.append(home.sockets)
    return tuple(Part(path, ours.get(path, "yours"), _size(path), path in ours) for path in found)


def refuse_users(settings: Settings, environ: Mapping[str, str]) -> None:
    """Check that no other process uses the embedded database.

    Raises:
        StoreBusyError: one does.
    """
    embedded_postgres(settings, environ).refuse_users()


def remove_data(settings: Settings, environ: Mapping[str, str]) -> None:
    """Remove the embedded database; blocks.

    Raises:
        StoreBusyError: another process uses it.
        StoreUnavailableError: it cannot be removed.
    """
    embedded_postgres(settings, environ).remove_data()


def remove_home(settings: Settings, environ: Mapping[str, str]) -> None:
    """Remove all of the home that is the program's own, and the home where nothing else is left; blocks.

    Raises:
        StoreBusyError: another process uses the database.
        StoreUnavailableError: something cannot be removed.
    """
    remove_data(settings, environ)
    home = home_of(settings, environ)
    try:
        for part in parts(settings, environ):
            if part.is_ours:
                _remove(part.path)
        if home.is_dir() and not any(home.iterdir()):
            home.rmdir()
    except OSError as exc:
        raise StoreUnavailableError(f"{exc.filename} cannot be removed ({exc.strerror}).") from exc


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def _size(path: Path) -> int:
    return sum(_sizes(path))


def _sizes(path: Path) -> Iterator[int]:
    """Yield the sizes of all files; what goes meanwhile has none."""
    try:
        yield path.lstat().st_size
        if path.is_dir() and not path.is_symlink():
            for entry in path.iterdir():
                yield from _sizes(entry)
    except OSError:
        return
