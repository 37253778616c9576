"""Uninstall: the clients' entries first, then the servers that they share, then the home."""

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agentapi_mcp.app import backups, homes
from agentapi_mcp.app.homes import Left, Part
from agentapi_mcp.base.errors import ConfigurationError, ConflictError, StoreUnavailableError
from agentapi_mcp.base.text import number_of
from agentapi_mcp.cli.config_files import backups_of, read_config
from agentapi_mcp.cli.configured import read_settings
from agentapi_mcp.cli.connecting import ConnectOptions, disconnect
from agentapi_mcp.cli.consent import ask, size
from agentapi_mcp.cli.known_clients import NAMES, find_client
from agentapi_mcp.cli.mcp_clients import env_of, is_ours
from agentapi_mcp.cli.outputs import error_fields, fail, print_json
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.environ import environment, platform
from agentapi_mcp.resident.control import find_servers, stop
from agentapi_mcp.resident.environment import Environment
from agentapi_mcp.resident.place import run_of
from agentapi_mcp.settings import Settings


@dataclass(frozen=True, slots=True)
class Entry:
    """This server in a client's configuration."""

    client: str
    name: str
    path: Path
    copies: tuple[Path, ...]


async def uninstall(*, yes: bool, as_json: bool) -> None:
    """Say what is there and what will go, ask, check all of it, and remove it.

    Raises:
        ConflictError: a server does not end.
        StoreBusyError: the database is in use.
        StoreUnavailableError: something cannot be removed; before anything is, or the rest is gone.
    """
    settings = read_settings()
    environ = environment()
    entries, parts = _entries(settings, environ), homes.parts(settings, environ)
    servers = find_servers(environ)
    _tell(settings, entries, parts, running=len(servers))
    is_bare = not entries and not servers and not any(part.is_ours for part in parts)
    if is_bare:
        print_err("There is nothing to remove.")
    else:
        ask("Remove that? `agentapi-mcp backup FILE` keeps what is in the database.", yes=yes)
    _check_files(entries)
    if any([not stop(server, force=False) for server in servers]):  # noqa: C419  # each of them is told to end
        raise ConflictError(
            "A server that clients share does not end: quit the clients, run `agentapi-mcp stop --force`, then try "
            "again. Nothing was removed."
        )
    await asyncio.to_thread(homes.check_removable, settings, environ)
    left = [*await _disconnected(entries), *await asyncio.to_thread(homes.remove_home, settings, environ)]
    _remove_run(environ)
    kept = homes.parts(settings, environ)
    what = "; ".join(f"{each.path} ({each.reason})" for each in left)
    error = StoreUnavailableError(f"Not all of it could be removed: {what}. Mend that, and uninstall again.")
    if as_json:
        failed = {"failed": [asdict(each) for each in left]} | ({"error": error_fields(error)} if left else {})
        print_json(_json(settings, environ, entries, parts, kept) | failed)
    else:
        if not is_bare:
            _print_removed(settings, environ, entries)
        _print_rest(entries, kept)
    if left:
        fail(error, is_told=as_json)


def _check_files(entries: Sequence[Entry]) -> None:
    for entry in entries:
        if not os.access(entry.path.parent, os.W_OK | os.X_OK):
            raise ConfigurationError(
                f"{entry.path} cannot be changed: its directory is read-only, or another user's. Nothing was removed."
            )


async def _disconnected(entries: Sequence[Entry]) -> list[Left]:
    left = list[Left]()
    for entry in entries:
        try:
            await disconnect(ConnectOptions(client=entry.client, name=entry.name))
        except ConfigurationError as exc:
            left.append(Left(entry.path, str(exc)))
    return left


def _entries(settings: Settings, environ: Mapping[str, str]) -> list[Entry]:
    """Find this server, of this home, in the configurations of all known clients."""
    home = os.path.realpath(homes.home_of(settings, environ))
    found = list[Entry]()
    for name in NAMES:
        try:
            client = find_client(name, platform(), environ)
            config = read_config(client, client.file)
            servers = {} if config.text is None else client.format.servers(config.text)
        except ConfigurationError as exc:
            print_err(f"{name} is left as it is: {exc}")
            continue
        for server, entry in servers.items():
            its_home = env_of(entry).get("AGENTAPI_HOME") or str(homes.default_home(environ))
            if is_ours(entry) and os.path.realpath(str(its_home)) == home:
                found.append(Entry(name, server, config.path, tuple(backups_of(config.path))))
    return found


def _tell(settings: Settings, entries: Sequence[Entry], parts: Sequence[Part], *, running: int) -> None:
    goes = [f"the server {entry.name} in {entry.path}" for entry in entries]
    if running:
        goes.append(f"{number_of(running, 'running server')} that clients share")
    goes += [f"{part.path}: {part.what}, {size(part.size)}" for part in parts if part.is_ours]
    stays = [f"{part.path}: {size(part.size)}, yours" for part in parts if not part.is_ours]
    if settings.config is not None:
        stays.append(f"{settings.config}: the configuration file")
    if not backups.is_embedded(settings):
        place = backups.place_name(settings, environment())
        stays.append(f"{place}: `agentapi-mcp reset` removes what the program has there, before this")
    going = ["Will go:", *map(_indented, goes)] if goes else []
    for line in [*going, "Will stay:", *map(_indented, [*stays, "the program itself"])]:
        print_err(line)


def _indented(line: str) -> str:
    return f"  {line}"


def _remove_run(environ: Mapping[str, str]) -> None:
    """Remove the sockets of shared servers where they are not in the home."""
    home = Environment({os.fsencode(key): os.fsencode(value) for key, value in environ.items()}).home()
    run = run_of(home)
    if Path(run).parent != Path(os.fsdecode(home)):  # there, it is a part of the home, and may be the user's
        shutil.rmtree(run, ignore_errors=True)


def _print_removed(settings: Settings, environ: Mapping[str, str], entries: Sequence[Entry]) -> None:
    of_clients = f"this server in {number_of(len(entries), 'client')}, and " if entries else ""
    print_out(f"Removed: {of_clients}what was in {homes.home_of(settings, environ)}.")


def _print_rest(entries: Sequence[Entry], kept: Sequence[Part]) -> None:
    for part in kept:
        print_out(f"Kept: {part.path}")
    for path in sorted({path for entry in entries for path in entry.copies if path.exists()}):
        print_out(f"Kept: {path}, a client's file from before `connect`; remove it once the client works.")
    print_out(
        "The program goes by `pip uninstall agentapi-mcp`, or with its clone; of uvx by `uv cache clean agentapi-mcp`."
    )


def _json(
    settings: Settings,
    environ: Mapping[str, str],
    entries: Sequence[Entry],
    parts: Sequence[Part],
    kept: Sequence[Part],
) -> dict[str, object]:
    return {
        "home": str(homes.home_of(settings, environ)),
        "clients": [{"client": e.client, "server": e.name, "file": str(e.path)} for e in entries],
        "removed": [{"path": str(p.path), "bytes": p.size} for p in parts if p.is_ours],
        "kept": [{"path": str(p.path), "bytes": p.size} for p in kept],
    }
