"""A file that is there as a whole or not at all: it gets its name when everything is written.

Until then it has no name, where the file system knows such files (Linux: ext4, XFS, Btrfs, tmpfs), so that nothing of
it is left however the process ends. Elsewhere it has a name of its own beside its place and a lock; what killed
processes left of such files is removed when the next one is made there.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentapi_mcp.base import locks

_HAS_UNNAMED = hasattr(os, "O_TMPFILE")
_NO_UNNAMED = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
_FLAGS = os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
_LONGEST = 200  # bytes of a name of 255, which leaves room for what is put around it
_TOKEN_BYTES = 8


class NewFile:
    """A file that is open for writing, and has not its name yet."""

    def __init__(self, path: Path, descriptor: int, part: Path | None) -> None:
        self.path = path
        self.descriptor = descriptor
        self._part = part

    def write(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            OSError: it cannot be written.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]

    def publish(self, *, over: bool = False) -> None:
        """Make it durable and give it its name, `over` another file of that name.

        Raises:
            FileExistsError: there is a file of that name.
            OSError: it cannot be written; it has no name then.
        """
        os.fsync(self.descriptor)
        if not over:
            self._link(self.path)
        else:
            if self._part is None:
                part = _part_of(self.path)
                self._link(part)
                self._part = part
            self._part.replace(self.path)
        _flush(self.path.parent)

    def close(self) -> None:
        """Close it; one that has not got its name is gone."""
        os.close(self.descriptor)
        if self._part is not None:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)

    def _link(self, name: Path) -> None:
        if self._part is not None:
            os.link(self._part, name)
            return
        folder = os.open(name.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # With a directory's descriptor, since `link` without one does not follow the link of /proc.
            os.link(f"/proc/self/fd/{self.descriptor}", name.name, dst_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)


@contextmanager
def new_file(path: Path, *, unnamed: bool = True) -> Generator[NewFile]:
    """Begin a file that only this user may read; without `publish` nothing is left of it.

    Raises:
        OSError: it cannot be made there.
    """
    _sweep(path)
    file = (_unnamed(path) if unnamed else None) or _named(path)
    try:
        yield file
    finally:
        file.close()


def _unnamed(path: Path) -> NewFile | None:
    """Make a file without a name; None where there is no such thing."""
    if not _HAS_UNNAMED:
        return None
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno in _NO_UNNAMED:
            return None
        raise
    _lock(descriptor)  # it has a name beside its place for a moment, if it takes that of another file
    return NewFile(path, descriptor, None)


def _named(path: Path) -> NewFile:
    while True:
        part = _part_of(path)
        descriptor = os.open(part, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        # One that another process took for a rest is not the one of that name any more.
        if _lock(descriptor) and _is_at(descriptor, part):
            return NewFile(path, descriptor, part)
        os.close(descriptor)


def _sweep(path: Path) -> None:
    """Remove the parts whose processes are gone."""
    is_part = re.compile(re.escape(_part(path, "TOKEN")).replace("TOKEN", f"[0-9a-f]{{{2 * _TOKEN_BYTES}}}")).fullmatch
    with suppress(OSError):
        for each in path.parent.iterdir():
            if is_part(each.name):
                _remove_rest(each)


def _remove_rest(part: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(part, _FLAGS | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
            if ours and locks.try_acquire(descriptor):
                part.unlink()
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        return locks.try_acquire(descriptor)
    except OSError:  # a file system without locks, where nobody can take it for a rest either
        return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _part_of(path: Path) -> Path:
    return path.with_name(_part(path, secrets.token_hex(_TOKEN_BYTES)))


def _part(path: Path, token: str) -> str:
    return f".{os.fsdecode(os.fsencode(path.name)[:_LONGEST])}.{token}.part"


def _flush(folder: Path) -> None:
    """Make a name durable."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:  # one that may not be read, or a file system that has this for files alone
        os.sync()
