"""The files that a restore writes beside the database: before it is loaded, so that a full disk changes nothing.

They get their names when it is loaded.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from agentapi_mcp.base.errors import ConflictError, InvalidRequestError
from agentapi_mcp.base.new_files import NewFile, new_file


class KeysFile:
    """A new file with master keys, as AGENTAPI_MASTER_KEY_FILE names one."""

    def __init__(self, path: Path, keys: str) -> None:
        self.path = path
        self.keys = keys
        self._file: NewFile | None = None

    def stage(self, stack: ExitStack) -> None:
        """Write it, without its name.

        Raises:
            ConflictError: there is something already.
            InvalidRequestError: it cannot be written.
        """
        check_new(self.path)
        with _said(self.path):
            self._file = stack.enter_context(new_file(self.path))
            self._file.write(f"{self.keys}\n".encode())

    def publish(self) -> None:
        """Give it its name.

        Raises:
            InvalidRequestError: it cannot have it any more.
        """
        if self._file is None:
            return
        try:
            self._file.publish()
        except OSError as exc:
            raise InvalidRequestError(
                f"All but the master keys was restored: {self.path} cannot be written ({exc.strerror}). Restore again, "
                "with --replace and another --keys-to."
            ) from exc


class ConfigFile:
    """The configuration file of a backup, where there is none yet.

    `written` is where it is then, `kept` another one that was there already, and `fault` why it could not get its name.
    """

    def __init__(self, path: Path, content: bytes | None) -> None:
        self.written: Path | None = None
        self.kept: Path | None = None
        self.fault: str | None = None
        self._path = path
        self._content = content
        self._file: NewFile | None = None

    def stage(self, stack: ExitStack) -> None:
        """Write it, without its name; its directory is made.

        Raises:
            InvalidRequestError: it cannot be written.
        """
        if self._content is None:
            return
        try:
            if self._path.exists():
                is_same = self._path.is_file() and self._path.read_bytes() == self._content
                self.kept = None if is_same else self._path
                return
            self._make_directory(stack)
            self._file = stack.enter_context(new_file(self._path))
            self._file.write(self._content)
        except OSError as exc:
            raise InvalidRequestError(
                f"The configuration file of the backup cannot be written to {self._path} ({exc.strerror}): make room "
                "for it there, or set AGENTAPI_CONFIG to another place. Nothing was changed."
            ) from exc

    def publish(self) -> None:
        """Give it its name, unless another one came meanwhile."""
        if self._file is None:
            return
        try:
            self._file.publish()
            self.written = self._path
        except FileExistsError:
            self.kept = self._path
        except OSError as exc:
            self.fault = f"{self._path} cannot be written ({exc.strerror})"

    def _make_directory(self, stack: ExitStack) -> None:
        for folder in reversed([self._path.parent, *self._path.parent.parents]):
            if not folder.exists():
                folder.mkdir()
                stack.callback(_remove_empty, folder)


def check_new(path: Path) -> None:
    """Check that there is nothing of a name, and can be.

    Raises:
        ConflictError: there is something.
        InvalidRequestError: it cannot be written.
    """
    with _said(path):
        if path.is_symlink() or path.exists():
            raise ConflictError(f"{path} is there already: name a new file for the master keys.")
        with new_file(path):
            pass


@contextmanager
def _said(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as exc:
        raise InvalidRequestError(
            f"{path} cannot be written ({exc.strerror}): name a new file for the master keys elsewhere. "
            "Nothing was changed."
        ) from exc


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it has its file
        folder.rmdir()
