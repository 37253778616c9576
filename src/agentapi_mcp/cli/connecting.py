"""`connect` and `disconnect`: an MCP client's configuration, written only when what it starts works."""

import asyncio
import os
import re
import shutil
import stat
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from time import monotonic
from typing import TextIO, cast

import click
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import Implementation, TextContent

from agentapi_mcp.base.errors import ConfigurationError, InvalidRequestError
from agentapi_mcp.base.json_values import as_list, as_object, as_text, is_object, load_json
from agentapi_mcp.cli import jsonc
from agentapi_mcp.cli.mcp_clients import NAMES, Entry, McpClient, find_client, is_ours
from agentapi_mcp.cli.options import FILE
from agentapi_mcp.cli.outputs import note, say
from agentapi_mcp.settings import VERSION, environment, platform

_ANSWERS_WITHIN = 120.0
_BARE = {"linux": "/usr/local/bin:/usr/bin:/bin", "darwin": "/usr/bin:/bin:/usr/sbin:/sbin"}
_WITH_THEM = ("HOME", "USER", "LOGNAME", "LANG", "APPDATA", "LOCALAPPDATA", "SYSTEMROOT", "TEMP", "TMPDIR")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OWN = ("AGENTAPI_HOME", "AGENTAPI_CONFIG")
_OFTEN_MEANT = ("OPENROUTER_API_KEY", "DATABASE_URL", "REDIS_URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """What was asked for."""

    client: str
    name: str = "agentapi"
    file: Path | None = None
    env: tuple[str, ...] = ()
    only_print: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """A client's file and what is in it now, None where there is none."""

    client: McpClient
    path: Path
    text: str | None

    def find(self, name: str) -> Entry | None:
        """Return the entry of this name."""
        return None if self.text is None else self.client.form.find(self.text, name)


def client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command what `connect` and `disconnect` have in common."""
    for option in (
        click.option("--force", is_flag=True, help="Whatever is there, and without a trial."),
        click.option("--file", type=FILE, help="Another file, as a project's."),
        click.option("--name", default="agentapi", show_default=True, help="What the client calls this server."),
        click.argument("client", type=click.Choice(NAMES)),
    ):
        command = option(command)
    return command


async def connect(options: ConnectOptions) -> None:
    """Try what the client would start, and write it into the client's file.

    Raises:
        ConfigurationError: the file cannot be changed, or the server does not work as the client starts it.
        InvalidRequestError: the name is none, or a variable that is to be handed on is not set.
    """
    if not _NAME.fullmatch(options.name):
        raise InvalidRequestError("--name takes letters, digits, '-' and '_', at most 64.")
    environ = environment()
    client = find_client(options.client, platform(), environ)
    command, args = _own_command(environ)
    env = _handed_on(options.env, environ)
    path = options.file or client.file
    if options.only_print:
        note(f"# Into {path}:")
        say(client.form.show(options.name, client.entry(command, args, env)))
        return
    place = _read(client, path)
    entry = _entry_for(place, options, client.entry(command, args, env))
    text = client.form.put(place.text or "", options.name, entry)
    tried = "It was not tried (--force)." if options.force else await _try(client, entry, environ)
    if text == place.text:
        note(f"{place.path} says so already; nothing was changed.")
    else:
        backup = _write(place, text)
        note(f"Wrote {place.path}." + (f" What was there is in {backup}." if backup else ""))
    note(tried)
    left = [name for name in _left_out(environ) if name not in _env_of(entry)]
    if left:
        note(f"Not handed on of what is set here: {', '.join(left)}. Where it is needed, say --env {left[0]}.")
    note(client.then)


def _entry_for(place: _Place, options: ConnectOptions, new: Entry) -> Entry:
    """Return the entry to write: what somebody added to ours is theirs, and stays."""
    client, present = place.client, place.find(options.name)
    if present is not None and is_ours(present):
        kept = {key: present[key] for key in client.more if key in present}
        env = _env_of(present) | _env_of(new)
        return present | new | kept | ({"env": env} if env else {})
    if present is not None and not options.force:
        raise ConfigurationError(
            f"{place.path} has another server of the name {options.name}: choose another by --name, or say --force."
        )
    if options.file is None and client.made_by_it and not place.path.parent.is_dir() and not options.force:
        raise ConfigurationError(
            f"{client.title} was not used here yet: there is no {place.path.parent}. Start it once, or say --force."
        )
    return new


def _env_of(entry: Entry) -> dict[str, str]:
    return cast("dict[str, str]", entry.get("env") or {})


async def disconnect(options: ConnectOptions) -> None:
    """Take our entry out of the client's file; what `connect` alone had changed is as it was.

    Raises:
        ConfigurationError: the file cannot be changed, or the entry is not ours.
    """
    client = find_client(options.client, platform(), environment())
    place = _read(client, options.file or client.file)
    entry = place.find(options.name)
    if entry is None or place.text is None:
        note(f"There is no server {options.name} in {place.path}; nothing was changed.")
        return
    if not is_ours(entry) and not options.force:
        raise ConfigurationError(f"The server {options.name} in {place.path} is not ours; say --force to take it out.")
    if client.form.put("", options.name, entry) == place.text:
        place.path.unlink()
        note(f"Removed {place.path}, which held nothing else.")
        return
    for backup in reversed(_backups(place.path)):
        if client.form.put(backup.read_bytes().decode(), options.name, entry) == place.text:
            backup.replace(place.path)
            note(f"{place.path} is as it was before.")
            return
    kept = _write(place, client.form.take(place.text, options.name))
    note(f"Took {options.name} out of {place.path}." + (f" What was there is in {kept}." if kept else ""))


def _own_command(environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return how this program can be started again by whoever has no PATH of ours."""
    if any(part.startswith("archive-v") for part in Path(sys.prefix).parts):  # what uvx made goes with uv's cache
        uvx = shutil.which("uvx", path=environ.get("PATH"))
        if uvx is not None:
            source = _installed_from()
            return uvx, [*(["--from", source] if source else []), "agentapi-mcp"]
    for script in (Path(sys.argv[0]), Path(sys.executable).with_name("agentapi-mcp")):
        if script.stem == "agentapi-mcp" and os.access(script, os.X_OK) and script.is_file():
            return str(script.absolute()), []
    return sys.executable, ["-m", "agentapi_mcp"]


def _installed_from() -> str | None:
    """Return where a package index has no part in it: a directory or an address."""
    try:
        said = distribution("agentapi-mcp").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    url = as_text(as_object(load_json(said)).get("url")) if said else None
    return url.removeprefix("file://") if url else None


def _handed_on(wanted: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    given = {name: str(Path(environ[name]).expanduser().absolute()) for name in _OWN if environ.get(name)}
    for name in wanted:
        value = environ.get(name)
        if not value:
            raise InvalidRequestError(f"--env {name}: the variable {name} is not set here.")
        given[name] = value
    return given


def _left_out(environ: Mapping[str, str]) -> list[str]:
    return sorted(name for name in environ if environ[name] and (name.startswith("AGENTAPI_") or name in _OFTEN_MEANT))


# --- the file


def _read(client: McpClient, path: Path) -> _Place:
    real = path.resolve()  # behind a symbolic link, the file that is meant
    try:
        text = real.read_bytes().decode()
    except FileNotFoundError:
        return _Place(client, real, None)
    except UnicodeDecodeError:
        raise ConfigurationError(f"{real} is not UTF-8; nothing was changed.") from None
    except OSError as exc:
        raise ConfigurationError(f"{real} cannot be read ({exc.strerror}).") from exc
    try:
        client.form.find(text, "")
        client.form.put(text, "agentapi", {})
    except (jsonc.JsoncError, tomllib.TOMLDecodeError) as exc:
        raise ConfigurationError(f"{real} is not what {client.title} reads: {exc}. Nothing was changed.") from exc
    return _Place(client, real, text)


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


def _write(place: _Place, text: str) -> Path | None:
    """Replace the file at once, and return where what was there is kept."""
    path, backup = place.path, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o600
        if place.text is not None:
            mode = stat.S_IMODE(path.stat().st_mode)
            kept = _backups(path)
            backup = next((one for one in kept if one.read_bytes().decode(errors="replace") == place.text), None)
            if backup is None:
                backup = path.with_name(f"{path.name}.agentapi-backup{f'-{len(kept)}' if kept else ''}")
                _replace(backup, place.text, mode)
        _replace(path, text, mode)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written ({exc.strerror}); it is as it was.") from exc
    return backup


def _replace(path: Path, text: str, mode: int) -> None:
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(mode)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


# --- the trial


async def _try(client: McpClient, entry: Entry, environ: Mapping[str, str]) -> str:
    """Start the server as the client will, shake hands, call a tool, and say how that went."""
    env = {name: environ[name] for name in _WITH_THEM if name in environ}
    env |= {"PATH": _BARE.get(platform(), os.defpath)} | _env_of(entry)
    args = [str(word) for word in as_list(entry["args"])]
    parameters = StdioServerParameters(command=str(entry["command"]), args=args, env=env)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        begun = monotonic()
        why = f"it did not answer within {_ANSWERS_WITHIN:.0f} s"
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN):
                works, told = await _shake_hands(client, parameters, log)
        except Exception as exc:  # noqa: BLE001  # whatever it is, the server's log says more
            log.seek(0)
            last = [line for line in log.read().splitlines() if line.strip()][-5:]
            works, told = False, "; ".join(last) or (why if isinstance(exc, TimeoutError) else type(exc).__name__)
        if works:
            return f"Tried it as {client.title} starts it: {told}, in {monotonic() - begun:.1f} s."
    raise ConfigurationError(
        f"The server does not work as {client.title} would start it ({parameters.command}): {told} "
        "Nothing was written; `agentapi-mcp doctor` tells more, and --force writes it all the same."
    )


async def _shake_hands(client: McpClient, parameters: StdioServerParameters, log: TextIO) -> tuple[bool, str]:
    """Tell whether the server works, and what of it can be used, or what it says instead."""
    info = Implementation(name=f"agentapi-mcp connect ({client.title})", version=VERSION)
    async with Client(stdio_client(parameters, errlog=log), client_info=info) as session:
        tools = (await session.list_tools()).tools
        answer = await session.call_tool("list_agents", {})
    said: object = answer.structured_content
    if answer.is_error or not is_object(said):
        return False, " ".join(part.text for part in answer.content if isinstance(part, TextContent))
    agents = map(as_object, as_list(said["agents"]))
    ready = [str(agent["name"]) for agent in agents if agent["enabled"] and not agent["missing"]]
    return True, f"{len(tools)} tools; agents that can be used: {', '.join(ready) or 'none'}"
