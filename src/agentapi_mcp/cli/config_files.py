"""The configuration files of MCP clients: read, written atomically, and kept as backups."""

import errno
import os
import stat
import sys
import tomllib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli import jsonc
from agentapi_mcp.cli.config_secrets import secrets_held
from agentapi_mcp.cli.mcp_clients import Entry, McpClient, env_of, is_ours

TYPE_CHECKING = False  # type checkers take it for true; it is slow to import, and needed where a file is written
if TYPE_CHECKING:
    import tempfile
else:
    tempfile = LazyModule("tempfile")

# `_locked` returns before it is needed on Windows, where it is not.
# pyright: reportPossiblyUnboundVariable=false
if sys.platform != "win32":
    import fcntl

# Written without being named, as absolute paths: a client starts the server in another directory.
PATH_VARIABLES = ("AGENTAPI_HOME", "AGENTAPI_CONFIG")
_PRIVATE = 0o600


class FileChangedError(Exception):
    """Another program changed the file since it was read."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A client's configuration file and its text; None if the file does not exist."""

    client: McpClient
    path: Path
    text: str | None

    def find(self, name: str) -> Entry | None:
        """Return the entry with this name."""
        return None if self.text is None else self.client.format.find(self.text, name)


def read_config(client: McpClient, path: Path) -> ConfigFile:
    """Read a file that can be changed.

    Raises:
        ConfigurationError: it cannot be read or changed.
    """
    try:
        real = path.resolve()  # replacing a symbolic link itself would leave the file behind it unchanged
        text = text_of(real)
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8; nothing was changed.") from None
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be read ({exc.strerror}).") from exc
    except RuntimeError as exc:  # how Python before 3.13 says that symbolic links go round in a circle
        raise ConfigurationError(f"{path} cannot be read ({exc}).") from exc
    if text is None:
        return ConfigFile(client, real, None)
    try:
        # Read and edited once now, so that a file that cannot be is refused before the trial.
        client.format.find(text, "")
        client.format.put(text, "agentapi", {})
    except (jsonc.JsoncError, tomllib.TOMLDecodeError) as exc:
        raise ConfigurationError(f"{real} is not what {client.title} reads: {exc}. Nothing was changed.") from exc
    except RecursionError:
        raise ConfigurationError(f"{real} is nested too deeply to be changed safely. Nothing was changed.") from None
    return ConfigFile(client, real, text)


def text_of(path: Path) -> str | None:
    """Return the text of a file, None if there is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for its writer
            raise OSError(errno.EINVAL, "it is no file")
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None


def was_before(config: ConfigFile, backup: Path, name: str, entry: Entry) -> bool:
    """Return whether the file is this backup with our entry added, and nothing else."""
    try:
        return config.client.format.put(backup.read_bytes().decode(), name, entry) == config.text
    except (OSError, ValueError, RecursionError, ConfigurationError):
        return False  # whatever became of the backup, the entry can be removed without it


def backups_of(path: Path) -> list[Path]:
    """List the backups of a file, the oldest first."""
    numbered = (
        path.with_name(f"{path.name}.agentapi-backup{f'-{number}' if number else ''}") for number in range(1000)
    )
    found: list[Path] = []
    for backup in numbered:
        if not backup.exists():
            break
        found.append(backup)
    return found


def is_ours_alone(config: ConfigFile, name: str) -> bool:
    """Return whether a change of this entry changes nothing but an entry of ours."""
    entry = config.find(name)
    return entry is not None and is_ours(entry)


def write_config(config: ConfigFile, text: str, *, keep: bool) -> Path | None:
    """Replace the file atomically and return its backup: of a file that was there, if it is to be kept.

    Where only an entry of ours changes there is nothing to go back to, and an API key that it had would stay behind.
    A file that is new, or that holds a secret of ours, becomes readable by its owner alone.
    """
    path, backup = config.path, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _PRIVATE
        if config.text is not None:
            mode = stat.S_IMODE(path.stat().st_mode)
        if config.text is not None and keep:
            backups = backups_of(path)
            backup = next((one for one in backups if one.read_bytes().decode(errors="replace") == config.text), None)
            if backup is None:
                backup = path.with_name(f"{path.name}.agentapi-backup{f'-{len(backups)}' if backups else ''}")
                _copy(path, backup, config.text, _mode_for(config.client, config.text, mode))
        replace_text(path, config.text, text, _mode_for(config.client, text, mode))
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written ({exc.strerror}); it is as it was.") from exc
    return backup


def put_back(config: ConfigFile, backup: Path | None) -> None:
    """Replace a file by its backup, or by nothing, if its text is still the one that was read.

    Raises:
        ConfigurationError: it cannot be written.
        FileChangedError: it is another by now.
    """
    path = config.path
    try:
        with _locked(path.parent):
            if text_of(path) != config.text:
                raise FileChangedError
            path.unlink() if backup is None else backup.replace(path)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written ({exc.strerror}); it is as it was.") from exc


def replace_text(path: Path, before: str | None, text: str, mode: int = _PRIVATE) -> None:
    """Replace a file atomically, if its text is still the one that was read.

    Raises:
        FileChangedError: it is another by now.
        OSError: it cannot be written.
    """
    with _staged(path, text, mode) as staged, _locked(path.parent):
        if text_of(path) != before:
            raise FileChangedError
        staged.replace(path)


def _copy(path: Path, backup: Path, text: str, mode: int) -> None:
    with _staged(path, text, mode) as staged:
        staged.replace(backup)


@contextmanager
def _locked(directory: Path) -> Generator[None]:
    """Keep other commands like this one from replacing a file of this directory."""
    if sys.platform == "win32":  # which can neither open a directory nor lock one
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)  # the directory itself: a file would stay behind
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _staged(path: Path, text: str, mode: int) -> Generator[Path]:
    """Write a text to a temporary file beside a file, whose place it can take at once."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        _own_as(path, Path(name))
        Path(name).chmod(mode)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _own_as(path: Path, staged: Path) -> None:
    """Leave a file its owner: what root writes for another user, a client of theirs must still be able to read."""
    if sys.platform != "win32" and path.exists():
        there = path.stat()
        with suppress(PermissionError):  # nobody but root can give files away
            os.chown(staged, there.st_uid, there.st_gid)


def close_config(config: ConfigFile) -> str:
    """Let nobody else read a file that holds a secret of ours, and say so if others could."""
    mode = stat.S_IMODE(config.path.stat().st_mode)
    if mode == _mode_for(config.client, config.text or "", mode):
        return ""
    config.path.chmod(_PRIVATE)
    return " It holds a secret that others could read; now only you can."


def _mode_for(client: McpClient, text: str, mode: int) -> int:
    """Return the mode for a file with this text: its own, unless it holds a secret of ours."""
    ours = [entry for entry in client.format.servers(text).values() if is_ours(entry)]
    # A value that had to be copied may be a secret whatever its name is.
    copied = client.copies_values and any(env_of(entry).keys() - {*PATH_VARIABLES} for entry in ours)
    return _PRIVATE if copied or any(map(secrets_held, ours)) else mode
