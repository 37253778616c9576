"""A ZIP archive that has its name when it is whole; a failure leaves nothing.

Its comment, which is its last bytes, is the SHA-256 of all before.
"""

import errno
import hashlib
import stat
import zipfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.new_files import NewFile, new_file

COMMENT = b"agentapi-mcp sha256 "
DIGEST = 64
_WAYS: Mapping[int, str] = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), " Free space there, or name a file on a disk that has more."
    ),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), " Name a file where you may write."),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), " Make its directory first, or name another one."),
    errno.ENAMETOOLONG: " Give it a shorter name.",
}


def check_place(path: Path) -> None:
    """Check that a file can be written there, or take the place of the one that is there.

    Raises:
        InvalidRequestError: it cannot.
    """
    _check_kind(path)
    with named_failures(path), new_file(path):
        pass


@contextmanager
def new_archive(path: Path, *, unnamed: bool = True) -> Generator[zipfile.ZipFile]:
    """Write an archive that only this user may read, over one of that name.

    Raises:
        InvalidRequestError: it cannot be written there.
    """
    _check_kind(path)
    with ExitStack() as stack:
        with named_failures(path):
            file = stack.enter_context(new_file(path, unnamed=unnamed))
        sink = _Sink(file)
        with zipfile.ZipFile(cast("IO[bytes]", sink), "w") as archive:
            archive.comment = COMMENT + b"0" * DIGEST
            yield archive
        sink.end()
        with named_failures(path):
            file.publish(over=True)


class _Sink:
    """A file that is written once: what ZipFile writes, and in place of the last bytes the checksum of all before.

    Without `seek`, so that ZipFile never goes back. After a failure nothing more is written, since closing the archive
    would fail once more.
    """

    def __init__(self, file: NewFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._tail = b""
        self._has_failed = False

    def write(self, data: bytes) -> int:
        """Write the data.

        Raises:
            InvalidRequestError: the file cannot be written.
        """
        whole = self._tail + data
        self._tail = whole[-DIGEST:]
        self._put(whole[: -len(self._tail)])
        return len(data)

    def flush(self) -> None:
        """Nothing is held back but the end."""

    def end(self) -> None:
        """Write the checksum."""
        self._tail = b""
        self._put(self._digest.hexdigest().encode())

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        if self._has_failed:
            return
        try:
            with named_failures(self._file.path):
                self._file.write(data)
        except InvalidRequestError:
            self._has_failed = True
            raise


def _check_kind(path: Path) -> None:
    with named_failures(path):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
    if stat.S_ISLNK(mode):
        raise InvalidRequestError(f"{path} is a symbolic link: name the file that it leads to, {path.resolve()}.")
    if not stat.S_ISREG(mode):
        raise InvalidRequestError(f"{path} is a directory, a device or a pipe: name a file.")


@contextmanager
def named_failures(path: Path) -> Generator[None]:
    """Say of a failure to write which file it is, and what can be done.

    Raises:
        InvalidRequestError: for every OSError inside.
    """
    try:
        yield
    except OSError as exc:
        raise InvalidRequestError(
            f"{path} cannot be written: {exc.strerror or exc}. Nothing is left of it.{_WAYS.get(exc.errno or 0, '')}"
        ) from exc
