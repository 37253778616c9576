"""`connect` and `disconnect`: edit an MCP client's configuration, after a trial start of the server."""

import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import cast

import click

from agentapi_mcp.base.errors import AgentApiError, ConfigurationError, InvalidRequestError
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.base.text import listed
from agentapi_mcp.cli.config_files import (
    PATH_VARIABLES,
    ConfigFile,
    FileChangedError,
    backups_of,
    close_config,
    is_ours_alone,
    put_back,
    read_config,
    was_before,
    write_config,
)
from agentapi_mcp.cli.config_secrets import difference, secrets_held, secrets_in, secrets_of
from agentapi_mcp.cli.known_clients import NAMES, find_client, installed_clients
from agentapi_mcp.cli.mcp_clients import SERVER_OPTIONS, Entry, McpClient, env_of, is_ours, options_of, with_options
from agentapi_mcp.cli.options import FILE
from agentapi_mcp.cli.outputs import FAILED, explain, print_json
from agentapi_mcp.cli.questions import confirm
from agentapi_mcp.cli.start_commands import StartCommand, start_command
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.environ import environment, platform

TYPE_CHECKING = False  # type checkers take it for true; most runs need none of the settings, which are slow to import
if TYPE_CHECKING:
    from agentapi_mcp import settings
else:
    settings = LazyModule("agentapi_mcp.settings")

_WOULD_CHANGE = "would change"
_ATTEMPTS = 5
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNPREFIXED_VARIABLES = ("OPENROUTER_API_KEY",)
_BLANK = "<the value of {}>"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REPOSITORIES = (".git", ".hg", ".jj", ".svn")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Options of `connect` and `disconnect`; without a client, `connect` is about all that are installed."""

    client: str | None = None
    name: str = "agentapi"
    file: Path | None = None
    env: tuple[str, ...] = ()
    toolsets: str | None = None
    tool_prefix: str | None = None
    only_print: bool = False
    dry_run: bool = False
    force: bool = False
    yes: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class _Work:
    """What `connect` needs to know for every client."""

    options: ConnectOptions
    environ: Mapping[str, str]
    start: StartCommand
    paths: Mapping[str, str]
    handed_on: Mapping[str, str]
    server_options: Mapping[str, str]

    def entry(self, client: McpClient, present: Entry | None = None) -> Entry:
        """Return what starts this program; the options that an entry of ours has stay."""
        kept = [] if present is None else options_of(present) or []
        words = [*self.start.words, *with_options(kept, self.server_options)]
        return client.entry(words, self.paths, self.handed_on)

    def path(self, client: McpClient) -> Path:
        return self.options.file or client.file

    @property
    def secrets(self) -> list[str]:
        return [*secrets_of(self.environ), *self.handed_on.values()]


@dataclass(slots=True)
class _Result:
    """What became, or would become, of one client: an outcome for programs, and lines for people."""

    outcome: str  # connected, unchanged, would change, failed
    lines: list[str] = field(default_factory=list[str])
    change: str | None = None
    backup: Path | None = None


def client_options(force: str, *, requires_client: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options that `connect` and `disconnect` share; what `force` does differs."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option("--force", is_flag=True, help=force),
            click.option("--dry-run", is_flag=True, help="Show how the file would change, start and write nothing."),
            click.option("--file", type=FILE, help="Edit this file instead, for example a project's."),
            click.option("--name", default="agentapi", show_default=True, help="What the client calls this server."),
            click.argument(
                "client",
                type=click.Choice(NAMES),
                metavar="CLIENT" if requires_client else "[CLIENT]",
                required=requires_client,
            ),
        ):
            command = option(command)
        return command

    return decorate


async def connect(options: ConnectOptions) -> None:
    """Start the server as a client will, then add it to the client's configuration; without a client, to all there are.

    Raises:
        ConfigurationError: the file cannot be changed, or the server does not work as the client starts it.
        InvalidRequestError: the name is malformed, a variable of `--env` is not set, or nobody can be asked.
    """
    if not _NAME.fullmatch(options.name):
        raise InvalidRequestError("--name takes letters, digits, '-' and '_', at most 64.")
    if options.client is None and options.file is not None:
        raise InvalidRequestError("--file is the file of one client: name that, too.")
    environ = environment()
    clients = _chosen(options, environ)
    is_shown = options.only_print or options.dry_run
    handed_on = _handed_on(options.env, environ, is_shown=is_shown)
    server_options = _server_options(options)
    start = start_command(environ, None if is_shown else _ask())
    work = _Work(options, environ, start, _paths(environ), handed_on, server_options)
    if options.only_print:
        if options.as_json:
            print_json([_entry_json(name, client, work) for name, client in clients.items()])
            return
        for client in clients.values():
            _print_entry(client, work)
    elif options.client is not None and not options.as_json:
        for client in clients.values():
            _print_result(await _connect_one(client, work), options)
    else:
        await _connect_all(clients, work)


def _chosen(options: ConnectOptions, environ: Mapping[str, str]) -> dict[str, McpClient]:
    if options.client is not None:
        return {options.client: find_client(options.client, platform(), environ)}
    found = installed_clients(platform(), environ)
    if not found:
        raise ConfigurationError(
            f"None of the clients that connect knows is installed here ({', '.join(NAMES)}): no program is on the "
            "PATH, and no file in its place. Start a client once, or name one and say --force."
        )
    return found


async def _connect_all(clients: Mapping[str, McpClient], work: _Work) -> None:
    """Show what would be done and do it after a yes; the failure of one client does not stop the others."""
    options = work.options
    results = {name: await _attempted(_planned_result(client, work)) for name, client in clients.items()}
    if not options.as_json:
        _print_all(clients, work, results)
    changing = [name for name, result in results.items() if result.outcome == _WOULD_CHANGE]
    if changing and not options.dry_run and _has_consent(changing, options):
        done = {name: await _attempted(_connect_one(clients[name], work)) for name in changing}
        results |= done
        if not options.as_json:
            _print_all(clients, work, done)
    if options.as_json:
        print_json([_json(name, clients[name], work, result) for name, result in results.items()])
    if any(result.outcome == "failed" for result in results.values()):
        sys.exit(FAILED)


def _has_consent(names: Sequence[str], options: ConnectOptions) -> bool:
    """Ask whether to write, unless that was said already.

    Raises:
        InvalidRequestError: nobody can be asked.
    """
    if options.yes or options.client is not None:
        return True
    if options.as_json or not sys.stdin.isatty():
        raise InvalidRequestError(
            f"Nobody can be asked here whether to write the files of {listed(list(names))}: say --yes to write them, "
            "--dry-run to see what would change, or name one client."
        )
    if confirm(f"Connect {listed(list(names))}?"):
        return True
    print_err("Nothing was written.")
    return False


async def _attempted(step: Awaitable[_Result]) -> _Result:
    try:
        return await step
    except AgentApiError as exc:
        return _Result("failed", [explain(exc)])


async def _planned_result(client: McpClient, work: _Work) -> _Result:
    return _planned(client, work)


def _planned(client: McpClient, work: _Work) -> _Result:
    """Say how the file of a client would change."""
    config = read_config(client, work.path(client))
    entry = _entry_for(config, work)
    if client.copies_values and work.handed_on:
        _check_privacy(config, work.options, work.handed_on)
    text = client.format.put(config.text or "", work.options.name, entry)
    result = _difference(config, text, work.secrets)
    result.lines += _twice(config, work.options.name)
    return result


async def _connect_one(client: McpClient, work: _Work) -> _Result:
    planned = _planned(client, work)
    if work.options.dry_run:
        return planned
    entry = _entry_for(read_config(client, work.path(client)), work)
    trial_result = "It was not tried (--force)."
    if not work.options.force:
        trial_result = await _trial(client, entry, work.environ, work.secrets)
    result = _put(client, work)
    notes = _notes(read_config(client, work.path(client)), work.options.name, work.handed_on, work.environ)
    after = (trial_result, work.start.remark, *notes, client.next_step)
    result.lines += [line for line in after if line is not None]
    return result


def _print_all(clients: Mapping[str, McpClient], work: _Work, results: Mapping[str, _Result]) -> None:
    for name, result in results.items():
        print_err(f"{clients[name].title} ({work.path(clients[name])}):")
        _print_result(result, work.options)


def _print_result(result: _Result, options: ConnectOptions) -> None:
    if result.change is not None:
        print_out(result.change)
    for line in result.lines:
        print_err(line)
    if options.dry_run and result.outcome == _WOULD_CHANGE:
        print_err("Nothing was written (--dry-run).")


def _json(name: str, client: McpClient, work: _Work, result: _Result) -> dict[str, object]:
    return {
        "client": name,
        "title": client.title,
        "file": str(work.path(client)),
        "server": work.options.name,
        "outcome": result.outcome,
        "change": result.change,
        "backup": None if result.backup is None else str(result.backup),
        "messages": result.lines,
    }


def _blank_entry(client: McpClient, work: _Work) -> Entry:
    """Return what to paste, without values."""
    entry = replace(work, handed_on={each: _BLANK.format(each) for each in work.handed_on}).entry(client)
    client.check_name(work.options.name, client.server_prefix(entry, work.environ))
    return entry


def _entry_json(name: str, client: McpClient, work: _Work) -> dict[str, object]:
    text = client.format.show(work.options.name, _blank_entry(client, work))
    return {"client": name, "title": client.title, "file": str(work.path(client)), "paste": text}


def _print_entry(client: McpClient, work: _Work) -> None:
    """Print what to paste where."""
    entry = _blank_entry(client, work)
    print_err(f"# Into {work.path(client)}:")
    if client.copies_values and env_of(entry).keys() - {*PATH_VARIABLES}:
        print_err("# Put in the values, and let nobody else read the file (chmod 600).")
    for remark in (work.start.remark, client.remark_on(entry)):
        if remark is not None:
            print_err(f"# {remark}")
    print_out(client.format.show(work.options.name, entry))


def _notes(config: ConfigFile, name: str, handed_on: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
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
    notes += [*_twice(config, name), *_warnings(config, name if client.copies_values else None)]
    notes += [
        f"Over stdio, the server does not read {each}: set AGENTAPI_{each}, and say --env AGENTAPI_{each}."
        for each in client.handed_on(entry)
        if each in settings.BARE_NAMES
    ]
    omitted = [each for each in _related_variables(environ) if each not in client.handed_on(entry)]
    if omitted:
        notes.append(
            f"Not handed on of what is set here: {', '.join(omitted)}. Where it is needed, say --env {omitted[0]}."
        )
    return notes


def _twice(config: ConfigFile, name: str) -> list[str]:
    """Tell of entries under other names that start this program, too."""
    servers = config.client.format.servers(config.text or "")
    others = [each for each, entry in servers.items() if each != name and is_ours(entry)]
    return [
        f"{config.client.title} starts this program as {other}, too, and so has its tools twice: `disconnect` with "
        f"--name {other} takes that one out."
        for other in others
    ]


def _warnings(config: ConfigFile, but: str | None) -> list[str]:
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


def _check_privacy(config: ConfigFile, options: ConnectOptions, handed_on: Mapping[str, str]) -> None:
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


def _difference(config: ConfigFile, text: str | None, secrets: Sequence[str]) -> _Result:
    """Return how a file would change, with the secrets hidden."""
    if text == config.text:
        return _Result("unchanged", [f"{config.path} says so already; nothing would change."])
    documents = [config.client.format.load(each) for each in (config.text, text) if each]
    hidden = [*secrets, *(secret for document in documents for secret in secrets_in(document))]
    change = difference(config.path, config.text, text, hidden)
    return _Result(_WOULD_CHANGE, change=change)


def _put(client: McpClient, work: _Work) -> _Result:
    """Put the entry into the file as it is now, and say what was written."""
    name, path = work.options.name, work.path(client)
    # Clients write their file too, and a trial takes long: what was read before it may be old.
    for _ in range(_ATTEMPTS):
        config = read_config(client, path)
        text = client.format.put(config.text or "", name, _entry_for(config, work))
        if text == config.text:
            said = f"{config.path} says so already; nothing was changed.{close_config(config)}"
            return _Result("unchanged", [said])
        with suppress(FileChangedError):
            backup = write_config(config, text, keep=not is_ours_alone(config, name))
            said = f"Wrote {config.path}." + (f" What was there is in {backup}." if backup else "")
            return _Result("connected", [said], backup=backup)
    raise ConfigurationError(f"{path} is being written by another program; nothing was changed. Try again.")


def _entry_for(config: ConfigFile, work: _Work) -> Entry:
    """Return the entry to write; what the user added to an entry of ours is preserved, options of its command too."""
    options, client = work.options, config.client
    present = config.find(options.name)
    ours = present if present is not None and is_ours(present) else None
    entry = work.entry(client, ours) if ours is None else client.merge(ours, work.entry(client, ours))
    client.check_name(options.name, client.server_prefix(entry, work.environ))
    if ours is not None:
        return entry
    if present is not None and not options.force:
        raise ConfigurationError(
            f"{config.path} has another server of the name {options.name}: choose another by --name, or say --force."
        )
    # Claude Code's file is in the home of its user, which is there before it.
    if not (options.file or options.force or client.directory is None or client.is_installed(work.environ)):
        raise ConfigurationError(
            f"{client.title} was not used here yet: there is no {client.directory}. Start it once, or say --force."
        )
    return entry


async def disconnect(options: ConnectOptions) -> None:
    """Remove our entry from the client's configuration.

    If nothing else changed since `connect`, the file is restored byte for byte, or deleted if `connect` created it.

    Raises:
        ConfigurationError: the file cannot be changed, or the entry is not ours.
    """
    environ = environment()
    [client] = _chosen(options, environ).values()
    config = read_config(client, options.file or client.file)
    entry = config.find(options.name)
    if entry is None or config.text is None:
        _tell(options, config, "unchanged", f"There is no server {options.name} in {config.path}; nothing was changed.")
        return
    if not is_ours(entry) and not options.force:
        raise ConfigurationError(f"The server {options.name} in {config.path} is not ours; say --force to take it out.")
    text, backup = _undone(config, options.name, entry)
    if options.dry_run:
        result = _difference(config, text, secrets_of(environ))
        if options.as_json:
            _tell(options, config, result.outcome, *result.lines, change=result.change)
        else:
            _print_result(result, options)
        return
    try:
        said = _take_out(config, text, backup, options.name)
    except FileChangedError:
        raise ConfigurationError(f"{config.path} was just changed by another program. Try again.") from None
    _tell(options, config, "disconnected", said)


def _tell(options: ConnectOptions, config: ConfigFile, outcome: str, *lines: str, change: str | None = None) -> None:
    """Say what became of the file from which the server was to be taken."""
    for line in lines:
        print_err(line)
    if options.as_json:
        print_json(
            {
                "client": options.client,
                "title": config.client.title,
                "file": str(config.path),
                "server": options.name,
                "outcome": outcome,
                "change": change,
                "messages": lines,
            }
        )


def _undone(config: ConfigFile, name: str, entry: Entry) -> tuple[str | None, Path | None]:
    """Return the text without our entry, None for no file, and the backup that is this text, if there is one."""
    text, form = config.text or "", config.client.format
    for backup in reversed(backups_of(config.path)):
        if was_before(config, backup, name, entry):
            return backup.read_bytes().decode(), backup
    return (None if form.put("", name, entry) == text else form.remove(text, name)), None


def _take_out(config: ConfigFile, text: str | None, backup: Path | None, name: str) -> str:
    if text is None or backup is not None:
        put_back(config, backup)
        return (
            f"Removed {config.path}, which held nothing else."
            if backup is None
            else f"{config.path} is as it was before."
        )
    kept = write_config(config, text, keep=not is_ours_alone(config, name))
    return f"Took {name} out of {config.path}." + (f" What was there is in {kept}." if kept else "")


def _ask() -> Callable[[str], bool] | None:
    """Return how to ask the user; None if nobody is there."""
    return confirm if sys.stdin.isatty() else None


def _paths(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: str(Path(environ[name]).expanduser().absolute()) for name in PATH_VARIABLES if environ.get(name)}


def _server_options(options: ConnectOptions) -> dict[str, str]:
    """Return the options with which the client starts the server.

    Raises:
        ConfigurationError: a toolset does not exist, or the prefix is malformed.
    """
    values = zip(SERVER_OPTIONS, (options.toolsets, options.tool_prefix), strict=True)
    given = {name: value for name, value in values if value is not None}
    if given:
        chosen = settings.with_toolsets(settings.Settings.model_construct(), options.toolsets)
        settings.with_tool_prefix(chosen, options.tool_prefix)
    return given


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
    return {name: environ.get(name) or _BLANK.format(name) for name in names if name not in PATH_VARIABLES}


def _related_variables(environ: Mapping[str, str]) -> list[str]:
    return sorted(
        name for name in environ if environ[name] and (name.startswith("AGENTAPI_") or name in _UNPREFIXED_VARIABLES)
    )


async def _trial(client: McpClient, entry: Entry, environ: Mapping[str, str], secrets: Sequence[str]) -> str:
    # Loaded when there is a trial alone: the MCP client takes as long to load as all the rest.
    trials = import_module("agentapi_mcp.cli.trials")
    return cast("str", await trials.try_server(client, entry, environ, secrets))
