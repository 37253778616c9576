"""A ZIP archive that is written beside its place, and has its name when it is whole; a failure leaves nothing.

Its comment, which is its last bytes, is the SHA-256 of all before.
"""

import hashlib
import os
import zipfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from agentapi_mcp.base.errors import InvalidRequestError

COMMENT = b"agentapi-mcp sha256 "
DIGEST = 64


@contextmanager
def new_archive(path: Path) -> Generator[zipfile.ZipFile]:
    """Write an archive that only this user may read.

    Raises:
        InvalidRequestError: it cannot be written there.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _said(path):
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        sink = _Sink(descriptor, path)
        with zipfile.ZipFile(cast("IO[bytes]", sink), "w") as archive:
            archive.comment = COMMENT + b"0" * DIGEST
            yield archive
        sink.end()
        with _said(path):
            part.rename(path)
            _flush(path.parent)
    finally:
        os.close(descriptor)
        with suppress(OSError):
            part.unlink(missing_ok=True)


class _Sink:
    """A file that is written once: what ZipFile writes, and in place of the last bytes the checksum of all before.

    Without `seek`, so that ZipFile never goes back. After a failure nothing more is written, since closing the archive
    would fail once more.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
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
        """Write the checksum, and make the file durable."""
        self._tail = b""
        self._put(self._digest.hexdigest().encode())
        with _said(self._path):
            os.fsync(self._descriptor)

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        rest = memoryview(data)
        try:
            with _said(self._path):
                while rest and not self._has_failed:
                    rest = rest[os.write(self._descriptor, rest) :]
        except InvalidRequestError:
            self._has_failed = True
            raise


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _said(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as exc:
        raise InvalidRequestError(f"{path} cannot be written: {exc.strerror or exc}. Nothing is left of it.") from exc
