"""What is in the home, how big it is, and how it is removed."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentapi_mcp.app.database import embedded_postgres
from agentapi_mcp.app.home import home_of
from agentapi_mcp.base.errors import StoreError, StoreUnavailableError
from agentapi_mcp.base.home_names import (
    CHAT_HISTORY,
    ENDING,
    FINGERPRINT_DIGITS,
    LOCK,
    LOG,
    RUN_KEY,
    SOCKET,
    STOPPED,
)
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.server.binaries import is_copy
from agentapi_mcp.stores.postgres.server.paths import Home, default_home

__all__ = ["default_home", "home_of"]

_BLOCK = 512  # bytes of a unit of `st_blocks`
_LOCK_OF_OWNER = re.compile(r"[0-9a-f-]{36}\.lock")
_ENDINGS = "|".join(map(re.escape, (SOCKET, LOCK, LOG, STOPPED, ENDING)))
_OF_SERVER = re.compile(rf"{RUN_KEY}|[0-9a-f]{{{FINGERPRINT_DIGITS}}}(?:\.[0-9]+)?(?:{_ENDINGS})")
_OF_DATABASE = re.compile(r"data|socket|uid|pg\.log|pg_(?:hba|ident)\.conf|[a-z]+\.lock|new-[0-9a-f]{32}|.*\.new")
_MADE: Mapping[str, tuple[str, Callable[[Path], bool]]] = {
    "bin": ("programs of Postgres", is_copy),
    "owners": ("locks of running turns", lambda path: _LOCK_OF_OWNER.fullmatch(path.name) is not None),
    "run": ("the servers that clients share", lambda path: _OF_SERVER.fullmatch(path.name) is not None),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A file or directory of the home, what it is, what it takes on the disk, and whether it is the program's own."""

    path: Path
    what: str
    size: int
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Left:
    """What could not be removed, and why."""

    path: Path
    reason: str


def has_data(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Tell whether the home has an embedded database."""
    return Home(home_of(settings, environ)).data.exists()


def data_size(settings: Settings, environ: Mapping[str, str]) -> int:
    """Return how big the embedded database is on disk."""
    return _size(Home(home_of(settings, environ)).data, follow=True)


def parts(settings: Settings, environ: Mapping[str, str]) -> tuple[Part, ...]:
    """List what is in the home, and what belongs to it elsewhere."""
    home = Home(home_of(settings, environ))
    ours = {home.base: "the embedded database", home.root / CHAT_HISTORY: "what was typed in the chat"}
    # The home may be a directory of the user's, who has folders of these names: only what the program made goes.
    for name, (what, is_made) in _MADE.items():
        folder = home.root / name
        if folder.is_dir() and not folder.is_symlink() and all(map(is_made, folder.iterdir())):
            ours[folder] = what
    found = sorted(home.root.iterdir()) if home.root.is_dir() else []
    if home.sockets.parent != home.base and home.sockets.is_dir():
        ours[home.sockets] = "the socket of the embedded database"
        found.append(home.sockets)
    return tuple(Part(path, ours.get(path, "yours"), _size(path, follow=path in ours), path in ours) for path in found)


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


def check_removable(settings: Settings, environ: Mapping[str, str]) -> None:
    """Check that nobody uses the database, and that what is the program's own can be removed.

    Raises:
        StoreBusyError: another process uses the database.
        StoreUnavailableError: something cannot be removed.
    """
    for part in parts(settings, environ):
        for place in (part.path.parent, part.path):
            if part.is_ours and place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
                raise StoreUnavailableError(
                    f"{part.path} cannot be removed: {place} is read-only, or another user's. Nothing was removed."
                )
    if settings.database_url is None:
        refuse_users(settings, environ)


def remove_home(settings: Settings, environ: Mapping[str, str]) -> tuple[Left, ...]:
    """Remove all of the home that is the program's own, and the home where nothing else is left; blocks.

    What cannot be removed is returned, and the rest is removed.
    """
    home = Home(home_of(settings, environ))
    left = list[Left]()
    needed = set[Path]()
    try:
        remove_data(settings, environ)
    except StoreError as exc:
        left.append(Left(home.data, str(exc)))
        needed = {home.base, home.sockets}
    for part in parts(settings, environ):
        if part.is_ours and part.path not in needed:
            try:
                _remove(part.path)
            except OSError as exc:
                left.append(Left(Path(str(exc.filename or part.path)), exc.strerror or str(exc)))
    with suppress(OSError):  # something else is in it
        home.root.rmdir()
    return tuple(left)


def _remove(path: Path) -> None:
    if not path.is_symlink():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    # A directory that the user put elsewhere, perhaps among others.
    target = path.resolve()
    for entry in target.iterdir() if target.is_dir() else ():
        if _OF_DATABASE.fullmatch(entry.name):
            _remove(entry)
    path.unlink()
    with suppress(OSError):
        target.rmdir()


def _size(path: Path, *, follow: bool = False) -> int:
    return sum(_sizes(path.resolve() if follow else path))


def _sizes(path: Path) -> Iterator[int]:
    """Yield what each file takes on the disk; what goes meanwhile takes nothing."""
    try:
        yield path.lstat().st_blocks * _BLOCK
        if path.is_dir() and not path.is_symlink():
            for entry in path.iterdir():
                yield from _sizes(entry)
    except OSError:
        return
