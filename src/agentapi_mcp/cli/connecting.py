"""`connect` and `disconnect`: edit an MCP client's configuration, after a trial start of the server."""

import errno
import os
import re
import stat
import sys
import tempfile
import tomllib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import cast

import click

from agentapi_mcp.base.errors import ConfigurationError, InvalidRequestError
from agentapi_mcp.base.text import listed
from agentapi_mcp.cli import jsonc
from agentapi_mcp.cli.config_secrets import difference, secrets_held, secrets_in, secrets_of
from agentapi_mcp.cli.mcp_clients import NAMES, Entry, McpClient, env_of, find_client, is_ours
from agentapi_mcp.cli.options import FILE
from agentapi_mcp.cli.start_commands import StartCommand, start_command
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.settings import BARE_NAMES, environment, platform

# `_locked` returns before it is needed on Windows, where it is not.
# pyright: reportPossiblyUnboundVariable=false
if sys.platform != "win32":
    import fcntl

_ATTEMPTS = 5
# Providers take names of tools of 64 characters; clients make them of this name, as in mcp__NAME__set_organization.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,41}")
# Written without being named, as absolute paths: a client starts the server in another directory.
_PATH_VARIABLES = ("AGENTAPI_HOME", "AGENTAPI_CONFIG")
_UNPREFIXED_VARIABLES = ("OPENROUTER_API_KEY",)
_BLANK = "<the value of {}>"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REPOSITORIES = (".git", ".hg", ".jj", ".svn")
_PRIVATE = 0o600


class _FileChangedError(Exception):
    """Another program changed the file since it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Options of `connect` and `disconnect`."""

    client: str
    name: str = "agentapi"
    file: Path | None = None
    env: tuple[str, ...] = ()
    only_print: bool = False
    dry_run: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class _ConfigFile:
    """A client's configuration file and its text; None if the file does not exist."""

    client: McpClient
    path: Path
    text: str | None

    def find(self, name: str) -> Entry | None:
        """Return the entry with this name."""
        return None if self.text is None else self.client.format.find(self.text, name)


def client_options(force: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options that `connect` and `disconnect` share; what `force` does differs."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option("--force", is_flag=True, help=force),
            click.option("--dry-run", is_flag=True, help="Show how the file would change, start and write nothing."),
            click.option("--file", type=FILE, help="Edit this file instead, for example a project's."),
            click.option("--name", default="agentapi", show_default=True, help="What the client calls this server."),
            click.argument("client", type=click.Choice(NAMES)),
        ):
            command = option(command)
        return command

    return decorate


async def connect(options: ConnectOptions) -> None:
    """Start the server as the client will, then add it to the client's configuration.

    Raises:
        ConfigurationError: the file cannot be changed, or the server does not work as the client starts it.
        InvalidRequestError: the name is malformed, or a variable of `--env` is not set.
    """
    if not _NAME.fullmatch(options.name):
        raise InvalidRequestError(
            "--name takes letters, digits, '-' and '_', at most 41: with a longer one, names of tools exceed the 64 "
            "characters that models' providers allow."
        )
    environ = environment()
    client = find_client(options.client, platform(), environ)
    is_shown = options.only_print or options.dry_run
    paths, handed_on = _paths(environ), _handed_on(options.env, environ, is_shown=is_shown)
    start = start_command(environ, None if is_shown else _ask())
    new = client.entry(start.words, paths, handed_on)
    path = options.file or client.file
    if options.only_print:
        blanks = {each: _BLANK.format(each) for each in handed_on}
        _print_entry(client, path, options.name, start, client.entry(start.words, paths, blanks))
        return
    config = _read(client, path)
    entry = _entry_for(config, options, new)
    if client.copies_values and handed_on:
        _check_privacy(config, options, handed_on)
    secrets = [*secrets_of(environ), *handed_on.values()]
    if options.dry_run:
        text = client.format.put(config.text or "", options.name, entry)
        _print_difference(config, text, secrets)
        return
    trial_result = "It was not tried (--force)." if options.force else await _trial(client, entry, environ, secrets)
    print_err(_put(client, path, options, new))
    notes = _notes(_read(client, path), options.name, handed_on, environ)
    for line in (trial_result, start.remark, *notes, client.next_step):
        if line is not None:
            print_err(line)


def _print_entry(client: McpClient, path: Path, name: str, start: StartCommand, entry: Entry) -> None:
    """Print what to paste where, without values."""
    print_err(f"# Into {path}:")
    if client.copies_values and env_of(entry).keys() - {*_PATH_VARIABLES}:
        print_err("# Put in the values, and let nobody else read the file (chmod 600).")
    for remark in (start.remark, client.remark_on(entry)):
        if remark is not None:
            print_err(f"# {remark}")
    print_out(client.format.show(name, entry))


def _notes(config: _ConfigFile, name: str, handed_on: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """Say what the user should know of the variables and secrets of a file that was written."""
    client, entry = config.client, config.find(name) or {}
    notes = [remark for remark in [client.remark_on(entry)] if remark is not None]
    if handed_on and client.copies_values:
        notes.append(
            f"{client.title} cannot refer to a variable: the value of {listed(list(handed_on))} is in {config.path}, "
            "which only you can read now. Keep it out of backups and repositories."
        )
    elif handed_on:
        notes.append(
            f"The file refers to {listed(list(handed_on))} and holds no value: set it where {client.title} is started, "
            "for example in your shell's profile."
        )
    notes += _warnings(config, name if client.copies_values else None)
    notes += [
        f"Over stdio, the server does not read {each}: set AGENTAPI_{each}, and say --env AGENTAPI_{each}."
        for each in client.handed_on(entry)
        if each in BARE_NAMES
    ]
    omitted = [each for each in _related_variables(environ) if each not in client.handed_on(entry)]
    if omitted:
        notes.append(
            f"Not handed on of what is set here: {', '.join(omitted)}. Where it is needed, say --env {omitted[0]}."
        )
    return notes


def _warnings(config: _ConfigFile, but: str | None) -> list[str]:
    """Warn of values that look like secrets, in the entries of all servers but one."""
    text = config.text or ""
    found = [
        f"{variable} of {name}"
        for name, entry in config.client.format.servers(text).items()
        if name != but
        for variable in secrets_held(entry)
    ]
    if not found:
        return []
    references = config.client.references
    mend = f" {references.to('NAME')} refers to a variable." if references else ""
    return [f"Warning: {config.path} holds secrets that are no references: {listed(found)}.{mend}"]


def _check_privacy(config: _ConfigFile, options: ConnectOptions, handed_on: Mapping[str, str]) -> None:
    """Refuse to copy values into a file that is made to be shared."""
    title, names = config.client.title, listed(list(handed_on))
    if options.file is not None:
        raise InvalidRequestError(
            f"{title} cannot refer to a variable, and the value of {names} is written into its own file alone, "
            "not into one of --file. Leave --env out."
        )
    repository = next(
        (each for each in config.path.parents if any((each / one).exists() for one in _REPOSITORIES)), None
    )
    if repository is not None:
        raise ConfigurationError(
            f"{title} cannot refer to a variable, and {config.path} is in the repository {repository}: the value of "
            f"{names} is not written there. Leave --env out."
        )


def _print_difference(config: _ConfigFile, text: str | None, secrets: Sequence[str]) -> None:
    """Print how a file would change."""
    if text == config.text:
        print_err(f"{config.path} says so already; nothing would change.")
        return
    documents = [config.client.format.load(each) for each in (config.text, text) if each]
    hidden = [*secrets, *(secret for document in documents for secret in secrets_in(document))]
    print_out(difference(config.path, config.text, text, hidden))
    print_err("Nothing was written (--dry-run).")


def _put(client: McpClient, path: Path, options: ConnectOptions, new: Entry) -> str:
    """Put the entry into the file as it is now, and say what was written."""
    # Clients write their file too, and a trial takes long: what was read before it may be old.
    for _ in range(_ATTEMPTS):
        config = _read(client, path)
        text = client.format.put(config.text or "", options.name, _entry_for(config, options, new))
        if text == config.text:
            return f"{config.path} says so already; nothing was changed.{_closed(config)}"
        with suppress(_FileChangedError):
            backup = _write(config, text, keep=not _is_ours_alone(config, options.name))
            return f"Wrote {config.path}." + (f" What was there is in {backup}." if backup else "")
    raise ConfigurationError(f"{path} is being written by another program; nothing was changed. Try again.")


def _closed(config: _ConfigFile) -> str:
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
    copied = client.copies_values and any(env_of(entry).keys() - {*_PATH_VARIABLES} for entry in ours)
    return _PRIVATE if copied or any(map(secrets_held, ours)) else mode


def _entry_for(config: _ConfigFile, options: ConnectOptions, new: Entry) -> Entry:
    """Return the entry to write; fields that the user added to an entry of ours are preserved."""
    client, present = config.client, config.find(options.name)
    if present is not None and is_ours(present):
        return client.merge(present, new)
    if present is not None and not options.force:
        raise ConfigurationError(
            f"{config.path} has another server of the name {options.name}: choose another by --name, or say --force."
        )
    if options.file is None and client.has_own_directory and not config.path.parent.is_dir() and not options.force:
        raise ConfigurationError(
            f"{client.title} was not used here yet: there is no {config.path.parent}. Start it once, or say --force."
        )
    return new


async def disconnect(options: ConnectOptions) -> None:
    """Remove our entry from the client's configuration.

    If nothing else changed since `connect`, the file is restored byte for byte, or deleted if `connect` created it.

    Raises:
        ConfigurationError: the file cannot be changed, or the entry is not ours.
    """
    environ = environment()
    client = find_client(options.client, platform(), environ)
    config = _read(client, options.file or client.file)
    entry = config.find(options.name)
    if entry is None or config.text is None:
        print_err(f"There is no server {options.name} in {config.path}; nothing was changed.")
        return
    if not is_ours(entry) and not options.force:
        raise ConfigurationError(f"The server {options.name} in {config.path} is not ours; say --force to take it out.")
    text, backup = _undone(config, options.name, entry)
    if options.dry_run:
        _print_difference(config, text, secrets_of(environ))
    elif text is None:
        config.path.unlink()
        print_err(f"Removed {config.path}, which held nothing else.")
    elif backup is not None:
        backup.replace(config.path)
        print_err(f"{config.path} is as it was before.")
    else:
        _take_out(config, text, options.name, keep=not is_ours(entry))


def _undone(config: _ConfigFile, name: str, entry: Entry) -> tuple[str | None, Path | None]:
    """Return the text without our entry, None for no file, and the backup that is this text, if there is one."""
    text, form = config.text or "", config.client.format
    if form.put("", name, entry) == text:
        return None, None
    for backup in reversed(_backups(config.path)):
        if _was_before(config, backup, name, entry):
            return backup.read_bytes().decode(), backup
    return form.remove(text, name), None


def _take_out(config: _ConfigFile, text: str, name: str, *, keep: bool) -> None:
    try:
        backup = _write(config, text, keep=keep)
    except _FileChangedError:
        raise ConfigurationError(f"{config.path} was just changed by another program. Try again.") from None
    print_err(f"Took {name} out of {config.path}." + (f" What was there is in {backup}." if backup else ""))


def _ask() -> Callable[[str], bool] | None:
    """Return how to ask the user; None if nobody is there."""
    return partial(click.confirm, default=True, err=True) if sys.stdin.isatty() else None


def _paths(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: str(Path(environ[name]).expanduser().absolute()) for name in _PATH_VARIABLES if environ.get(name)}


def _handed_on(names: Sequence[str], environ: Mapping[str, str], *, is_shown: bool) -> dict[str, str]:
    """Return the variables of `--env`; any of them may be a secret, since agents name their keys as they like.

    What is only shown needs no value: nothing is started with it.
    """
    for name in names:
        if not _VARIABLE.fullmatch(name):
            # What was given is not repeated: it may be NAME=value.
            raise InvalidRequestError("--env takes the name of a variable alone, without its value.")
        if not environ.get(name) and not is_shown:
            raise InvalidRequestError(f"--env {name}: the variable {name} is not set here.")
    return {name: environ.get(name) or _BLANK.format(name) for name in names if name not in _PATH_VARIABLES}


def _related_variables(environ: Mapping[str, str]) -> list[str]:
    return sorted(
        name for name in environ if environ[name] and (name.startswith("AGENTAPI_") or name in _UNPREFIXED_VARIABLES)
    )


# --- the file


def _read(client: McpClient, path: Path) -> _ConfigFile:
    try:
        real = path.resolve()  # replacing a symbolic link itself would leave the file behind it unchanged
        text = _text_of(real)
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8; nothing was changed.") from None
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be read ({exc.strerror}).") from exc
    except RuntimeError as exc:  # how Python before 3.13 says that symbolic links go round in a circle
        raise ConfigurationError(f"{path} cannot be read ({exc}).") from exc
    if text is None:
        return _ConfigFile(client, real, None)
    try:
        # Read and edited once now, so that a file that cannot be is refused before the trial.
        client.format.find(text, "")
        client.format.put(text, "agentapi", {})
    except (jsonc.JsoncError, tomllib.TOMLDecodeError) as exc:
        raise ConfigurationError(f"{real} is not what {client.title} reads: {exc}. Nothing was changed.") from exc
    except RecursionError:
        raise ConfigurationError(f"{real} is nested too deeply to be changed safely. Nothing was changed.") from None
    return _ConfigFile(client, real, text)


def _text_of(path: Path) -> str | None:
    """Return the text of a file, None if there is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for its writer
            raise OSError(errno.EINVAL, "it is no file")
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None


def _was_before(config: _ConfigFile, backup: Path, name: str, entry: Entry) -> bool:
    """Return whether the file is this backup with our entry added, and nothing else."""
    try:
        return config.client.format.put(backup.read_bytes().decode(), name, entry) == config.text
    except (OSError, ValueError, RecursionError, ConfigurationError):
        return False  # whatever became of the backup, the entry can be removed without it


def _backups(path: Path) -> list[Path]:
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


def _is_ours_alone(config: _ConfigFile, name: str) -> bool:
    """Return whether a change of this entry changes nothing but an entry of ours."""
    entry = config.find(name)
    return entry is not None and is_ours(entry)


def _write(config: _ConfigFile, text: str, *, keep: bool) -> Path | None:
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
            backups = _backups(path)
            backup = next((one for one in backups if one.read_bytes().decode(errors="replace") == config.text), None)
            if backup is None:
                backup = path.with_name(f"{path.name}.agentapi-backup{f'-{len(backups)}' if backups else ''}")
                _replace(backup, config.text, _mode_for(config.client, config.text, mode))
        with _staged(path, text, _mode_for(config.client, text, mode)) as staged, _locked(path.parent):
            if _text_of(path) != config.text:
                raise _FileChangedError
            staged.replace(path)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written ({exc.strerror}); it is as it was.") from exc
    return backup


def _replace(path: Path, text: str, mode: int) -> None:
    with _staged(path, text, mode) as staged:
        staged.replace(path)


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
    """Write a text to a temporary file beside its place, which it can be moved to at once."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


async def _trial(client: McpClient, entry: Entry, environ: Mapping[str, str], secrets: Sequence[str]) -> str:
    # Loaded when there is a trial alone: the MCP client takes as long to load as all the rest.
    trials = import_module("agentapi_mcp.cli.trials")
    return cast("str", await trials.try_server(client, entry, environ, secrets))
