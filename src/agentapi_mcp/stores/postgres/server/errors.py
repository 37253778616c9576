"""Errors of the embedded Postgres, with messages that say what to do."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agentapi_mcp.base.errors import StoreUnavailableError

# For the copy of the binaries and the new data directory.
_NEEDED_BYTES = 120 * 1024 * 1024
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_WRITING = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def mapped_os_errors(home: Path) -> Generator[None]:
    """Map OS errors to errors that say what the user can do.

    Raises:
        StoreUnavailableError: for every OSError inside.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in _NO_SPACE:
            raise no_space_error(home) from exc
        if exc.errno == errno.EPERM and os.geteuid() == 0:
            raise StoreUnavailableError(
                "Postgres refuses to run as root, and this root may not lend it another account: run as an ordinary "
                "user, or set AGENTAPI_DATABASE_URL."
            ) from exc
        if exc.errno in _NO_WRITING:
            raise not_writable_error(home) from exc
        raise StoreUnavailableError(
            f"The embedded database in {home} cannot be used ({exc.strerror}): set AGENTAPI_HOME to a directory on "
            "a local disk, or set AGENTAPI_DATABASE_URL."
        ) from exc


def check_space(home: Path) -> None:
    """Check the free disk space before a first start.

    Raises:
        StoreUnavailableError: the disk is too full.
    """
    if shutil.disk_usage(home).free < _NEEDED_BYTES:
        raise no_space_error(home)


def startup_error(home: Path, output: str) -> StoreUnavailableError:
    """Return the error for a failed start, judged by the server's output."""
    if "shared memory segment" in output:
        return StoreUnavailableError(
            f"The embedded database in {home} gets no shared memory: free some in /dev/shm, remove segments that no "
            "process is attached to (`ipcs -m` lists them, `ipcrm -m ID` removes one), or set AGENTAPI_DATABASE_URL."
        )
    if "No space left on device" in output or "quota exceeded" in output or not shutil.disk_usage(home).free:
        return no_space_error(home)
    if "Permission denied" in output or "Read-only file system" in output or "Operation not permitted" in output:
        return not_writable_error(home)
    return StoreUnavailableError(
        f"The embedded database in {home} does not start; its pg.log says why. Mend it, set AGENTAPI_HOME to "
        "another directory, or set AGENTAPI_DATABASE_URL."
    )


def no_space_error(home: Path) -> StoreUnavailableError:
    """Return the error for a full disk."""
    return StoreUnavailableError(
        f"There is too little space for the embedded database in {home}: free {_NEEDED_BYTES >> 20} MB, set "
        "AGENTAPI_HOME to a directory on another disk, or set AGENTAPI_DATABASE_URL."
    )


def not_writable_error(home: Path) -> StoreUnavailableError:
    """Return the error for a home that is read-only or of another user."""
    return StoreUnavailableError(
        f"The embedded database in {home} cannot be written: make that directory and all in it writable for this "
        "user, set AGENTAPI_HOME to a directory of your own, or set AGENTAPI_DATABASE_URL."
    )
